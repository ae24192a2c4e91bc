#pragma once

#include <map>
#include <set>

#include "format/hash.h"
#include "tests/support/unsupported_store.h"

namespace thaw::test {

/// A store in memory, for what a peer does with one; what only jobs need is kUnsupported. Nothing
/// is ever full. One thread.
class MemoryStore final : public UnsupportedStore {
 public:
  Result<std::optional<NamespaceId>> find_namespace(const std::string& name) override;
  Result<std::vector<NamedNamespace>> namespaces() override;
  Result<message::NamespaceSettings> settings(NamespaceId in) override { return of(in).settings; }
  Result<NamespaceTotals> totals(NamespaceId in) override { return of(in).totals; }
  Result<std::vector<ChunkId>> find_chunks(NamespaceId in, std::span<const Sha256> all) override;
  Result<ChunkRead> read_chunks(std::span<const ChunkId> ids, std::size_t optional) override;
  Result<Bytes> manifest(NamespaceId in, const std::string& name) override;
  Result<Bytes> manifest(NamespaceId in, SnapshotId snapshot) override;
  Result<std::vector<Bytes>> manifests(NamespaceId in, const std::string& after,
                                       const ListingPart& part) override;
  Result<SnapshotId> find_snapshot(NamespaceId in, const std::string& name) override;
  Result<std::vector<SnapshotId>> snapshots(NamespaceId in, SnapshotId after) override;
  Result<std::vector<SnapshotId>> retired(NamespaceId in) override;
  Result<std::uint64_t> named_snapshots(NamespaceId in) override { return of(in).names.size(); }
  Result<std::vector<message::Tag>> tags(NamespaceId in, const std::string& after,
                                         std::size_t most) override;
  Result<Bytes> page_map_segment(NamespaceId in, SnapshotId snapshot,
                                 std::uint32_t segment) override;
  Result<Bytes> cold_map(NamespaceId in, SnapshotId snapshot) override;

  Result<NamespaceId> open_namespace(const std::string& name) override;
  Result<void> remove_namespace(const std::string& name) override;
  Result<void> set_settings(NamespaceId in, const message::NamespaceSettings& settings) override;
  Result<std::vector<StoredChunk>> put_chunks(NamespaceId in, std::span<const NewChunk> chunks,
                                              const GrowthAdmission& admit) override;
  Result<Manifest> publish(NamespaceId in, Manifest manifest, const PageMap& map,
                           const ColdMap& cold, const GrowthAdmission& admit,
                           CreatedTime created) override;
  Result<Manifest> set_labels(NamespaceId in, const std::string& name, std::vector<Label> labels,
                              const GrowthAdmission& admit) override;
  Result<void> move_tag(NamespaceId in, const message::Tag& to,
                        const GrowthAdmission& admit) override;
  Result<void> remove_tag(NamespaceId in, const std::string& tag) override;
  Result<void> retire(NamespaceId in, const std::string& name) override;
  Result<void> remove(NamespaceId in, SnapshotId snapshot) override;

 private:
  struct WorkingSets {
    WorkingSetState state;
    std::map<std::uint64_t, Bytes> recordings;
    Bytes set;
    std::map<std::pair<std::uint64_t, std::uint32_t>, Bytes> packs;
    message::PrefetchCounters counters;
  };
  struct Snapshot {
    Manifest manifest;
    PageMap map;
    ColdMap cold;
    WorkingSets sets;
  };
  struct Namespace {
    message::NamespaceSettings settings;
    NamespaceTotals totals;
    std::map<std::string, SnapshotId> names;
    std::map<std::string, SnapshotId> tags;
    std::map<SnapshotId, Snapshot> snapshots;
    std::map<Sha256, ChunkId> hashes;
    std::uint64_t last_snapshot = 0;
    std::uint64_t last_chunk = 0;
  };

  Namespace& of(NamespaceId in) { return namespaces_[in]; }
  Result<Snapshot*> find(NamespaceId in, SnapshotId snapshot);
  static void remove_names(Namespace& in, SnapshotId snapshot);

  EachChunkRead read_each(std::span<const ChunkId> ids) override;

  Result<WorkingSetState> state(NamespaceId in, SnapshotId snapshot) override;
  Result<Bytes> recording(NamespaceId in, SnapshotId snapshot, std::uint64_t number) override;
  Result<Bytes> working_set(NamespaceId in, SnapshotId snapshot) override;
  Result<PackRead> pack(NamespaceId in, const PackId& id) override;
  Result<message::PrefetchCounters> counters(NamespaceId in, SnapshotId snapshot) override;
  Result<void> put_packs(NamespaceId in, const PackId& first,
                         std::span<const Bytes> packs) override;
  Result<void> discard_packs(NamespaceId, SnapshotId) override { return {}; }
  Result<void> publish(NamespaceId in, const WorkingSet& set,
                       const std::optional<NewRecording>& recording) override;
  Result<void> drop(NamespaceId in, SnapshotId snapshot) override;
  Result<void> add(NamespaceId in, SnapshotId snapshot,
                   const message::PrefetchCounters& report) override;

  std::uint16_t last_namespace_ = 0;
  std::map<std::string, NamespaceId> names_;
  std::map<NamespaceId, Namespace> namespaces_;
  std::map<ChunkId, Bytes> chunks_;
};

}  // namespace thaw::test
