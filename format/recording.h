#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "format/manifest.h"

namespace thaw {

/// How a page came into a guest: a vCPU asked for it, or it was brought before anybody did.
enum class TouchKind : std::uint8_t { kDemand = 0, kPrefetch = 1 };

/// The first touch of a page by a restored guest, or in a trace the moment when it was brought.
struct Touch {
  PageIndex page;
  std::uint32_t us = 0;  // since the first touch; in a trace since the VMM handed its memory over
  TouchKind kind = TouchKind::kDemand;
  friend bool operator==(const Touch&, const Touch&) = default;
};

/// What one restored guest touched, in order, during a window after its restore. A recording that
/// working sets are made of has demands alone, each page once: it was made without prefetch and
/// fault-around. A trace, which is for people, has what was brought as well. A value.
struct Recording {
  Sha256 content_hash{};  // of the snapshot
  std::uint64_t created_unix_ms = 0;
  std::vector<RegionShape> regions;  // as they were handed over, by offset
  std::vector<Touch> touches;        // times never decrease
  friend bool operator==(const Recording&, const Recording&) = default;
};

/// REQUIRES: at most limits::kMaxRegions regions, at most limits::kMaxTouches touches, times that
/// never decrease.
Bytes encode_recording(const Recording& recording);

/// kTooLarge, kMalformed for pages beyond a snapshot's limit, and what open_envelope() says.
Result<Recording> decode_recording(ByteSpan sealed);
/// Of a file that has sealed recordings one after the other, at most limits::kMaxRecordings.
Result<std::vector<Recording>> decode_recordings(ByteSpan file);

/// Whether a working set of `snapshot` may be made of it: recorded on the same content, demands
/// alone, each of them a page of guest memory, none twice. kInvalidArgument.
Result<void> check_recording(const Recording& recording, const Manifest& snapshot);

}  // namespace thaw
