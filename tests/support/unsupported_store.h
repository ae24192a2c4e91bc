#pragma once

#include "pageserver/store.h"

namespace thaw::test {

/// A store that does nothing: all of it is kUnsupported. For stores that do a part.
class UnsupportedStore : public Store, public WorkingSetStore, public ChunkUpkeep {
 public:
  Result<std::optional<NamespaceId>> find_namespace(const std::string&) override { return no(); }
  Result<std::vector<NamedNamespace>> namespaces() override { return no(); }
  Result<message::NamespaceSettings> settings(NamespaceId) override { return no(); }
  Result<NamespaceTotals> totals(NamespaceId) override { return no(); }
  Result<std::vector<ChunkId>> find_chunks(NamespaceId, std::span<const Sha256>) override {
    return no();
  }
  Result<ChunkRead> read_chunks(std::span<const ChunkId>, std::size_t) override { return no(); }
  Result<Bytes> manifest(NamespaceId, const std::string&) override { return no(); }
  Result<Bytes> manifest(NamespaceId, SnapshotId) override { return no(); }
  Result<std::vector<Bytes>> manifests(NamespaceId, const std::string&,
                                       const ListingPart&) override {
    return no();
  }
  Result<SnapshotId> find_snapshot(NamespaceId, const std::string&) override { return no(); }
  Result<std::vector<SnapshotId>> snapshots(NamespaceId, SnapshotId) override { return no(); }
  Result<std::vector<SnapshotId>> retired(NamespaceId) override { return no(); }
  Result<std::uint64_t> named_snapshots(NamespaceId) override { return no(); }
  Result<std::vector<message::Tag>> tags(NamespaceId, const std::string&, std::size_t) override {
    return no();
  }
  Result<std::vector<std::string>> strays(NamespaceId) override { return no(); }
  Result<bool> is_tagged(NamespaceId, SnapshotId) override { return no(); }
  Result<OutdatedMarks> outdated_marks(NamespaceId) override { return OutdatedMarks(); }
  Result<AgeStarts> age_starts(NamespaceId) override { return no(); }
  Result<std::uint64_t> last_time_unix_ms() override { return no(); }
  Result<Bytes> page_map_segment(NamespaceId, SnapshotId, std::uint32_t) override { return no(); }
  Result<Bytes> cold_map(NamespaceId, SnapshotId) override { return no(); }
  Result<NamespaceId> open_namespace(const std::string&) override { return no(); }
  Result<void> remove_namespace(const std::string&) override { return no(); }
  Result<void> set_settings(NamespaceId, const message::NamespaceSettings&) override {
    return no();
  }
  Result<std::vector<StoredChunk>> put_chunks(NamespaceId, std::span<const NewChunk>,
                                              const GrowthAdmission&) override {
    return no();
  }
  Result<Manifest> publish(NamespaceId, Manifest, const PageMap&, const ColdMap&,
                           const GrowthAdmission&, CreatedTime) override {
    return no();
  }
  Result<Manifest> set_labels(NamespaceId, const std::string&, std::vector<Label>,
                              const GrowthAdmission&) override {
    return no();
  }
  Result<void> move_tag(NamespaceId, const message::Tag&, const GrowthAdmission&) override {
    return no();
  }
  Result<void> remove_tag(NamespaceId, const std::string&) override { return no(); }
  Result<void> mark_outdated(NamespaceId, const OutdatedMarks&) override { return no(); }
  Result<void> unmark_outdated(NamespaceId, std::span<const SnapshotId>) override { return no(); }
  Result<void> set_age_starts(NamespaceId, const AgeStarts&) override { return no(); }
  Result<void> remove_age_starts(NamespaceId, std::span<const SnapshotId>) override { return no(); }
  Result<void> set_last_time(std::uint64_t) override { return no(); }
  Result<void> retire(NamespaceId, const std::string&) override { return no(); }
  Result<void> remove(NamespaceId, SnapshotId) override { return no(); }
  Result<void> compact() override { return no(); }
  Result<void> flush() override { return no(); }
  void stop_compacting() override {}
  Result<void> compact_chunks(ChunkId, ChunkId) override { return no(); }
  Result<void> compact_hashes(NamespaceId) override { return no(); }
  Result<void> back_up(const std::string&) override { return no(); }
  std::vector<std::string> damaged_files() override { return {}; }
  ChunkUpkeep& chunk_upkeep() override { return *this; }
  WorkingSetStore& working_sets() override { return *this; }
  Result<WorkingSetState> state(NamespaceId, SnapshotId) override { return no(); }
  Result<Bytes> recording(NamespaceId, SnapshotId, std::uint64_t) override { return no(); }
  Result<Bytes> working_set(NamespaceId, SnapshotId) override { return no(); }
  Result<PackRead> pack(NamespaceId, const PackId&) override { return no(); }
  Result<message::PrefetchCounters> counters(NamespaceId, SnapshotId) override { return no(); }
  Result<void> put_packs(NamespaceId, const PackId&, std::span<const Bytes>) override {
    return no();
  }
  Result<void> discard_packs(NamespaceId, SnapshotId) override { return no(); }
  Result<void> publish(NamespaceId, const WorkingSet&,
                       const std::optional<NewRecording>&) override {
    return no();
  }
  Result<void> withdraw(NamespaceId, SnapshotId) override { return no(); }
  Result<void> drop_recording(NamespaceId, SnapshotId, std::uint64_t) override { return no(); }
  Result<void> drop(NamespaceId, SnapshotId) override { return no(); }
  Result<void> add(NamespaceId, SnapshotId, const message::PrefetchCounters&) override {
    return no();
  }
  Result<void> for_each_page(NamespaceId, const VisitPage&) override { return no(); }
  EachChunkRead read_each(std::span<const ChunkId>) override { return {}; }
  Result<NamespaceTotals> count(NamespaceId) override { return no(); }
  Result<ChunkSet> condemned(NamespaceId) override { return no(); }
  Result<std::vector<KnownPage>> quarantined(NamespaceId) override { return no(); }
  Result<ChunkId> checked_up_to(NamespaceId) override { return no(); }
  Result<ChunkId> next_chunk(NamespaceId) override { return no(); }
  Result<void> condemn(NamespaceId, const ChunkSet&) override { return no(); }
  Result<void> forget(NamespaceId, std::span<const KnownPage>) override { return no(); }
  Result<ByteCount> sweep(NamespaceId, std::span<const ChunkId>) override { return no(); }
  Result<void> quarantine(NamespaceId, std::span<const KnownPage>) override { return no(); }
  Result<void> make_known(NamespaceId, std::span<const KnownPage>) override { return no(); }
  Result<void> set_totals(NamespaceId, const NamespaceTotals&) override { return no(); }
  Result<void> set_checked_up_to(NamespaceId, ChunkId) override { return no(); }

 private:
  static std::unexpected<Error> no() {
    return fail(ErrorCode::kUnsupported, "this store does not do that");
  }
};

}  // namespace thaw::test
