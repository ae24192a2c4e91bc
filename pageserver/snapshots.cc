#include "pageserver/snapshots.h"

#include "format/limits.h"

namespace thaw {

Result<PageMap> read_page_map(Store& store, NamespaceId in, SnapshotId snapshot,
                              const MapAdmission& admit) {
  const Bytes sealed = TRY(store.manifest(in, snapshot));
  const auto unreadable = [&](const Error& error) -> Result<PageMap> {
    // Either the snapshot was removed in between, or it is damaged.
    TRY(store.manifest(in, snapshot));
    return fail(ErrorCode::kCorrupt, "snapshot {}: {}", snapshot.value, error.message());
  };
  const auto manifest = decode_manifest(sealed);
  if (!manifest) return unreadable(manifest.error());
  const PageCount pages = manifest->spec.image_pages();
  PageMap map;
  for (std::uint32_t i = 0; map.size() < pages; ++i) {
    const auto segment = store.page_map_segment(in, snapshot, i);
    if (!segment) return unreadable(segment.error());
    const auto memory = map.memory_with(*segment);
    if (!memory) return unreadable(memory.error());
    if (admit) TRY(admit(*memory));
    const auto appended = map.append_segment(*segment, pages - map.size());
    if (!appended) return unreadable(appended.error());
  }
  return map;
}

Result<std::vector<Manifest>> all_manifests(Store& store, NamespaceId in) {
  constexpr Store::ListingPart kPart{.most = limits::kMaxSnapshotsPerListing,
                                     .bytes = limits::kMaxBodyBytes};
  std::vector<Manifest> all;
  while (true) {
    const std::string after = all.empty() ? std::string() : all.back().spec.name;
    const auto sealed = TRY(store.manifests(in, after, kPart));
    std::size_t bytes = 0;
    for (const Bytes& manifest : sealed) {
      bytes += manifest.size();
      all.push_back(TRY(decode_manifest(manifest)));
    }
    if (!kPart.filled_by(sealed.size(), bytes)) return all;
  }
}

Result<bool> remove_unless_pinned(Store& store, SnapshotPins& pins, NamespaceId in,
                                  SnapshotId snapshot) {
  return pins.unless_pinned(in, snapshot, [&] { return store.remove(in, snapshot); });
}

Result<ByteCount> stored_bytes(Store& store, const ChunkSet& chunks, JobControl& control) {
  constexpr std::size_t kBatch = limits::kMaxChunksPerRequest;
  ByteCount total{0};
  for (auto batch = chunks.from(kNoChunk, kBatch); !batch.empty();
       batch = chunks.from({batch.back().value + 1}, kBatch)) {
    const EachChunkRead read = store.chunk_upkeep().read_each(batch);
    ByteCount bytes{0};
    for (const Result<ByteSpan>& chunk : read.chunks) {
      if (chunk) bytes += ByteCount{chunk->size()};
    }
    total += bytes;
    TRY(control.pace(bytes));
  }
  return total;
}

}  // namespace thaw
