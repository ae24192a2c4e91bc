#include "tests/sim/sim_store.h"

#include <algorithm>

namespace thaw::sim {

Result<std::optional<NamespaceId>> SimStore::find_namespace(const std::string& name) {
  if (name != snapshot_.image->origin.name_space) return std::nullopt;
  return NamespaceId{1};
}

Result<Bytes> SimStore::manifest(NamespaceId, const std::string& name) {
  if (name != snapshot_.image->manifest.spec.name) return fail(ErrorCode::kNotFound, "{}", name);
  return encode_manifest(snapshot_.image->manifest);
}

Result<Bytes> SimStore::manifest(NamespaceId, SnapshotId snapshot) {
  if (snapshot != snapshot_.image->manifest.snapshot) {
    return fail(ErrorCode::kNotFound, "snapshot {}", snapshot.value);
  }
  return encode_manifest(snapshot_.image->manifest);
}

Result<void> SimStore::maybe_refuse() {
  if (!schedule_.random().chance(faults_.refused)) return {};
  has_failed_ = true;
  schedule_.note("the store refuses");
  return fail(ErrorCode::kIo, "the disk says no");
}

void SimStore::damage(Bytes& stored) {
  Random& random = schedule_.random();
  has_failed_ = true;
  schedule_.note("the store reads damaged bytes");
  // Behind the header, whose damage would lose the whole connection, mostly.
  const std::size_t first = random.chance(900) ? kChunkHeaderBytes : 0;
  stored[first + random.below(stored.size() - first)] ^= std::byte(1 + random.below(255));
}

Result<ChunkRead> SimStore::read_chunks(std::span<const ChunkId> ids, std::size_t optional) {
  TRY(maybe_refuse());
  Random& random = schedule_.random();
  std::size_t count = ids.size();
  if (random.chance(faults_.cold)) count -= random.below(optional + 1);
  auto copies = std::make_shared<std::vector<Bytes>>();
  for (const ChunkId id : ids.first(count)) {
    if (id.sequence() == 0 || id.sequence() > snapshot_.chunks.size()) {
      return fail(ErrorCode::kNotFound, "chunk {:#x}", id.value);
    }
    copies->push_back(snapshot_.chunks[id.sequence() - 1]);
  }
  if (count > 0 && random.chance(faults_.damaged)) {
    // Bits that turned, or another chunk in its place.
    Bytes& damaged = (*copies)[random.below(count)];
    const Bytes& other = snapshot_.chunks[random.below(snapshot_.chunks.size())];
    if (random.chance(500) || damaged == other) {
      damage(damaged);
    } else {
      has_failed_ = true;
      schedule_.note("the store reads another chunk");
      damaged = other;
    }
  }
  ChunkRead read;
  for (const Bytes& copy : *copies) read.chunks.emplace_back(copy);
  read.pin = std::move(copies);
  return read;
}

Result<PackRead> SimStore::pack(NamespaceId, const PackId& id) {
  TRY(maybe_refuse());
  const WorkingSet& set = snapshot_.working_set;
  if (id.snapshot != set.snapshot || id.generation != set.generation ||
      id.number >= snapshot_.packs.size()) {
    return fail(ErrorCode::kNotFound, "pack {}", id.number);
  }
  auto copy = std::make_shared<Bytes>(snapshot_.packs[id.number]);
  if (schedule_.random().chance(faults_.damaged)) damage(*copy);
  const ByteSpan bytes(*copy);
  return PackRead{bytes, std::move(copy)};
}

}  // namespace thaw::sim
