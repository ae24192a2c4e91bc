#include "tests/support/memory_store.h"

#include <algorithm>

#include "base/check.h"

namespace thaw::test {

namespace {

template <typename Map>
auto from(const Map& map, const typename Map::key_type& after) {
  return after == typename Map::key_type{} ? map.begin() : map.upper_bound(after);
}

std::unexpected<Error> not_found(const char* what) {
  return fail(ErrorCode::kNotFound, "there is no such {}", what);
}

}  // namespace

Result<std::optional<NamespaceId>> MemoryStore::find_namespace(const std::string& name) {
  const auto found = names_.find(name);
  if (found == names_.end()) return std::optional<NamespaceId>();
  return std::optional(found->second);
}

Result<std::vector<NamedNamespace>> MemoryStore::namespaces() {
  std::vector<NamedNamespace> all;
  for (const auto& [name, id] : names_) all.push_back({name, id});
  return all;
}

Result<NamespaceId> MemoryStore::open_namespace(const std::string& name) {
  const auto [entry, is_new] = names_.try_emplace(name, NamespaceId{});
  if (is_new) entry->second = {++last_namespace_};
  return entry->second;
}

Result<void> MemoryStore::remove_namespace(const std::string& name) {
  const auto found = names_.find(name);
  if (found == names_.end()) return not_found("namespace");
  const Namespace& here = of(found->second);
  if (!here.snapshots.empty() || !here.hashes.empty()) return fail(ErrorCode::kBusy, "not empty");
  names_.erase(found);
  return {};
}

Result<void> MemoryStore::set_settings(NamespaceId in, const message::NamespaceSettings& settings) {
  of(in).settings = settings;
  return {};
}

Result<std::vector<ChunkId>> MemoryStore::find_chunks(NamespaceId in, std::span<const Sha256> all) {
  std::vector<ChunkId> ids;
  for (const Sha256& hash : all) {
    const auto found = of(in).hashes.find(hash);
    ids.push_back(found == of(in).hashes.end() ? kNoChunk : found->second);
  }
  return ids;
}

Result<ChunkRead> MemoryStore::read_chunks(std::span<const ChunkId> ids, std::size_t optional) {
  CHECK(optional <= ids.size());
  ChunkRead read;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto found = chunks_.find(ids[i]);
    if (found == chunks_.end() && i >= ids.size() - optional) break;
    if (found == chunks_.end()) return not_found("chunk");
    read.chunks.push_back(found->second);
  }
  return read;
}

EachChunkRead MemoryStore::read_each(std::span<const ChunkId> ids) {
  EachChunkRead read;
  for (const ChunkId id : ids) {
    const auto found = chunks_.find(id);
    if (found == chunks_.end()) {
      read.chunks.push_back(not_found("chunk"));
    } else {
      read.chunks.push_back(ByteSpan(found->second));
    }
  }
  return read;
}

Result<std::vector<StoredChunk>> MemoryStore::put_chunks(NamespaceId in,
                                                         std::span<const NewChunk> chunks,
                                                         const GrowthAdmission&) {
  Namespace& here = of(in);
  std::vector<StoredChunk> stored;
  for (const NewChunk& chunk : chunks) {
    const auto known = here.hashes.find(chunk.hash);
    if (known != here.hashes.end()) {
      stored.push_back({known->second, false});
      continue;
    }
    const ChunkId id = ChunkId::of(in.value, 0, ++here.last_chunk);
    Bytes sealed(chunk.chunk.begin(), chunk.chunk.end());
    reseal_chunk(sealed, chunk.plain, id);
    ++here.totals.chunks;
    here.totals.chunk_bytes += sealed.size();
    chunks_[id] = std::move(sealed);
    here.hashes[chunk.hash] = id;
    stored.push_back({id, true});
  }
  return stored;
}

Result<MemoryStore::Snapshot*> MemoryStore::find(NamespaceId in, SnapshotId snapshot) {
  const auto found = of(in).snapshots.find(snapshot);
  if (found == of(in).snapshots.end()) return not_found("snapshot");
  return &found->second;
}

Result<SnapshotId> MemoryStore::find_snapshot(NamespaceId in, const std::string& name) {
  const auto found = of(in).names.find(name);
  if (found == of(in).names.end()) return not_found("snapshot");
  return found->second;
}

Result<Bytes> MemoryStore::manifest(NamespaceId in, const std::string& name) {
  if (const auto named = find_snapshot(in, name)) return manifest(in, *named);
  const auto tagged = of(in).tags.find(name);
  if (tagged == of(in).tags.end()) return not_found("snapshot");
  return manifest(in, tagged->second);
}

Result<Bytes> MemoryStore::manifest(NamespaceId in, SnapshotId snapshot) {
  const Snapshot* const found = TRY(find(in, snapshot));
  return encode_manifest(found->manifest);
}

Result<std::vector<Bytes>> MemoryStore::manifests(NamespaceId in, const std::string& after,
                                                  const ListingPart& part) {
  std::vector<Bytes> all;
  std::size_t bytes = 0;
  const auto& names = of(in).names;
  for (auto at = from(names, after); at != names.end() && !part.filled_by(all.size(), bytes);
       ++at) {
    all.push_back(TRY(manifest(in, at->second)));
    bytes += all.back().size();
  }
  return all;
}

Result<std::vector<SnapshotId>> MemoryStore::snapshots(NamespaceId in, SnapshotId after) {
  std::vector<SnapshotId> all;
  const auto& snapshots = of(in).snapshots;
  for (auto at = from(snapshots, after); at != snapshots.end(); ++at) all.push_back(at->first);
  return all;
}

Result<std::vector<SnapshotId>> MemoryStore::retired(NamespaceId in) {
  std::vector<SnapshotId> all;
  for (const auto& [id, snapshot] : of(in).snapshots) {
    const auto named = find_snapshot(in, snapshot.manifest.spec.name);
    if (!named || *named != id) all.push_back(id);
  }
  return all;
}

Result<std::vector<message::Tag>> MemoryStore::tags(NamespaceId in, const std::string& after,
                                                    std::size_t most) {
  std::vector<message::Tag> all;
  const auto& tags = of(in).tags;
  for (auto at = from(tags, after); at != tags.end() && all.size() < most; ++at) {
    const Snapshot* const tagged = TRY(find(in, at->second));
    all.push_back({at->first, tagged->manifest.spec.name});
  }
  return all;
}

Result<Bytes> MemoryStore::page_map_segment(NamespaceId in, SnapshotId snapshot,
                                            std::uint32_t segment) {
  const Snapshot* const found = TRY(find(in, snapshot));
  if (segment >= found->map.segment_count()) return not_found("segment");
  return found->map.encode_segment(segment);
}

Result<Bytes> MemoryStore::cold_map(NamespaceId in, SnapshotId snapshot) {
  const Snapshot* const found = TRY(find(in, snapshot));
  if (found->cold.empty()) return not_found("cold map");
  return encode_cold_map(found->cold);
}

Result<Manifest> MemoryStore::publish(NamespaceId in, Manifest manifest, const PageMap& map,
                                      const ColdMap& cold, const GrowthAdmission&, CreatedTime) {
  Namespace& here = of(in);
  if (here.names.contains(manifest.spec.name)) {
    return fail(ErrorCode::kAlreadyExists, "there is such a snapshot already");
  }
  manifest.snapshot = {++here.last_snapshot};
  here.names[manifest.spec.name] = manifest.snapshot;
  here.snapshots[manifest.snapshot] = {manifest, map, cold, {}};
  return manifest;
}

Result<Manifest> MemoryStore::set_labels(NamespaceId in, const std::string& name,
                                         std::vector<Label> labels, const GrowthAdmission&) {
  Manifest changed = TRY(decode_manifest(TRY(manifest(in, name))));
  changed.spec.labels = std::move(labels);
  of(in).snapshots[changed.snapshot].manifest = changed;
  return changed;
}

Result<void> MemoryStore::move_tag(NamespaceId in, const message::Tag& to, const GrowthAdmission&) {
  of(in).tags[to.tag] = TRY(find_snapshot(in, to.name));
  return {};
}

Result<void> MemoryStore::remove_tag(NamespaceId in, const std::string& tag) {
  if (of(in).tags.erase(tag) == 0) return not_found("tag");
  return {};
}

void MemoryStore::remove_names(Namespace& in, SnapshotId snapshot) {
  const auto leads_there = [&](const auto& entry) { return entry.second == snapshot; };
  std::erase_if(in.names, leads_there);
  std::erase_if(in.tags, leads_there);
}

Result<void> MemoryStore::retire(NamespaceId in, const std::string& name) {
  remove_names(of(in), TRY(find_snapshot(in, name)));
  return {};
}

Result<void> MemoryStore::remove(NamespaceId in, SnapshotId snapshot) {
  TRY(find(in, snapshot));
  remove_names(of(in), snapshot);
  of(in).snapshots.erase(snapshot);
  return {};
}

Result<WorkingSetState> MemoryStore::state(NamespaceId in, SnapshotId snapshot) {
  const Snapshot* const found = TRY(find(in, snapshot));
  return found->sets.state;
}

Result<Bytes> MemoryStore::recording(NamespaceId in, SnapshotId snapshot, std::uint64_t number) {
  const Snapshot* const found = TRY(find(in, snapshot));
  const auto recording = found->sets.recordings.find(number);
  if (recording == found->sets.recordings.end()) return not_found("recording");
  return recording->second;
}

Result<Bytes> MemoryStore::working_set(NamespaceId in, SnapshotId snapshot) {
  const Snapshot* const found = TRY(find(in, snapshot));
  if (found->sets.set.empty()) return not_found("working set");
  return found->sets.set;
}

Result<PackRead> MemoryStore::pack(NamespaceId in, const PackId& id) {
  const Snapshot* const found = TRY(find(in, id.snapshot));
  const auto pack = found->sets.packs.find({id.generation, id.number});
  if (pack == found->sets.packs.end()) return not_found("pack");
  return PackRead{.pack = pack->second, .pin = nullptr};
}

Result<message::PrefetchCounters> MemoryStore::counters(NamespaceId in, SnapshotId snapshot) {
  const Snapshot* const found = TRY(find(in, snapshot));
  return found->sets.counters;
}

Result<void> MemoryStore::put_packs(NamespaceId in, const PackId& first,
                                    std::span<const Bytes> packs) {
  Snapshot* const found = TRY(find(in, first.snapshot));
  std::uint32_t number = first.number;
  for (const Bytes& pack : packs) found->sets.packs[{first.generation, number++}] = pack;
  return {};
}

Result<void> MemoryStore::publish(NamespaceId in, const WorkingSet& set,
                                  const std::optional<NewRecording>& recording) {
  Snapshot* const found = TRY(find(in, set.snapshot));
  WorkingSets& sets = found->sets;
  CHECK(!sets.state.generation || *sets.state.generation < set.generation);
  sets.state.generation = set.generation;
  sets.set = encode_working_set(set);
  if (!recording) return {};
  sets.state.last_recording = recording->summary.number;
  std::erase_if(sets.state.recordings,
                [&](const auto& each) { return each.number < recording->oldest_kept; });
  sets.state.recordings.push_back(recording->summary);
  sets.recordings.erase(sets.recordings.begin(),
                        sets.recordings.lower_bound(recording->oldest_kept));
  sets.recordings[recording->summary.number] = recording->sealed;
  return {};
}

Result<void> MemoryStore::drop(NamespaceId in, SnapshotId snapshot) {
  Snapshot* const found = TRY(find(in, snapshot));
  const std::uint64_t last = found->sets.state.last_recording;
  found->sets = {};
  found->sets.state.last_recording = last;
  return {};
}

Result<void> MemoryStore::add(NamespaceId in, SnapshotId snapshot,
                              const message::PrefetchCounters& report) {
  Snapshot* const found = TRY(find(in, snapshot));
  found->sets.counters.sessions += report.sessions;
  return {};
}

}  // namespace thaw::test
