#include "pageserver/verification.h"

#include "pageserver/limits.h"
#include "pageserver/snapshots.h"

namespace thaw {

Result<VerificationReport> Verification::run() {
  return run_from(TRY(chunks().checked_up_to(name_space_)));
}

Result<VerificationReport> Verification::run_from_the_start() { return run_from(kNoChunk); }

/// What is stored while this runs is not looked at: the chunks to be checked are those that are
/// named at its start.
Result<VerificationReport> Verification::run_from(ChunkId first) {
  TRY(read_snapshots());
  chunks_ = used_;
  condemned_ = TRY(chunks().condemned(name_space_));
  TRY(chunks().for_each_page(name_space_, [&](const KnownPage& page) -> Result<bool> {
    chunks_.insert(page.chunk);
    return true;
  }));
  for (const KnownPage& page : TRY(chunks().quarantined(name_space_))) {
    note_bad(page.chunk, "in quarantine");
  }
  const auto checked = check_chunks(first);
  // What one that is stopped has found is not forgotten.
  TRY(quarantine_bad());
  if (!checked) return std::unexpected(checked.error());
  TRY(name_bad());
  TRY(check_sets(TRY(store_.snapshots(name_space_, {})), nullptr));
  TRY(control_.write([&] { return chunks().set_checked_up_to(name_space_, kNoChunk); }));
  return report_;
}

Result<VerificationReport> Verification::run_on(const Suspects& suspects) {
  for (const SnapshotId snapshot : suspects.snapshots) TRY(read_snapshot(snapshot));
  const ChunkId end = TRY(chunks().next_chunk(name_space_));
  std::vector<ChunkId> batch;
  for (const ChunkId id : suspects.chunks) {
    if (id < end) batch.push_back(id);
  }
  // Only a scrub knows which of the condemned ones are in use.
  condemned_ = TRY(chunks().condemned(name_space_));
  if (!batch.empty()) TRY(control_.pace(TRY(check(batch))));
  TRY(quarantine_bad());
  TRY(name_bad());
  std::set<SnapshotId> snapshots = suspects.snapshots;
  for (const PackId& pack : suspects.packs) snapshots.insert(pack.snapshot);
  TRY(check_sets(std::vector(snapshots.begin(), snapshots.end()), &suspects.packs));
  return report_;
}

Result<void> Verification::read_snapshots() {
  for (const SnapshotId snapshot : TRY(store_.snapshots(name_space_, {}))) {
    TRY(read_snapshot(snapshot));
  }
  return {};
}

Result<void> Verification::read_snapshot(SnapshotId snapshot) {
  const auto map = if_found(read_page_map(store_, name_space_, snapshot));
  if (!map && map.error().code() != ErrorCode::kCorrupt) return std::unexpected(map.error());
  if (!map) {
    ++report_.affected;
    control_.add_finding(map.error().message());
  } else if (*map) {
    ++report_.snapshots;
    used_.insert(**map);
  }
  return {};
}

Result<void> Verification::check_chunks(ChunkId next) {
  while (true) {
    const std::vector<ChunkId> batch = chunks_.from(next, limits::kSweepBatch);
    if (batch.empty()) return {};
    const ByteCount bytes = TRY(check(batch));
    next = {batch.back().value + 1};
    TRY(control_.write([&] { return chunks().set_checked_up_to(name_space_, next); }));
    control_.set_progress(report_.chunks, chunks_.size());
    TRY(control_.pace(bytes));
  }
}

Result<void> Verification::check_sets(std::span<const SnapshotId> snapshots,
                                      const std::set<PackId>* only) {
  for (const SnapshotId snapshot : snapshots) {
    TRY(packs_.check(snapshot, only));
    TRY(recordings_.check(snapshot));
  }
  report_.packs = packs_.packs();
  report_.damaged_sets = packs_.damaged();
  report_.recordings = recordings_.recordings();
  report_.damaged_recordings = recordings_.damaged();
  return {};
}

Result<ByteCount> Verification::check(std::span<const ChunkId> batch) {
  const EachChunkRead read = chunks().read_each(batch);
  ByteCount bytes{0};
  std::vector<KnownPage> intact;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (!read.chunks[i] && is_shortage(read.chunks[i].error())) {
      return std::unexpected(read.chunks[i].error());
    }
    if (read.chunks[i]) bytes += ByteCount{read.chunks[i]->size()};
    Sha256 hash;
    if (is_intact(batch[i], read.chunks[i], hash)) intact.push_back({hash, batch[i]});
  }
  report_.chunks += batch.size();
  report_.bytes += bytes.value;
  TRY(index(intact));
  return bytes;
}

bool Verification::is_intact(ChunkId id, const Result<ByteSpan>& chunk, Sha256& hash) {
  PlainPage plain;
  const Result<void> verified =
      chunk ? codec_.decode(*chunk, id, plain) : std::unexpected(chunk.error());
  if (verified) {
    hash = hasher_.hash(plain);
    return true;
  }
  // One that nobody uses and that is about to be deleted may be as it is.
  if (condemned_.contains(id) && !used_.contains(id)) return false;
  ++report_.damaged;
  new_bad_.insert(id);
  note_bad(id, verified.error().message());
  return false;
}

void Verification::note_bad(ChunkId id, const std::string& reason) {
  bad_.insert(id);
  if (reasons_.size() < limits::kMaxNamedChunks) reasons_.insert_or_assign(id, reason);
}

/// Compares intact pages with the index. One that was in quarantine has come back.
Result<void> Verification::index(const std::vector<KnownPage>& pages) {
  std::vector<Sha256> hashes;
  hashes.reserve(pages.size());
  for (const KnownPage& page : pages) hashes.push_back(page.hash);
  const std::vector<ChunkId> found = TRY(store_.find_chunks(name_space_, hashes));
  std::vector<KnownPage> other;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    bad_.erase(pages[i].chunk);
    if (found[i] == pages[i].chunk || condemned_.contains(pages[i].chunk)) continue;
    other.push_back(pages[i]);
  }
  if (other.empty()) return {};
  return control_.write([&] { return correct_index(other); });
}

/// [writer] Looks the pages up again: pushes may have brought them meanwhile.
Result<void> Verification::correct_index(const std::vector<KnownPage>& pages) {
  ChunkSet superseded;
  for (const KnownPage& page : pages) {
    const auto found = TRY(store_.find_chunks(name_space_, std::span(&page.hash, 1)));
    if (found[0] == page.chunk) continue;
    ++report_.unindexed;
    if (found[0].valid()) {
      superseded.insert(page.chunk);
    } else {
      TRY(chunks().make_known(name_space_, std::span(&page, 1)));
    }
  }
  if (superseded.empty()) return {};
  // The page has another chunk by now, so no hash will lead to this one: only what is recorded
  // can be collected one day.
  condemned_.insert(superseded);
  return chunks().condemn(name_space_, condemned_);
}

/// A push of the same page puts the chunk back; until then no push may rely on it.
Result<void> Verification::quarantine_bad() {
  if (new_bad_.empty()) return {};
  std::vector<KnownPage> batch;
  const auto put = [&]() -> Result<void> {
    TRY(control_.write([&] { return quarantine(batch); }));
    batch.clear();
    return {};
  };
  TRY(chunks().for_each_page(name_space_, [&](const KnownPage& page) -> Result<bool> {
    if (new_bad_.contains(page.chunk)) batch.push_back(page);
    if (batch.size() == limits::kSweepBatch) TRY(put());
    return true;
  }));
  return batch.empty() ? Result<void>() : put();
}

/// [writer] Reads the chunks again: a push may have put one back meanwhile.
Result<void> Verification::quarantine(std::span<const KnownPage> pages) {
  std::vector<KnownPage> still_bad;
  PlainPage plain;
  for (const KnownPage& page : pages) {
    const EachChunkRead read = chunks().read_each(std::span(&page.chunk, 1));
    const bool intact = read.chunks[0] && codec_.decode(*read.chunks[0], page.chunk, plain);
    if (!intact) still_bad.push_back(page);
  }
  return chunks().quarantine(name_space_, still_bad);
}

Result<void> Verification::name_bad() {
  if (bad_.empty()) return {};
  std::map<ChunkId, std::string> names;  // of snapshots, by chunk
  for (const SnapshotId snapshot : TRY(store_.snapshots(name_space_, {}))) {
    const auto map = read_page_map(store_, name_space_, snapshot);
    if (!map) continue;
    ChunkSet used;
    used.insert(*map);
    used.keep(bad_);
    if (used.empty()) continue;
    ++report_.affected;
    const auto sealed = TRY(if_found(store_.manifest(name_space_, snapshot)));
    if (!sealed) continue;  // removed since
    const std::string name = TRY(decode_manifest(*sealed)).spec.name;
    for (const auto& [id, reason] : reasons_) {
      if (used.contains(id)) names[id] += (names[id].empty() ? "in " : ", ") + name;
    }
  }
  for (const auto& [id, reason] : reasons_) {
    if (!bad_.contains(id)) continue;
    const std::string& where = names[id].empty() ? "in no snapshot" : names[id];
    control_.add_finding(fmt::format("chunk {:#x}: {}; {}", id.value, reason, where));
  }
  return {};
}

}  // namespace thaw
