#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "format/manifest.h"
#include "format/wire.h"
#include "pageserver/credible_time.h"
#include "pageserver/job.h"
#include "pageserver/snapshot_pins.h"
#include "pageserver/store.h"

namespace thaw {

/// Those snapshots that a namespace's settings do not keep, oldest first. `tagged` has the names of
/// snapshots that have a tag. A snapshot created before limits::kEarliestTime has no known age: a
/// bound on the age keeps it.
std::vector<const Manifest*> outdated(const std::vector<Manifest>& snapshots,
                                      const std::set<std::string>& tagged,
                                      const message::NamespaceSettings& settings,
                                      std::uint64_t now_unix_ms);

/// How a retention runs. The upkeep's is the default.
struct RetentionRequest {
  bool dry_run = false;  // only say what would be done
  bool by_hand = false;  // an operator has asked: the wall clock need not have settled
  bool at_once = false;  // delete without marking for a day, and more than the share
};

/// How many snapshots of a namespace a retention has dealt with, or would have.
struct RetentionReport {
  std::uint64_t marked = 0;   // as outdated, by this run
  std::uint64_t pending = 0;  // marked before, for less than limits::kOutdatedTime
  std::uint64_t deleted = 0;
  std::uint64_t in_use = 0;     // to be deleted when nothing uses it any more
  std::uint64_t postponed = 0;  // beyond the share of one run
  std::uint64_t garbage_bytes = 0;
};

/// A mistake in the settings, or in the time, must not delete snapshots before an operator can see
/// it. So a snapshot that the settings do not keep is first marked as outdated, and works on as
/// before. It is deleted after limits::kOutdatedTime of the credible time. A tag, other settings or
/// another order takes the mark back. One run deletes at most one part in limits::kRetentionPart of
/// a namespace's snapshots. If more are due, those beyond it are marked anew, and the log warns.
/// Where the age counts, the upkeep waits until the wall clock has settled. The time before a start
/// is as doubtful as the clock was then: a mark from before counts from the start, unless an
/// operator asks. Each mark and each deletion is a line in the log.
///
/// One thread.
class Retention {
 public:
  /// REQUIRES: the time has begun.
  Retention(Store& store, SnapshotPins& pins, CredibleTime& time)
      : store_(store), pins_(pins), time_(time), started_unix_ms_(time.now_unix_ms()) {}

  /// `report` counts what was done before a failure, too.
  Result<void> run(NamespaceId in, const RetentionRequest& request, JobControl& control,
                   RetentionReport& report);

 private:
  struct Run;

  Result<void> count_ages(Run& run, bool settled);
  bool must_wait(const message::NamespaceSettings& settings, bool settled);
  Result<void> mark(const Run& run);
  Result<void> write_marks(const Run& run, std::span<const Manifest* const> old,
                           std::span<const SnapshotId> kept);
  Result<void> delete_due(const Run& run);
  Result<void> postpone(const Run& run);
  Result<bool> remove(const Run& run, SnapshotId snapshot);

  Store& store_;
  SnapshotPins& pins_;
  CredibleTime& time_;
  const std::uint64_t started_unix_ms_;  // of the credible time
  bool told_of_wait_ = false;
};

}  // namespace thaw
