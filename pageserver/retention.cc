#include "pageserver/retention.h"

#include <algorithm>
#include <functional>

#include "base/log.h"
#include "pageserver/limits.h"
#include "pageserver/snapshots.h"

namespace thaw {

namespace {

/// The snapshots of one value of the label count together; so do all without it.
std::string group_of(const Manifest& snapshot, const std::string& label) {
  if (label.empty()) return {};
  const auto found = std::ranges::find(snapshot.spec.labels, label, &Label::key);
  return found == snapshot.spec.labels.end() ? std::string() : "=" + found->value;
}

using std::chrono::milliseconds;

constexpr std::uint64_t kOutdatedMs = milliseconds(limits::kOutdatedTime).count();
constexpr double kMsPerHour = 3600e3;
constexpr double kMsPerDay = 24 * kMsPerHour;
constexpr std::uint64_t kEarliestMs = limits::kEarliestTime.count();

Result<std::string> name_of(Store& store, NamespaceId in) {
  for (const NamedNamespace& each : TRY(store.namespaces())) {
    if (each.id == in) return each.name;
  }
  return fail(ErrorCode::kNotFound, "the namespace was removed");
}

}  // namespace

std::vector<const Manifest*> outdated(const std::vector<Manifest>& snapshots,
                                      const std::set<std::string>& tagged,
                                      const message::NamespaceSettings& settings,
                                      std::uint64_t now_unix_ms) {
  if (settings.keep_last == 0 && settings.keep_seconds == 0) return {};
  std::vector<const Manifest*> newest_first;
  for (const Manifest& snapshot : snapshots) newest_first.push_back(&snapshot);
  std::ranges::sort(newest_first, std::greater{}, &Manifest::snapshot);
  std::map<std::string, std::uint64_t> counted;
  std::vector<const Manifest*> old;
  for (const Manifest* const snapshot : newest_first) {
    const bool among_last =
        counted[group_of(*snapshot, settings.keep_per_label)]++ < settings.keep_last;
    const std::uint64_t age_ms = now_unix_ms - std::min(now_unix_ms, snapshot->created_unix_ms);
    const bool young = settings.keep_seconds != 0 && (age_ms / 1000 < settings.keep_seconds ||
                                                      snapshot->created_unix_ms < kEarliestMs);
    if (among_last || young || tagged.contains(snapshot->spec.name)) continue;
    old.push_back(snapshot);
  }
  std::ranges::reverse(old);
  return old;
}

/// One run in one namespace.
struct Retention::Run {
  NamespaceId in;
  std::string name;
  RetentionRequest request;
  JobControl& control;
  RetentionReport& report;
  message::NamespaceSettings settings;
  std::uint64_t wall_unix_ms;      // for ages
  std::uint64_t credible_unix_ms;  // for marks
  std::uint64_t started_unix_ms;   // the same; no mark counts from earlier
  std::vector<Manifest> all;       // with created times from which ages count
  std::size_t share = 0;           // how many it may delete

  std::vector<const Manifest*> fresh;  // outdated and not marked
  std::vector<const Manifest*> due;    // to be deleted
  std::vector<SnapshotId> kept;        // marked and not outdated any more

  /// Sorts snapshots by what is to become of them.
  void plan(const std::vector<const Manifest*>& old, const OutdatedMarks& marks) {
    OutdatedMarks others = marks;
    for (const Manifest* const snapshot : old) {
      others.erase(snapshot->snapshot);
      const auto marked = marks.find(snapshot->snapshot);
      if (request.at_once) {
        due.push_back(snapshot);
        continue;
      }
      if (marked == marks.end()) {
        fresh.push_back(snapshot);
        continue;
      }
      const std::uint64_t due_ms = std::max(marked->second, started_unix_ms) + kOutdatedMs;
      if (credible_unix_ms >= due_ms) {
        due.push_back(snapshot);
      } else {
        ++report.pending;
        const std::uint64_t left_ms = due_ms - credible_unix_ms;
        control.note(fmt::format("outdated: {}, deleted in {:.1f} hours", snapshot->spec.name,
                                 static_cast<double>(left_ms) / kMsPerHour));
      }
    }
    for (const auto& [snapshot, since] : others) kept.push_back(snapshot);
  }

  /// Why a snapshot is outdated.
  std::string reason(const Manifest& snapshot) const {
    const std::uint64_t age = wall_unix_ms - std::min(wall_unix_ms, snapshot.created_unix_ms);
    std::string bounds;
    if (settings.keep_last != 0) bounds += fmt::format("not of the last {}, ", settings.keep_last);
    if (settings.keep_seconds != 0) {
      bounds += fmt::format("not younger than {:.1f} days, ",
                            static_cast<double>(settings.keep_seconds) * 1000 / kMsPerDay);
    }
    return fmt::format("{}{:.1f} days old", bounds, static_cast<double>(age) / kMsPerDay);
  }
};

Result<void> Retention::run(NamespaceId in, const RetentionRequest& request, JobControl& control,
                            RetentionReport& report) {
  const message::NamespaceSettings settings = TRY(store_.settings(in));
  if (settings.keep_last == 0 && settings.keep_seconds == 0) return {};
  const CredibleTime::Wall wall = time_.wall();
  if (!request.by_hand && must_wait(settings, wall.settled)) return {};
  std::vector<Manifest> all = TRY(all_manifests(store_, in));
  const std::size_t part = std::max<std::size_t>(1, all.size() / limits::kRetentionPart);
  std::set<std::string> tagged;
  for (const message::Tag& tag : TRY(store_.tags(in, {}, SIZE_MAX))) tagged.insert(tag.name);
  Run run{.in = in,
          .name = TRY(name_of(store_, in)),
          .request = request,
          .control = control,
          .report = report,
          .settings = settings,
          .wall_unix_ms = wall.unix_ms,
          .credible_unix_ms = time_.now_unix_ms(),
          .started_unix_ms = request.by_hand ? 0 : started_unix_ms_,
          .all = std::move(all),
          .share = request.at_once ? SIZE_MAX : part,
          .fresh = {},
          .due = {},
          .kept = {}};
  if (settings.keep_seconds != 0) TRY(count_ages(run, wall.settled));
  run.plan(outdated(run.all, tagged, settings, wall.unix_ms), TRY(store_.outdated_marks(in)));
  TRY(mark(run));
  return delete_due(run);
}

/// What was pushed before the wall clock had settled is young until then. If its created time is
/// then more than the time of settling ago, the clock was wrong, and its age counts from now.
Result<void> Retention::count_ages(Run& run, bool settled) {
  constexpr milliseconds kMostSettling = 2 * limits::kClockSettling;
  const AgeStarts starts = TRY(store_.age_starts(run.in));
  AgeStarts late;
  std::vector<SnapshotId> right;
  for (Manifest& snapshot : run.all) {
    const auto start = starts.find(snapshot.snapshot);
    if (start == starts.end()) continue;
    // A start in the future comes from a clock that was wrong for days.
    const bool is_open = start->second == 0 || start->second > run.wall_unix_ms;
    if (is_open && settled && snapshot.created_unix_ms + kMostSettling.count() > run.wall_unix_ms) {
      right.push_back(snapshot.snapshot);
      continue;
    }
    if (is_open && settled) late[snapshot.snapshot] = run.wall_unix_ms;
    snapshot.created_unix_ms =
        std::max(snapshot.created_unix_ms, is_open ? run.wall_unix_ms : start->second);
  }
  if (run.request.dry_run || (late.empty() && right.empty())) return {};
  return run.control.write([&]() -> Result<void> {
    if (!late.empty()) TRY(store_.set_age_starts(run.in, late));
    return right.empty() ? Result<void>() : store_.remove_age_starts(run.in, right);
  });
}

/// The order of snapshots needs no clock.
bool Retention::must_wait(const message::NamespaceSettings& settings, bool settled) {
  if (settings.keep_seconds == 0) return false;
  if (!settled && !told_of_wait_) {
    log_info(
        "retention by age waits until the wall clock has run evenly for {} hours since the start "
        "or its last jump; `thaw retain` does not wait",
        limits::kClockSettling.count());
  }
  told_of_wait_ = !settled;
  return !settled;
}

Result<void> Retention::mark(const Run& run) {
  run.report.marked = run.fresh.size();
  for (const Manifest* const snapshot : run.fresh) {
    run.control.note(fmt::format("{}: {}, deleted in {} hours",
                                 run.request.dry_run ? "would be marked" : "marked as outdated",
                                 snapshot->spec.name, limits::kOutdatedTime.count()));
  }
  if (run.request.dry_run || (run.fresh.empty() && run.kept.empty())) return {};
  TRY(write_marks(run, run.fresh, run.kept));
  for (const Manifest* const snapshot : run.fresh) {
    log_info(
        "namespace {}: snapshot \"{}\" is outdated, and deleted in {} hours unless it gets a tag: "
        "{}",
        run.name, snapshot->spec.name, limits::kOutdatedTime.count(), run.reason(*snapshot));
  }
  return {};
}

Result<void> Retention::write_marks(const Run& run, std::span<const Manifest* const> old,
                                    std::span<const SnapshotId> kept) {
  OutdatedMarks marks;
  for (const Manifest* const snapshot : old) marks[snapshot->snapshot] = run.credible_unix_ms;
  return run.control.write([&]() -> Result<void> {
    // Other settings take all marks away.
    if (TRY(store_.settings(run.in)) != run.settings) return {};
    if (!kept.empty()) TRY(store_.unmark_outdated(run.in, kept));
    return marks.empty() ? Result<void>() : store_.mark_outdated(run.in, marks);
  });
}

Result<void> Retention::delete_due(const Run& run) {
  if (run.due.size() > run.share) TRY(postpone(run));
  for (const Manifest* const old : run.due) {
    if (run.report.deleted == run.share) return {};
    const bool removed = run.request.dry_run || TRY(remove(run, old->snapshot));
    ++(removed ? run.report.deleted : run.report.in_use);
    const char* const done = run.request.dry_run ? "would be deleted" : "deleted";
    run.control.note(fmt::format("{}: {}", removed ? done : "in use", old->spec.name));
    if (removed && !run.request.dry_run) {
      run.report.garbage_bytes += old->statistics.new_chunk_bytes;
      log_info("namespace {}: deleted snapshot \"{}\": {}", run.name, old->spec.name,
               run.reason(*old));
    }
    TRY(run.control.pace({0}));
  }
  return {};
}

/// Marks those beyond the share anew before anything is deleted: a run that is stopped, or a
/// restart, does not make the next share come earlier.
Result<void> Retention::postpone(const Run& run) {
  run.report.postponed = run.due.size() - run.share;
  const std::string line = fmt::format(
      "namespace {}: {} outdated snapshots are to be deleted, and one run deletes {}: the others "
      "go on in {} hours; `thaw retain --now` deletes them at once, a tag keeps one",
      run.name, run.due.size(), run.share, limits::kOutdatedTime.count());
  if (run.request.dry_run) {
    run.control.note(line);
    return {};
  }
  run.control.add_finding(line);
  return write_marks(run, std::span(run.due).subspan(run.share), {});
}

/// False if it is in use.
Result<bool> Retention::remove(const Run& run, SnapshotId snapshot) {
  bool removed = false;
  TRY(run.control.write([&]() -> Result<void> {
    // In between it may have got a tag or been deleted, and the settings may be others.
    if (TRY(store_.is_tagged(run.in, snapshot)) || TRY(store_.settings(run.in)) != run.settings) {
      return {};
    }
    removed = TRY(if_found(remove_unless_pinned(store_, pins_, run.in, snapshot))).value_or(true);
    return {};
  }));
  return removed;
}

}  // namespace thaw
