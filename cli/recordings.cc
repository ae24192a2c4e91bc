#include "cli/recordings.h"

#include "base/file.h"
#include "cli/limits.h"

namespace thaw {

Result<void> export_recordings(PageClient& client, SnapshotId snapshot,
                               const std::vector<message::RecordingSummary>& recordings,
                               const std::string& path) {
  PartialFile file = TRY(PartialFile::create(path));
  std::uint64_t at = 0;
  for (const message::RecordingSummary& summary : recordings) {
    const Bytes sealed = encode_recording(TRY(client.recording(snapshot, summary.number)));
    TRY(write_at(file.fd(), sealed, at));
    at += sealed.size();
  }
  return file.publish();
}

Result<std::vector<Recording>> read_recordings(const std::string& path) {
  const UniqueFd file = TRY(open_for_reading(path));
  const std::uint64_t size = TRY(file_size(file)).value;
  if (size > limits::kMaxRecordingsFileBytes) {
    return fail(ErrorCode::kTooLarge, "{} has {} bytes", path, size);
  }
  Bytes content(size);
  TRY(read_at(file, content, 0));
  auto recordings = decode_recordings(content);
  if (!recordings) {
    return fail(recordings.error().code(), "{}: {}", path, recordings.error().context());
  }
  if (recordings->empty()) return fail(ErrorCode::kMalformed, "{} has no recording", path);
  return recordings;
}

Result<std::size_t> import_recordings(ServerList& servers, const std::string& snapshot,
                                      const std::string& path) {
  const std::vector<Recording> recordings = TRY(read_recordings(path));
  SnapshotId into;
  // The first one finds out whether a server takes them.
  PageClient client = TRY(servers.connect([&](PageClient& begun) -> Result<void> {
    const Manifest manifest = TRY(begun.show(snapshot));
    for (std::size_t i = 0; i < recordings.size(); ++i) {
      if (const auto checked = check_recording(recordings[i], manifest); !checked) {
        return fail(checked.error().code(), "recording {} of {}: {}", i + 1, path,
                    checked.error().context());
      }
    }
    into = manifest.snapshot;
    return begun.put_recording(into, recordings.front());
  }));
  for (const Recording& recording : std::span(recordings).subspan(1)) {
    TRY(client.put_recording(into, recording));
  }
  return recordings.size();
}

Result<PageCount> memory_of(const Recording& recording) {
  const std::vector<RegionShape>& regions = recording.regions;
  if (regions.empty()) return PageCount{0};
  const ByteCount memory{regions.back().offset.value + regions.back().size.value};
  TRY(check_regions(regions, memory));
  return pages_for(memory);
}

}  // namespace thaw
