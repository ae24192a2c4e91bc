#include "format/recording.h"

#include <algorithm>

#include "base/check.h"
#include "format/envelope.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr EnvelopeKind kRecording{.magic = 0x31'43'52'54,  // "TRC1"
                                  .version = 1,
                                  .most_plain_bytes = limits::kMaxRecordingBytes,
                                  .name = "recording"};

Result<std::vector<RegionShape>> read_regions(VarintReader& reader) {
  const std::uint64_t count = reader.next();
  if (count > limits::kMaxRegions) {
    return fail(ErrorCode::kTooLarge, "a recording with {} regions", count);
  }
  std::vector<RegionShape> regions;
  for (std::uint64_t i = 0; i < count && reader.ok(); ++i) {
    RegionShape& region = regions.emplace_back();
    region.size.value = reader.next();
    region.offset.value = reader.next();
    region.page_size.value = reader.next();
  }
  return regions;
}

Result<std::vector<Touch>> read_touches(VarintReader& reader) {
  const std::uint64_t count = reader.next();
  if (count > limits::kMaxTouches) {
    return fail(ErrorCode::kTooLarge, "a recording of {} touches", count);
  }
  std::vector<Touch> touches;
  touches.reserve(count);
  std::uint64_t page = 0;
  std::uint64_t us = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t head = reader.next();
    const std::int64_t step = reader.next_signed();
    us += head >> 1;
    page += static_cast<std::uint64_t>(step);
    if (!reader.ok()) return fail(ErrorCode::kTruncated, "a recording ends in a touch");
    if (page >= limits::kMaxImagePages || head >> 1 > UINT32_MAX || us > UINT32_MAX) {
      return fail(ErrorCode::kMalformed, "a touch of page {} after {} us", page, us);
    }
    touches.push_back({.page = {page},
                       .us = static_cast<std::uint32_t>(us),
                       .kind = (head & 1) == 0 ? TouchKind::kDemand : TouchKind::kPrefetch});
  }
  return touches;
}

}  // namespace

Bytes encode_recording(const Recording& recording) {
  CHECK(recording.touches.size() <= limits::kMaxTouches);
  Bytes plain(recording.content_hash.begin(), recording.content_hash.end());
  append_varint(plain, recording.created_unix_ms);
  append_varint(plain, recording.regions.size());
  for (const RegionShape& region : recording.regions) {
    append_varint(plain, region.size.value);
    append_varint(plain, region.offset.value);
    append_varint(plain, region.page_size.value);
  }
  append_varint(plain, recording.touches.size());
  std::uint64_t page = 0;
  std::uint32_t us = 0;
  for (const Touch& touch : recording.touches) {
    CHECK(touch.us >= us);
    append_varint(plain, std::uint64_t{touch.us - us} << 1 | static_cast<unsigned>(touch.kind));
    append_signed_varint(plain, static_cast<std::int64_t>(touch.page.value - page));
    page = touch.page.value;
    us = touch.us;
  }
  return seal_envelope(kRecording, plain);
}

Result<Recording> decode_recording(ByteSpan sealed) {
  const Bytes plain = TRY(open_envelope(kRecording, sealed));
  Recording recording;
  if (plain.size() < recording.content_hash.size()) {
    return fail(ErrorCode::kTruncated, "a recording of {} bytes", plain.size());
  }
  std::ranges::copy_n(plain.begin(), recording.content_hash.size(), recording.content_hash.begin());
  VarintReader reader(ByteSpan(plain).subspan(recording.content_hash.size()));
  recording.created_unix_ms = reader.next();
  recording.regions = TRY(read_regions(reader));
  recording.touches = TRY(read_touches(reader));
  if (!reader.ok()) return fail(ErrorCode::kTruncated, "a recording without its touches");
  if (!reader.at_end()) return fail(ErrorCode::kMalformed, "bytes after the last touch");
  return recording;
}

Result<std::vector<Recording>> decode_recordings(ByteSpan file) {
  std::vector<Recording> recordings;
  while (!file.empty()) {
    if (recordings.size() == limits::kMaxRecordings) {
      return fail(ErrorCode::kTooLarge, "a file of more than {} recordings", recordings.size());
    }
    const std::size_t size = TRY(sealed_bytes(file));
    recordings.push_back(TRY(decode_recording(file.first(size))));
    file = file.subspan(size);
  }
  return recordings;
}

Result<void> check_recording(const Recording& recording, const Manifest& snapshot) {
  if (recording.content_hash != snapshot.content_hash) {
    return fail(ErrorCode::kInvalidArgument, "recorded on a snapshot of other content");
  }
  std::vector<bool> seen(snapshot.spec.memory_pages().value);
  for (const Touch& touch : recording.touches) {
    if (touch.kind != TouchKind::kDemand) {
      return fail(ErrorCode::kInvalidArgument, "a trace with prefetched pages is no recording");
    }
    if (touch.page.value >= seen.size() || seen[touch.page.value]) {
      return fail(ErrorCode::kInvalidArgument, "page {} is no memory or was touched before",
                  touch.page.value);
    }
    seen[touch.page.value] = true;
  }
  return {};
}

}  // namespace thaw
