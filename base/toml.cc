#define TOML_IMPLEMENTATION
#include "base/toml.h"

#include <sstream>

#include "base/nearest.h"

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
    return fail(ErrorCode::kInvalidArgument, "{}: {}", place_of(error.source()),
                error.description());
  } catch (const std::logic_error& error) {
    return fail(ErrorCode::kInvalidArgument, "{}", error.what());
  }
}

std::unexpected<Error> refuse_toml(const toml::node& node, std::string_view what) {
  return fail(ErrorCode::kInvalidArgument, "{}: {}", place_of(node.source()), what);
}

std::unexpected<Error> refuse_toml(const toml::key& key, std::string_view what) {
  return fail(ErrorCode::kInvalidArgument, "{}: {}", place_of(key.source()), what);
}

std::unexpected<Error> refuse_unknown(const toml::key& key, std::string_view what,
                                      std::span<const std::string_view> known) {
  return refuse_toml(
      key, fmt::format("unknown {} \"{}\"{}", what, key.str(), did_you_mean(key.str(), known)));
}

}  // namespace thaw
