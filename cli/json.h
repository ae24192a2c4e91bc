#pragma once

#include <nlohmann/json_fwd.hpp>

#include "base/error.h"

namespace thaw {

/// What commands print for programs: members in the order in which they are added.
using Json = nlohmann::ordered_json;

/// How an error is told.
Json error_json(const Error& error);

/// On stdout; text that is not UTF-8 is replaced.
void print_json(const Json& json);

}  // namespace thaw
