#include "cli/arguments.h"

#include <charconv>

#include "base/types.h"

namespace thaw {

namespace {

Result<std::uint32_t> parse_id(std::string_view text) {
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc{} || end != text.data() + text.size()) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is no user or group id", text);
  }
  return id;
}

}  // namespace

Result<std::uint64_t> parse_duration(std::string_view text) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 32;  // some 136 years
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  std::uint64_t seconds = 1;
  if (unit == "m") seconds = 60;
  if (unit == "h") seconds = 3600;
  if (unit == "d") seconds = 86400;
  if (error != std::errc{} || (seconds == 1 && !unit.empty() && unit != "s") ||
      value > kMost / seconds) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is no time such as 36h or 7d", text);
  }
  return value * seconds;
}

Result<std::vector<RegionShape>> parse_regions(const std::vector<std::string>& texts) {
  std::vector<RegionShape> regions;
  ImageOffset offset{0};
  for (const std::string& text : texts) {
    const std::size_t colon = text.find(':');
    const ByteCount size{TRY(parse_size(std::string_view(text).substr(0, colon)))};
    ByteCount page_size{kPageBytes};
    if (colon != std::string::npos) {
      page_size = {TRY(parse_size(std::string_view(text).substr(colon + 1)))};
    }
    regions.push_back({size, offset, page_size});
    offset += size;
  }
  return regions;
}

Result<std::vector<Label>> parse_labels(const std::vector<std::string>& texts) {
  std::vector<Label> labels;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      return fail(ErrorCode::kInvalidArgument, "\"{}\" is not KEY=VALUE", text);
    }
    labels.push_back({text.substr(0, equals), text.substr(equals + 1)});
  }
  TRY(check_labels(labels));
  return labels;
}

Result<FileOwner> parse_owner(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is not UID:GID", text);
  }
  return FileOwner{TRY(parse_id(text.substr(0, colon))), TRY(parse_id(text.substr(colon + 1)))};
}

}  // namespace thaw
