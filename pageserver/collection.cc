#include "pageserver/collection.h"

#include <map>
#include <vector>

#include "pageserver/limits.h"
#include "pageserver/snapshots.h"

namespace thaw {

namespace {

/// What an entry of the hash index takes up, about.
constexpr std::uint64_t kEntryBytes = 48;

}  // namespace

Result<CollectionReport> Collection::run() {
  TRY(remove_retired());
  TRY(find_dead());
  ChunkSet recorded = recorded_;
  recorded.insert(dead_);
  // Those that an earlier collection condemned and that are in use all the same stay recorded: no
  // hash leads to them.
  TRY(control_.write([&] { return chunks().condemn(name_space_, recorded); }));
  TRY(forget_dead());
  TRY(mark_snapshots());
  TRY(control_.write([&] { return spare_what_is_used(); }));
  TRY(sweep());
  return report_;
}

Result<CollectionReport> Collection::dry_run() {
  TRY(find_dead());
  TRY(spare_what_is_used());
  report_.dead_chunks = dead_.size();
  report_.dead_bytes = TRY(stored_bytes(store_, dead_, control_)).value;
  return report_;
}

Result<void> Collection::remove_retired() {
  for (const SnapshotId snapshot : TRY(store_.retired(name_space_))) {
    if (!pins_.is_settled(name_space_, snapshot)) continue;
    TRY(control_.write([&]() -> Result<void> {
      TRY(remove_unless_pinned(store_, pins_, name_space_, snapshot));
      return {};
    }));
  }
  return {};
}

Result<void> Collection::mark_snapshots() {
  for (const SnapshotId snapshot : TRY(store_.snapshots(name_space_, marked_))) {
    const auto map = TRY(if_found(read_page_map(store_, name_space_, snapshot)));
    marked_ = snapshot;
    if (!map) continue;  // removed since
    live_.insert(*map);
    ++report_.snapshots;
  }
  return {};
}

/// A chunk that is stored from now on is no candidate. What pushes under way stand on is none
/// either: forgotten, it would be stored again with the next offer that has it. A push that is
/// committed after it was asked for its chunks has them in its snapshot too.
Result<void> Collection::find_dead() {
  ChunkId end;
  TRY(control_.write([&]() -> Result<void> {
    end = TRY(chunks().next_chunk(name_space_));
    return {};
  }));
  pushes_.mark(name_space_, live_);
  TRY(mark_snapshots());
  recorded_ = TRY(chunks().condemned(name_space_));
  dead_ = recorded_;
  std::uint64_t read = 0;
  TRY(chunks().for_each_page(name_space_, [&](const KnownPage& page) -> Result<bool> {
    if (page.chunk < end) dead_.insert(page.chunk);
    if (++read % limits::kSweepBatch == 0) {
      TRY(control_.pace({limits::kSweepBatch * kEntryBytes}));
    }
    return true;
  }));
  dead_.erase(live_);
  report_.live_chunks = live_.size();
  return {};
}

Result<void> Collection::forget_dead() {
  std::vector<KnownPage> batch;
  const auto forget = [&]() -> Result<void> {
    TRY(control_.write([&] { return chunks().forget(name_space_, batch); }));
    batch.clear();
    return control_.pace({limits::kSweepBatch * kEntryBytes});
  };
  TRY(chunks().for_each_page(name_space_, [&](const KnownPage& page) -> Result<bool> {
    if (dead_.contains(page.chunk)) batch.push_back(page);
    if (batch.size() == limits::kSweepBatch) TRY(forget());
    return true;
  }));
  return batch.empty() ? Result<void>() : forget();
}

/// Pushes do not meet the dead any more. What they met since they were first asked is in the set of
/// one that is under way, or in a snapshot.
Result<void> Collection::spare_what_is_used() {
  TRY(mark_snapshots());
  pushes_.mark(name_space_, live_);
  dead_.erase(live_);
  return {};
}

Result<void> Collection::sweep() {
  const std::uint64_t total = dead_.size();
  std::map<std::uint64_t, std::uint64_t> swept;  // how many, by block
  for (auto batch = dead_.from(kNoChunk, limits::kSweepBatch); !batch.empty();
       batch = dead_.from({batch.back().value + 1}, limits::kSweepBatch)) {
    ByteCount freed{0};
    TRY(control_.write([&]() -> Result<void> {
      freed = TRY(chunks().sweep(name_space_, batch));
      return {};
    }));
    for (const ChunkId id : batch) ++swept[id.value / ChunkSet::kBlockIds];
    report_.dead_chunks += batch.size();
    report_.dead_bytes += freed.value;
    control_.set_progress(report_.dead_chunks, total);
    TRY(control_.pace(freed));
  }
  // Where next to nothing was deleted, RocksDB's own compactions will do.
  for (const auto& [block, count] : swept) {
    if (count < ChunkSet::kBlockIds / 100) continue;
    const std::uint64_t first = block * ChunkSet::kBlockIds;
    TRY(store_.compact_chunks({first}, {first + ChunkSet::kBlockIds - 1}));
    TRY(control_.pace({(ChunkSet::kBlockIds - count) * kPageBytes / 3}));
  }
  if (report_.dead_chunks < report_.live_chunks / 50) return {};
  return store_.compact_hashes(name_space_);
}

}  // namespace thaw
