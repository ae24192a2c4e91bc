#include "format/snapshot_name.h"

#include <algorithm>
#include <string_view>

#include "format/hash.h"

namespace thaw {

namespace {

constexpr std::string_view kContentMark = "@sha256:";

}  // namespace

Result<SnapshotName> parse_snapshot_name(const std::string& text) {
  const std::size_t mark = text.rfind(kContentMark);
  if (mark == std::string::npos) return SnapshotName{text, {}};
  SnapshotName parsed{text.substr(0, mark), text.substr(mark + kContentMark.size())};
  std::ranges::transform(parsed.content, parsed.content.begin(), [](char c) {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c;
  });
  const bool digits = parsed.content.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!digits || parsed.content.size() != 2 * sizeof(Sha256)) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\": behind {} come {} hexadecimal digits", text,
                kContentMark, 2 * sizeof(Sha256));
  }
  return parsed;
}

}  // namespace thaw
