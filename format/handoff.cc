#include "format/handoff.h"

#include <nlohmann/json.hpp>

#include "format/limits.h"

namespace thaw {

namespace {

using Json = nlohmann::json;

constexpr const char* kTrackWrites = "track_writes";

/// An unsigned member of `object`; nothing when it is absent, an error when it is something else.
Result<std::optional<std::uint64_t>> unsigned_member(const Json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end()) return std::optional<std::uint64_t>();
  if (!found->is_number_unsigned()) {
    return fail(ErrorCode::kMalformed, "handoff: {} is not an unsigned integer", name);
  }
  return std::optional(found->get<std::uint64_t>());
}

Result<std::uint64_t> required_member(const Json& object, const char* name) {
  const auto value = TRY(unsigned_member(object, name));
  if (!value) return fail(ErrorCode::kMalformed, "handoff: a region without {}", name);
  return *value;
}

Result<WriteTracking> tracking_member(const Json& object) {
  const auto found = object.find(kTrackWrites);
  if (found == object.end()) return WriteTracking::kOff;
  if (!found->is_boolean()) {
    return fail(ErrorCode::kMalformed, "handoff: {} is neither true nor false", kTrackWrites);
  }
  return found->get<bool>() ? WriteTracking::kOn : WriteTracking::kOff;
}

Result<HandoffRegion> decode_region(const Json& object) {
  if (!object.is_object()) return fail(ErrorCode::kMalformed, "handoff: a region is no object");
  HandoffRegion region;
  region.base = {TRY(required_member(object, "base_host_virt_addr"))};
  region.size = {TRY(required_member(object, "size"))};
  region.offset = {TRY(required_member(object, "offset"))};
  const auto page_size = TRY(unsigned_member(object, "page_size"));
  const auto older = TRY(unsigned_member(object, "page_size_kib"));
  region.page_size = {page_size.value_or(older.value_or(kPageBytes))};
  region.tracking = TRY(tracking_member(object));
  return region;
}

}  // namespace

Result<void> HandoffScanner::feed_byte(char c) {
  const bool space = c == ' ' || c == '\t' || c == '\r' || c == '\n';
  if (ended_ || depth_ == 0) {
    if (space) return {};
    if (ended_) return fail(ErrorCode::kMalformed, "handoff: bytes after the array");
    if (c != '[') return fail(ErrorCode::kMalformed, "handoff: not a JSON array");
    depth_ = 1;
  } else if (in_string_) {
    if (!escaped_ && c == '"') in_string_ = false;
    escaped_ = !escaped_ && c == '\\';
  } else if (c == '"') {
    in_string_ = true;
  } else if (c == '[' || c == '{') {
    ++depth_;
  } else if (c == ']' || c == '}') {
    ended_ = --depth_ == 0;
  }
  return {};
}

Result<bool> HandoffScanner::feed(ByteSpan piece) {
  for (const char c : as_text(piece)) TRY(feed_byte(c));
  return ended_;
}

Result<std::vector<HandoffRegion>> decode_handoff(std::string_view json) {
  // The parser would take a zero byte for the end of the text.
  if (json.find('\0') != json.npos) {
    return fail(ErrorCode::kMalformed, "handoff: a zero byte");
  }
  const Json array = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!array.is_array()) return fail(ErrorCode::kMalformed, "handoff: not a JSON array");
  if (array.size() > limits::kMaxRegions) {
    return fail(ErrorCode::kTooLarge, "handoff: {} regions", array.size());
  }
  std::vector<HandoffRegion> regions;
  for (const Json& object : array) regions.push_back(TRY(decode_region(object)));
  return regions;
}

std::string encode_handoff(const std::vector<HandoffRegion>& regions) {
  Json array = Json::array();
  for (const HandoffRegion& region : regions) {
    array.push_back({{"base_host_virt_addr", region.base.value},
                     {"size", region.size.value},
                     {"offset", region.offset.value},
                     {"page_size", region.page_size.value},
                     {"page_size_kib", region.page_size.value}});
    if (region.tracking == WriteTracking::kOn) array.back()[kTrackWrites] = true;
  }
  return array.dump();
}

}  // namespace thaw
