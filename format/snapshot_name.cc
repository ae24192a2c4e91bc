#include "format/snapshot_name.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "format/hash.h"

namespace thaw {

namespace {

constexpr std::string_view kContentMark = "@sha256:";

}  // namespace

Result<SnapshotName> parse_snapshot_name(const std::string& text) {
  const std::size_t mark = text.rfind(kContentMark);
  if (mark == std::string::npos) return SnapshotName{text, {}};
  std::string content = text.substr(mark + kContentMark.size());
  std::ranges::transform(content, content.begin(), [](char c) {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c;
  });
  const bool digits = content.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!digits || content.size() != 2 * sizeof(Sha256)) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\": behind {} come {} hexadecimal digits", text,
                kContentMark, 2 * sizeof(Sha256));
  }
  return SnapshotName{text.substr(0, mark), std::move(content)};
}

}  // namespace thaw
