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
  condemned_ = TRY(chunks().condemned(name_space_));
  TRY(chunks().for_each_page(name_space_, [&](const KnownPage& page) -> Result<bool> {
    chunks_.insert(page.chunk);
    return true;
  }));
  for (const KnownPage& page : TRY(chunks().quarantined(name_space_))) {
    note_bad(page.chunk, "in quarantine");
  }
  TRY(check_chunks(first));
  TRY(name_bad());
  TRY(control_.write([&] { return chunks().set_checked_up_to(name_space_, kNoChunk); }));
  return report_;
}

Result<void> Verification::read_snapshots() {
  for (const SnapshotId snapshot : TRY(store_.snapshots(name_space_, {}))) {
    const auto map = if_found(read_page_map(store_, name_space_, snapshot));
    if (!map && map.error().code() != ErrorCode::kCorrupt) return std::unexpected(map.error());
    if (!map) {
      ++report_.affected;
      control_.add_finding(map.error().message());
    } else if (*map) {
      ++report_.snapshots;
      chunks_.insert(**map);
    }
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

Result<ByteCount> Verification::check(std::span<const ChunkId> batch) {
  const EachChunkRead read = chunks().read_each(batch);
  const std::uint64_t bad_before = report_.damaged;
  ByteCount bytes{0};
  std::vector<KnownPage> intact;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    PlainPage plain;
    Result<void> verified;
    if (read.chunks[i]) {
      bytes += ByteCount{read.chunks[i]->size()};
      verified = codec_.decode(*read.chunks[i], batch[i], plain);
    } else {
      verified = std::unexpected(read.chunks[i].error());
    }
    if (verified) {
      intact.push_back({hasher_.hash(plain), batch[i]});
    } else if (!condemned_.contains(batch[i])) {
      ++report_.damaged;
      note_bad(batch[i], verified.error().message());
    }
  }
  report_.chunks += batch.size();
  report_.bytes += bytes.value;
  TRY(index(intact));
  if (report_.damaged > bad_before) TRY(quarantine_bad());
  return bytes;
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
  std::vector<KnownPage> lost;
  ChunkSet superseded;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    bad_.erase(pages[i].chunk);
    if (found[i] == pages[i].chunk || condemned_.contains(pages[i].chunk)) continue;
    ++report_.unindexed;
    if (found[i].valid()) {
      superseded.insert(pages[i].chunk);
    } else {
      lost.push_back(pages[i]);
    }
  }
  if (lost.empty() && superseded.empty()) return {};
  return control_.write([&]() -> Result<void> {
    if (!lost.empty()) TRY(chunks().make_known(name_space_, lost));
    if (superseded.empty()) return {};
    // The page has another chunk by now, so no hash will lead to this one: only what is recorded
    // can be collected one day.
    condemned_.insert(superseded);
    return chunks().condemn(name_space_, condemned_);
  });
}

/// A push of the same page puts the chunk back; until then no push may rely on it.
Result<void> Verification::quarantine_bad() {
  std::vector<KnownPage> pages;
  TRY(chunks().for_each_page(name_space_, [&](const KnownPage& page) -> Result<bool> {
    if (bad_.contains(page.chunk)) pages.push_back(page);
    return true;
  }));
  return control_.write([&] { return chunks().quarantine(name_space_, pages); });
}

Result<void> Verification::name_bad() {
  std::map<ChunkId, std::string> names;  // of snapshots, by chunk
  for (const SnapshotId snapshot : TRY(store_.snapshots(name_space_, {}))) {
    const auto map = read_page_map(store_, name_space_, snapshot);
    if (!map) continue;
    ChunkSet used;
    used.insert(*map);
    used.keep(bad_);
    if (used.empty()) continue;
    ++report_.affected;
    const Bytes sealed = TRY(store_.manifest(name_space_, snapshot));
    const std::string name = TRY(decode_manifest(sealed)).spec.name;
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
