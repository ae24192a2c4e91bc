#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/types.h"

/// Every bound on what Thaw stores, sends and accepts. A peer that exceeds one is refused with
/// kTooLarge or kLimitExceeded; nothing is allocated before the check.
namespace thaw::limits {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Snapshots.
inline constexpr std::uint64_t kMaxImagePages = 1u << 28;  // 1 TiB of guest memory
inline constexpr std::uint64_t kMaxStatePages = 1u << 16;  // 256 MiB of VMM state
inline constexpr std::size_t kMaxRegions = 1024;
inline constexpr std::size_t kMaxNameBytes = 255;
inline constexpr std::size_t kMaxLabels = 64;
inline constexpr std::size_t kMaxLabelBytes = 1024;
inline constexpr std::size_t kMaxSnapshotsPerListing = 1024;
inline constexpr std::size_t kMaxTagsPerListing = 256;  // of at most two names each

// Page maps: one segment describes up to this many pages, so that a map of any size is moved,
// stored and decoded in bounded pieces.
inline constexpr std::uint64_t kSegmentPages = 1u << 16;
/// Of memory, of a page map: a snapshot of 16 GiB may have each page in a run of its own.
inline constexpr std::size_t kMaxMapBytes = 64u << 20;
/// A run of one page costs at most 4 bytes of length and 10 of chunk id.
inline constexpr std::size_t kMaxSegmentBytes = 64 + kSegmentPages * 14;

// Cold maps: a range takes at most two varints of five bytes.
inline constexpr std::size_t kMaxColdRanges = 1u << 17;
inline constexpr std::size_t kMaxColdMapBytes = 16 + kMaxColdRanges * 10;

// Working sets. A recording or a set of the most pages fits one message: a touch takes at most ten
// bytes, a page of a set twelve, the entry of a pack six.
inline constexpr std::size_t kMaxTouches = 1u << 17;  // 512 MiB of guest memory
inline constexpr std::size_t kMaxRecordingBytes = 64 + kMaxRegions * 30 + kMaxTouches * 10;
inline constexpr std::size_t kMaxWorkingSetBytes = 64 + kMaxTouches * 13;
inline constexpr std::size_t kMaxRecordings = 64;  // of a snapshot, whatever a server keeps
inline constexpr std::size_t kMinPackPages = 16;   // but for a set that has fewer
inline constexpr std::size_t kMaxPackPages = 64;
inline constexpr std::size_t kMaxPackBytes = 4096 + kMaxPackPages * (kPageBytes + 16);

// Wire.
inline constexpr std::size_t kMaxHeaderBytes = 256u << 10;  // Cap'n Proto part of a message
inline constexpr std::size_t kMaxBodyBytes = 2u << 20;      // raw part of a message
inline constexpr std::size_t kMaxChunksPerRequest = 256;
inline constexpr std::size_t kMaxPacksPerReport = 256;  // that came damaged
inline constexpr std::size_t kMaxOfferPages = 4096;     // 16 MiB of image
inline constexpr std::size_t kMaxPendingOffers = 16;  // of one push, each until its pages are there
inline constexpr std::size_t kMaxErrorTextBytes = 512;
inline constexpr std::size_t kMaxJobCounters = 32;
inline constexpr std::size_t kMaxJobFindings = 128;
inline constexpr std::size_t kMaxFindingBytes = 1024;

// Handoff and control.
inline constexpr std::size_t kMaxHandoffBytes = 512u << 10;
inline constexpr std::size_t kMaxHandoffDescriptors = 2;  // [userfaultfd, memfd or pidfd]
inline constexpr std::size_t kMaxControlBytes = 1u << 20;

// Times.
inline constexpr seconds kRequestTimeout{30};         // a reply to one request, except a commit
inline constexpr seconds kCommitTimeout{120};         // the store syncs all that a push wrote
inline constexpr seconds kPartialMessageTimeout{10};  // from a message's first byte to its last
inline constexpr seconds kIdlePushTimeout{60};        // between two messages of a push

static_assert(kMaxSegmentBytes <= kMaxBodyBytes);
static_assert(kSegmentPages * 32 <= kMaxBodyBytes, "the hashes of a segment's pages fit one body");
static_assert(kMaxColdMapBytes <= kMaxBodyBytes - 65'536, "compressed, too");
static_assert(kMaxRecordingBytes <= kMaxBodyBytes && kMaxWorkingSetBytes <= kMaxBodyBytes);
static_assert(kMaxOfferPages * 32 <= kMaxBodyBytes, "an offer's hashes fit one body");
static_assert(kMaxChunksPerRequest * (kPageBytes + 16) <= kMaxBodyBytes, "so do raw chunks");
static_assert(kMaxTagsPerListing * 2 * (kMaxNameBytes + 32) <= kMaxHeaderBytes);
static_assert(kMaxJobFindings * (kMaxFindingBytes + 32) <= kMaxHeaderBytes * 3 / 4);
static_assert(kMaxChunksPerRequest * 8 + kMaxPacksPerReport * 24 <= kMaxHeaderBytes / 2);

}  // namespace thaw::limits
