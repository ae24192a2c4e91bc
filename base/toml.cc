#define TOML_IMPLEMENTATION
#include "base/toml.h"

#include <sstream>

namespace thaw {

namespace {

std::string place_of(const toml::source_region& region) {
  std::ostringstream place;
  place << region.begin;
  return place.str();
}

}  // namespace

Result<toml::table> parse_toml(std::string_view text) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    return fail(ErrorCode::kInvalidArgument, "{} at {}", error.description(),
                place_of(error.source()));
  } catch (const std::logic_error& error) {
    return fail(ErrorCode::kInvalidArgument, "{}", error.what());
  }
}

std::unexpected<Error> refuse_toml(const toml::node& node, std::string_view what) {
  return fail(ErrorCode::kInvalidArgument, "{} at {}", what, place_of(node.source()));
}

}  // namespace thaw
