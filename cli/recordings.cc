#include "cli/recordings.h"

#include "base/input_file.h"
#include "cli/limits.h"

namespace thaw {

Result<Bytes> fetch_recordings(PageClient& client, SnapshotId snapshot,
                               const std::vector<message::RecordingSummary>& recordings) {
  Bytes content;
  for (const message::RecordingSummary& summary : recordings) {
    const Bytes sealed = encode_recording(TRY(client.recording(snapshot, summary.number)));
    content.insert(content.end(), sealed.begin(), sealed.end());
  }
  return content;
}

Result<std::vector<Recording>> read_recordings(const std::string& path) {
  const Bytes content = TRY(read_input(path, {limits::kMaxRecordingsFileBytes}));
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
