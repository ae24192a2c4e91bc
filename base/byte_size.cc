#include "base/byte_size.h"

#include <charconv>

namespace thaw {

Result<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  constexpr std::string_view kUnits = "KMGT";
  const std::size_t place = unit.size() == 1 ? kUnits.find(unit.front()) : std::string_view::npos;
  const unsigned shift = unit.empty() ? 0 : 10 * static_cast<unsigned>(place + 1);
  if (error != std::errc{} || (!unit.empty() && place == std::string_view::npos) ||
      value > (std::uint64_t{1} << 50) >> shift) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is no size such as 512M", text);
  }
  return value << shift;
}

}  // namespace thaw
