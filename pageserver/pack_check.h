#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "format/manifest.h"
#include "format/pack.h"
#include "format/working_set.h"
#include "pageserver/job.h"
#include "pageserver/store.h"

namespace thaw {

/// A check of working sets: a set is decoded, compared with its snapshot's page map, and its packs
/// are read, decompressed and compared with their checksums. One that is damaged, or of which a
/// pack is damaged or missing, is named and withdrawn: it is made again when it is asked for. Packs
/// of a set that was replaced are not looked at, for no restore begins with them. One at a time for
/// a store.
class PackCheck {
 public:
  PackCheck(Store& store, NamespaceId in, JobControl& control)
      : store_(store), name_space_(in), control_(control) {}

  /// Checks the snapshot's set, if it has one, with those of these packs that it has; nullptr: with
  /// all of its packs.
  Result<void> check(SnapshotId snapshot, const std::set<PackId>* only);

  std::uint64_t packs() const { return packs_; }      // that were read
  std::uint64_t damaged() const { return damaged_; }  // sets

 private:
  /// A set as it was read, and what is in it.
  struct ReadSet {
    Manifest manifest;
    Result<Bytes> sealed;
    WorkingSet set;
    std::vector<std::vector<PackPage>> packs;
  };

  /// Nothing where there is none, or nothing that it could be compared with.
  Result<std::optional<ReadSet>> read(SnapshotId snapshot);
  static Result<void> decode(ReadSet& set, const PageMap& map);
  Result<ByteCount> verify(const ReadSet& set, std::uint32_t number);
  /// `pack` is what is damaged; nothing: the set itself.
  Result<void> withdraw(const ReadSet& set, std::optional<std::uint32_t> pack, const Error& error);
  bool is_there_still(const ReadSet& set) const;
  WorkingSetStore& sets() const { return store_.working_sets(); }

  Store& store_;
  const NamespaceId name_space_;
  JobControl& control_;
  std::uint64_t packs_ = 0;
  std::uint64_t damaged_ = 0;
  PackCodec codec_;
  Bytes plain_;
};

}  // namespace thaw
