#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "format/chunk.h"
#include "format/hash.h"
#include "pageserver/chunk_set.h"
#include "pageserver/job.h"
#include "pageserver/pack_check.h"
#include "pageserver/recording_check.h"
#include "pageserver/store.h"

namespace thaw {

struct VerificationReport {
  std::uint64_t chunks = 0;        // read and verified
  std::uint64_t bytes = 0;         // of them
  std::uint64_t damaged = 0;       // chunks that are not what was stored, or are not there at all
  std::uint64_t unindexed = 0;     // intact chunks that no hash led to; one does again
  std::uint64_t snapshots = 0;     // whose manifest and page map were read
  std::uint64_t affected = 0;      // snapshots that have damaged chunks, or are damaged themselves
  std::uint64_t packs = 0;         // read and verified
  std::uint64_t damaged_sets = 0;  // working sets that were no good
  std::uint64_t recordings = 0;    // read and decoded
  std::uint64_t damaged_recordings = 0;
  bool clean() const { return damaged + affected + damaged_sets + damaged_recordings == 0; }
};

/// A check of everything that a namespace has: each page map is read, and each chunk that a
/// snapshot or a hash names is read, decompressed, compared with its checksum, hashed, and looked
/// up by that hash. What is damaged or missing is put into quarantine and named with the snapshots
/// that it affects. Then come the working sets and recordings, as PackCheck and RecordingCheck say.
/// One that was stopped is taken up where it was. One at a time for a store, and none beside a
/// collection.
class Verification {
 public:
  Verification(Store& store, NamespaceId in, JobControl& control)
      : store_(store),
        name_space_(in),
        control_(control),
        packs_(store, in, control),
        recordings_(store, in, control) {}

  /// Takes up the one that was stopped.
  Result<VerificationReport> run();
  Result<VerificationReport> run_from_the_start();
  /// What somebody says is damaged, and nothing else: most often that was on the way.
  struct Suspects {
    std::set<ChunkId> chunks;
    std::set<SnapshotId> snapshots;  // for their page maps and working sets
    std::set<PackId> packs{};
  };
  Result<VerificationReport> run_on(const Suspects& suspects);

 private:
  Result<VerificationReport> run_from(ChunkId first);
  Result<void> read_snapshots();
  /// Nothing where it is not there any more.
  Result<void> read_snapshot(SnapshotId snapshot);
  Result<void> check_chunks(ChunkId next);
  /// With these packs; nullptr: with all that they have.
  Result<void> check_sets(std::span<const SnapshotId> snapshots, const std::set<PackId>* only);
  bool is_intact(ChunkId id, const Result<ByteSpan>& chunk, Sha256& hash);
  /// Returns how many bytes were read.
  Result<ByteCount> check(std::span<const ChunkId> batch);
  void note_bad(ChunkId id, const std::string& reason);
  Result<void> index(const std::vector<KnownPage>& pages);
  Result<void> correct_index(const std::vector<KnownPage>& pages);
  Result<void> quarantine_bad();
  Result<void> quarantine(std::span<const KnownPage> pages);
  Result<void> name_bad();
  ChunkUpkeep& chunks() const { return store_.chunk_upkeep(); }

  Store& store_;
  const NamespaceId name_space_;
  JobControl& control_;

  ChunkSet used_;       // by snapshots
  ChunkSet chunks_;     // that are to be there
  ChunkSet condemned_;  // of them, those that no hash need lead to
  ChunkSet bad_;
  ChunkSet new_bad_;                        // of them, not in quarantine yet
  std::map<ChunkId, std::string> reasons_;  // of the first bad ones
  VerificationReport report_;
  PackCheck packs_;
  RecordingCheck recordings_;
  ChunkCodec codec_;
  Hasher hasher_;
};

}  // namespace thaw
