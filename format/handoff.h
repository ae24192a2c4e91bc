#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "base/userfaultfd.h"

namespace thaw {

/// The handoff: what a VMM says of its guest memory when it passes its userfaultfd. The form is
/// Firecracker's (GuestRegionUffdMapping in src/vmm/src/persist.rs, versions 1.1 to 1.12): a JSON
/// array of objects with base_host_virt_addr, size, offset and, by version, page_size and
/// page_size_kib, both in bytes whatever the name says. No length prefix, no newline.
struct HandoffRegion {
  HostAddress base;
  ByteCount size;
  ImageOffset offset;
  ByteCount page_size;
  /// How it is registered, and must be filled; "track_writes" in the text, where it is on. No
  /// Firecracker writes that.
  WriteTracking tracking = WriteTracking::kOff;
  friend bool operator==(const HandoffRegion&, const HandoffRegion&) = default;
};

/// What the handler of a shared session says first, together with a descriptor of the host image,
/// which the VMM maps privately and then hands over.
inline constexpr std::string_view kHostImageGreeting = "thaw image 1\n";

/// Finds the end of a JSON array that arrives in pieces, in one pass over the bytes.
class HandoffScanner {
 public:
  /// Feeds the next piece. True when the array's closing bracket has been seen; kMalformed when
  /// the text is no array or goes on after it.
  Result<bool> feed(ByteSpan piece);

 private:
  Result<void> feed_byte(char c);

  unsigned depth_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
  bool ended_ = false;
};

/// Decodes the whole text. Unknown fields are ignored, a missing page size is 4096, page_size goes
/// before page_size_kib. kMalformed for anything that is no such array, kTooLarge beyond
/// limits::kMaxRegions. The values are not checked against anything: see check_handoff().
Result<std::vector<HandoffRegion>> decode_handoff(std::string_view json);

/// The text as the newest Firecracker writes it, both page size fields included.
std::string encode_handoff(const std::vector<HandoffRegion>& regions);

}  // namespace thaw
