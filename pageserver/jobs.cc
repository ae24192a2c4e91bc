#include "pageserver/jobs.h"

#include <future>
#include <utility>

#include "base/log.h"
#include "format/limits.h"
#include "pageserver/collection.h"
#include "pageserver/limits.h"
#include "pageserver/verification.h"

namespace thaw {

using message::JobKind;
using message::JobReport;
using message::JobState;

/// The surroundings of one job. What it is told goes into `report`, which `mutex` guards.
class Jobs::Control final : public JobControl {
 public:
  Control(const Jobs& jobs, std::stop_token stop, JobReport* report)
      : jobs_(jobs), stop_(std::move(stop)), report_(report) {}

  Result<void> write(const Work& work) override {
    std::promise<Result<void>> done;
    jobs_.post_([&] { done.set_value(work()); });
    return done.get_future().get();
  }

  Result<void> pace(ByteCount bytes) override {
    if (stop_.stop_requested()) return fail(ErrorCode::kStopped, "stopped");
    const auto cost = std::chrono::duration<double>(static_cast<double>(bytes.value) /
                                                    static_cast<double>(jobs_.options_.rate.value));
    due_ = std::max(due_, Clock::now()) + std::chrono::duration_cast<Nanoseconds>(cost);
    // Short of the least pause that is worth a sleep it goes on.
    if (due_ - Clock::now() > limits::milliseconds(10)) {
      std::unique_lock lock(pause_mutex_);
      paused_.wait_until(lock, stop_, due_, [] { return false; });
    }
    return {};
  }

  void set_progress(std::uint64_t done, std::uint64_t total) override {
    if (report_ == nullptr) return;
    const std::lock_guard lock(jobs_.mutex_);
    report_->done = done;
    report_->total = total;
  }

  void add_finding(std::string finding) override {
    log_warning(LogKind("findings"), "{}", finding);
    note(std::move(finding));
  }

  void note(std::string finding) override {
    if (report_ == nullptr) return;
    const std::lock_guard lock(jobs_.mutex_);
    if (report_->findings.size() == limits::kMaxJobFindings - 1) {
      ++more_findings_;
      return;
    }
    if (finding.size() > limits::kMaxFindingBytes) finding.resize(limits::kMaxFindingBytes);
    report_->findings.push_back(std::move(finding));
  }

  /// No more findings come.
  void finish() {
    const std::lock_guard lock(jobs_.mutex_);
    if (more_findings_ == 0) return;
    report_->findings.push_back(fmt::format("and {} more", more_findings_));
  }

  void count(const char* name, std::uint64_t value) {
    if (report_ == nullptr) return;
    const std::lock_guard lock(jobs_.mutex_);
    report_->counters.push_back({name, value});
  }

 private:
  const Jobs& jobs_;
  const std::stop_token stop_;
  JobReport* const report_;  // nullptr: nobody has asked for it
  std::size_t more_findings_ = 0;
  Clock::time_point due_;
  std::mutex pause_mutex_;
  std::condition_variable_any paused_;
};

Jobs::Jobs(Store& store, SnapshotPins& pins, const LivePushes& pushes, CredibleTime& time,
           UpkeepOptions options, Post post)
    : store_(store),
      pins_(pins),
      pushes_(pushes),
      time_(time),
      options_(std::move(options)),
      post_(std::move(post)),
      retention_(store, pins, time),
      thread_([this](std::stop_token stop) { run(std::move(stop)); }) {}

Jobs::~Jobs() {
  thread_.request_stop();
  const std::lock_guard lock(mutex_);
  upkeep_.request_stop();
  for (auto& [in, asked] : asked_) asked.stop.request_stop();
}

Result<JobReport> Jobs::start(NamespaceId in, const message::StartJob& request) {
  if (request.kind == JobKind::kBackup) {
    TRY(check_name(request.target, "backup's name"));
    // RocksDB makes a backup under its name with .tmp, and removes what is there.
    if (request.target.starts_with('.') || request.target.ends_with(".tmp")) {
      return fail(ErrorCode::kInvalidArgument, "no backup can be called \"{}\"", request.target);
    }
    if (options_.backups.empty()) {
      return fail(ErrorCode::kUnsupported, "the page server was started without --backups DIR");
    }
  }
  const std::lock_guard lock(mutex_);
  // Nothing here tells what other namespaces have asked for.
  Asked& asked = asked_[in];
  if (asked.busy) return fail(ErrorCode::kBusy, "another job of the namespace is running");
  waiting_.push_back(in);
  const std::uint64_t number = asked.report.number + 1;
  asked = {.request = request, .report = {}, .stop = {}, .busy = true};
  asked.report.number = number;
  asked.report.kind = request.kind;
  // What nobody has asked for waits.
  upkeep_.request_stop();
  changed_.notify_all();
  return asked.report;
}

Result<JobReport> Jobs::report(NamespaceId in, std::uint64_t number) const {
  const std::lock_guard lock(mutex_);
  const auto found = asked_.find(in);
  if (found == asked_.end() || found->second.report.number != number) {
    return fail(ErrorCode::kNotFound, "there is no job {}", number);
  }
  return found->second.report;
}

Result<void> Jobs::stop(NamespaceId in, std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  const auto found = asked_.find(in);
  if (found == asked_.end() || found->second.report.number != number ||
      found->second.report.state != JobState::kRunning) {
    return fail(ErrorCode::kNotFound, "job {} is not running", number);
  }
  found->second.stop.request_stop();
  return {};
}

Result<void> Jobs::forget(NamespaceId in) {
  const std::lock_guard lock(mutex_);
  const auto asked = asked_.find(in);
  if (asked != asked_.end() && asked->second.busy) {
    return fail(ErrorCode::kBusy, "a job of it is running");
  }
  if (asked != asked_.end()) asked_.erase(asked);
  garbage_.erase(in);
  suspects_.erase(in);
  return {};
}

void Jobs::note_garbage(NamespaceId in, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  garbage_[in].any = true;
  garbage_[in].bytes += bytes;
}

void Jobs::note_suspects(NamespaceId in, const message::ReportDamage& report) {
  const std::lock_guard lock(mutex_);
  Verification::Suspects& suspects = suspects_[in];
  for (const ChunkId id : report.chunks) {
    if (suspects.chunks.size() < limits::kMaxSuspects) suspects.chunks.insert(id);
  }
  if (report.snapshot != SnapshotId{} && suspects.snapshots.size() < limits::kMaxSuspects) {
    suspects.snapshots.insert(report.snapshot);
  }
  for (const PackId& id : report.packs) {
    if (suspects.packs.size() < limits::kMaxSuspects) suspects.packs.insert(id);
  }
  suspects_due_ = next_suspects_;
  changed_.notify_all();
}

void Jobs::run(std::stop_token stop) {
  const bool upkeep = options_.interval.count() > 0;
  auto due = upkeep ? Clock::now() + options_.interval : Clock::time_point::max();
  while (!stop.stop_requested()) {
    if (auto* const work = wait_for_work(stop, due)) do_asked(*work);
    // However many jobs are asked for, what is due has its turn.
    if (!stop.stop_requested()) check_suspects();
    if (stop.stop_requested() || Clock::now() < due) continue;
    look_after_namespaces();
    due = Clock::now() + options_.interval;
  }
}

Jobs::AskedJobs::value_type* Jobs::wait_for_work(std::stop_token stop, Clock::time_point due) {
  std::unique_lock lock(mutex_);
  due = std::min(due, suspects_due_);
  const auto has_work = [&] { return !waiting_.empty() || suspects_due_ < due; };
  if (due == Clock::time_point::max()) {
    changed_.wait(lock, std::move(stop), has_work);
  } else {
    changed_.wait_until(lock, std::move(stop), due, has_work);
  }
  upkeep_ = {};
  if (waiting_.empty()) return nullptr;
  // The entry stays as it is while it is busy.
  const auto work = asked_.find(waiting_.front());
  waiting_.pop_front();
  return &*work;
}

void Jobs::do_asked(AskedJobs::value_type& work) {
  auto& [in, asked] = work;
  Control control(*this, asked.stop.get_token(), &asked.report);
  const auto done = perform(in, asked.request, control);
  control.finish();
  const std::lock_guard lock(mutex_);
  asked.report.state = done ? JobState::kDone : JobState::kFailed;
  if (!done) asked.report.error = to_reply(done.error());
  asked.busy = false;
}

Result<void> Jobs::perform(NamespaceId in, const message::StartJob& request, Control& control) {
  switch (request.kind) {
    case JobKind::kCollect:
      return collect(in, request.dry_run, control);
    case JobKind::kScrub:
      return scrub(in, control);
    case JobKind::kRetain:
      return retain(in, {.dry_run = request.dry_run, .by_hand = true, .at_once = request.at_once},
                    control);
    case JobKind::kBackup:
      return store_.back_up(options_.backups + "/" + request.target);
    case JobKind::kCompact:
      return store_.compact();
  }
  return fail(ErrorCode::kUnsupported, "a job of an unknown kind");
}

Result<void> Jobs::collect(NamespaceId in, bool dry_run, Control& control) {
  Collection collection(store_, in, pins_, pushes_, control);
  if (dry_run) {
    count(TRY(collection.dry_run()), control);
    return {};
  }
  Garbage before;
  {
    const std::lock_guard lock(mutex_);
    before = std::exchange(
        garbage_[in],
        {.any = false, .bytes = 0, .next_look = Clock::now() + options_.most_garbage_age});
  }
  const auto report = collection.run();
  if (!report) {
    // It is all still there, and whatever the failure was, it is likely to be there too.
    const std::lock_guard lock(mutex_);
    Garbage& garbage = garbage_[in];
    garbage.any = true;
    if (report.error().code() == ErrorCode::kStopped) {
      garbage.bytes += before.bytes;
      garbage.next_look = before.next_look;
    }
    return std::unexpected(report.error());
  }
  count(*report, control);
  return {};
}

void Jobs::count(const CollectionReport& report, Control& control) {
  control.count("snapshots", report.snapshots);
  control.count("live_chunks", report.live_chunks);
  control.count("dead_chunks", report.dead_chunks);
  control.count("dead_bytes", report.dead_bytes);
}

Result<void> Jobs::scrub(NamespaceId in, Control& control) {
  const VerificationReport report = TRY(Verification(store_, in, control).run());
  control.count("chunks", report.chunks);
  control.count("bytes", report.bytes);
  control.count("damaged", report.damaged);
  control.count("unindexed", report.unindexed);
  control.count("snapshots", report.snapshots);
  control.count("affected_snapshots", report.affected);
  control.count("packs", report.packs);
  control.count("damaged_sets", report.damaged_sets);
  control.count("recordings", report.recordings);
  control.count("damaged_recordings", report.damaged_recordings);
  if (report.clean()) return {};
  return fail(ErrorCode::kCorrupt,
              "{} chunks, {} working sets and {} recordings are damaged, {} snapshots affected",
              report.damaged, report.damaged_sets, report.damaged_recordings, report.affected);
}

Result<void> Jobs::retain(NamespaceId in, const RetentionRequest& request, Control& control) {
  RetentionReport report;
  const auto done = retention_.run(in, request, control, report);
  if (!request.dry_run && report.deleted > 0) note_garbage(in, report.garbage_bytes);
  TRY(done);
  control.count("marked", report.marked);
  control.count("pending", report.pending);
  control.count("deleted", report.deleted);
  control.count("in_use", report.in_use);
  control.count("postponed", report.postponed);
  return {};
}

void Jobs::check_suspects() {
  std::map<NamespaceId, Verification::Suspects> all;
  std::stop_token stop;
  {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    if (now < suspects_due_) return;
    all.swap(suspects_);
    suspects_due_ = Clock::time_point::max();
    next_suspects_ = now + limits::kSuspectInterval;
    stop = upkeep_.get_token();
  }
  for (const auto& [in, suspects] : all) {
    Control control(*this, stop, nullptr);
    const auto report = Verification(store_, in, control).run_on(suspects);
    if (!report) {
      log_warning(LogKind("reports of damage", report.error()),
                  "what was reported as damaged was not looked at: {}", report.error().message());
      continue;
    }
    if (!suspects.chunks.empty()) {
      log_warning(LogKind("reported chunks"), "{} chunks were reported as damaged, of which {} are",
                  suspects.chunks.size(), report->damaged);
    }
    if (!suspects.packs.empty()) {
      log_warning(LogKind("reported packs"),
                  "{} packs were reported as damaged, and {} working sets are",
                  suspects.packs.size(), report->damaged_sets);
    }
  }
}

void Jobs::look_after_namespaces() {
  const std::stop_token stop = [&] {
    const std::lock_guard lock(mutex_);
    return upkeep_.get_token();
  }();
  Control control(*this, stop, nullptr);
  if (const auto recorded = record_time(control); !recorded) {
    log_warning(LogKind("time", recorded.error()), "upkeep: {}", recorded.error().message());
  }
  const auto all = store_.namespaces();
  if (!all) return log_warning("upkeep: {}", all.error().message());
  for (const NamedNamespace& each : *all) {
    const auto done = look_after(each.id, control);
    if (!done && done.error().code() != ErrorCode::kStopped) {
      log_warning("upkeep of namespace {}: {}", each.name, done.error().message());
    }
  }
}

Result<void> Jobs::record_time(Control& control) {
  const std::uint64_t known = time_.known_unix_ms();
  if (known < next_record_unix_ms_) return {};
  next_record_unix_ms_ = known + std::chrono::milliseconds(limits::kTimeInterval).count();
  if (known == 0) return {};
  return control.write([&] { return store_.set_last_time(known); });
}

Result<void> Jobs::look_after(NamespaceId in, Control& control) {
  TRY(retain(in, {}, control));
  if (TRY(garbage_is_due(in))) TRY(collect(in, false, control));
  return {};
}

Result<bool> Jobs::garbage_is_due(NamespaceId in) {
  const NamespaceTotals totals = TRY(store_.totals(in));
  const bool retired = !TRY(store_.retired(in)).empty();
  const std::lock_guard lock(mutex_);
  const Garbage& garbage = garbage_[in];
  if (!garbage.any && !retired) return false;
  if (Clock::now() >= garbage.next_look) return true;
  return garbage.bytes > totals.chunk_bytes / 100 * options_.garbage_percent;
}

}  // namespace thaw
