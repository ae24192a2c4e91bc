#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "base/clock.h"
#include "format/wire.h"
#include "pageserver/collection.h"
#include "pageserver/credible_time.h"
#include "pageserver/job.h"
#include "pageserver/live_pushes.h"
#include "pageserver/retention.h"
#include "pageserver/snapshot_pins.h"
#include "pageserver/store.h"
#include "pageserver/verification.h"

namespace thaw {

struct UpkeepOptions {
  ByteCount rate{64u << 20};  // of reading and deleting in jobs, a second
  std::string backups;        // directory for backups; empty: none are made
  /// Namespaces are looked after so often: what their settings do not keep is marked and a day
  /// later deleted, and garbage is collected if enough was deleted since the last time, or long
  /// ago. 0: never.
  std::chrono::seconds interval{60};
  unsigned garbage_percent = 10;  // of what the namespace has stored
  std::chrono::seconds most_garbage_age{3600};
};

/// The store's upkeep: the jobs that peers ask for and those that are due, one at a time on a
/// thread of its own. Any thread.
class Jobs {
 public:
  /// Runs work where the store's writes are serialised, some time.
  using Post = std::function<void(std::function<void()> work)>;

  Jobs(Store& store, SnapshotPins& pins, const LivePushes& pushes, CredibleTime& time,
       UpkeepOptions options, Post post);
  Jobs(const Jobs&) = delete;
  Jobs& operator=(const Jobs&) = delete;
  /// Stops what is running.
  ~Jobs();

  /// kBusy while one of the namespace waits or runs, kInvalidArgument, kUnsupported.
  Result<message::JobReport> start(NamespaceId in, const message::StartJob& request);
  /// Of the last job that a peer of this namespace has asked for; kNotFound for any other.
  Result<message::JobReport> report(NamespaceId in, std::uint64_t number) const;
  /// The job ends soon, as failed. kNotFound when it is not running.
  Result<void> stop(NamespaceId in, std::uint64_t number);
  /// The namespace is about to go: what it has asked for is forgotten, and what was reported. kBusy
  /// while a job of it waits or runs.
  Result<void> forget(NamespaceId in);
  /// About so many bytes of chunks have become garbage.
  void note_garbage(NamespaceId in, std::uint64_t bytes);
  /// A peer says that these came damaged: they are looked at soon. What is too much is forgotten.
  void note_suspects(NamespaceId in, const message::ReportDamage& report);

 private:
  class Control;
  struct Asked {
    message::StartJob request;
    message::JobReport report;
    std::stop_source stop;
    bool busy = false;  // it waits or runs
  };
  using AskedJobs = std::map<NamespaceId, Asked>;
  /// What may have become garbage since the last collection began.
  struct Garbage {
    bool any = true;  // what happened before this server started is not known
    std::uint64_t bytes = 0;
    Clock::time_point next_look = Clock::now();  // even if there is little of it
  };

  void run(std::stop_token stop);
  /// Nothing when none was asked for until it is time for upkeep, or this is to end.
  AskedJobs::value_type* wait_for_work(std::stop_token stop, Clock::time_point due);
  void do_asked(AskedJobs::value_type& work);
  Result<void> perform(NamespaceId in, const message::StartJob& request, Control& control);
  void check_suspects();
  void look_after_namespaces();
  Result<bool> garbage_is_due(NamespaceId in);
  Result<void> look_after(NamespaceId in, Control& control);
  static void count(const CollectionReport& report, Control& control);
  Result<void> collect(NamespaceId in, bool dry_run, Control& control);
  Result<void> scrub(NamespaceId in, Control& control);
  Result<void> retain(NamespaceId in, const RetentionRequest& request, Control& control);
  /// Has the store know the time, once in a while.
  Result<void> record_time(Control& control);

  Store& store_;
  SnapshotPins& pins_;
  const LivePushes& pushes_;
  CredibleTime& time_;
  const UpkeepOptions options_;
  const Post post_;
  Retention retention_;                    // the thread's
  std::uint64_t next_record_unix_ms_ = 0;  // the thread's

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  AskedJobs asked_;                  // the last of each; guarded by mutex_, as all that follows
  std::deque<NamespaceId> waiting_;  // whose jobs are to be run, in turn; each at most once
  std::stop_source upkeep_;          // of what is being done without being asked for
  std::map<NamespaceId, Garbage> garbage_;
  std::map<NamespaceId, Verification::Suspects> suspects_;
  Clock::time_point suspects_due_ = Clock::time_point::max();  // never while there are none
  Clock::time_point next_suspects_;                            // not before
  std::jthread thread_;  // the last member: it uses the others
};

}  // namespace thaw
