#pragma once

#include <nlohmann/json.hpp>

namespace thaw {

/// What commands print for programs: members in the order in which they are added.
using Json = nlohmann::ordered_json;

/// On stdout; text that is not UTF-8 is replaced.
void print_json(const Json& json);

}  // namespace thaw
