#include "faulthandler/daemon.h"

#include <algorithm>

#include <poll.h>

#include "base/check.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/process.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

/// A working set of so few recordings that more are wanted soon: of one restore in eight.
constexpr std::uint8_t kFewRecordings = 3;
constexpr std::uint32_t kSoon = 8;
/// A set of so few pages and recordings may be what VMMs touched whose guests never ran. Such a
/// restore is recorded, as if there were none.
constexpr std::uint64_t kTinySetPages = 64;

}  // namespace

Daemon::Daemon(Loop& loop, TaskQueue& tasks, WorkerPool& workers, Supervised supervised,
               DaemonOptions options)
    : loop_(loop),
      tasks_(tasks),
      workers_(workers),
      options_(std::move(options)),
      places_(options_.servers.begin(), options_.servers.end()),
      unresolved_(options_.unresolved),
      servers_(options_.servers),
      source_(servers_, options_.index_budget),
      placement_(options_.placement),
      images_(options_.image_budget),
      on_serving_(std::move(supervised.on_serving)),
      on_alone_(std::move(supervised.on_alone)),
      errands_(loop, std::move(supervised.errands)),
      sessions_(loop, std::move(supervised.supervisor), *this),
      task_watch_([this](int result) { watch_tasks(result); }),
      worker_watch_([this](int result) { watch_workers(result); }),
      reports_(servers_, uploader_,
               [this](std::uint64_t session, RecordingState state) {
                 // A full queue loses what a report says, not the recording.
                 static_cast<void>(
                     tasks_.post([this, session, state] { note_recording(session, state); }));
               }),
      damage_(servers_, uploader_) {}

Daemon::~Daemon() = default;

ControlReply Daemon::handle(const ControlRequest& request) {
  CHECK(!std::holds_alternative<control::Prepare>(request));
  if (const auto* wanted = std::get_if<control::Stop>(&request)) {
    const auto stopped =
        tasks_.run<void>([this, request = *wanted] { return stop_session(request); });
    if (!stopped) return stopped.error();
    return Stopped{};
  }
  if (std::holds_alternative<control::Upgrade>(request)) {
    const auto asked = tasks_.run<std::uint64_t>(
        [this] { return Result<std::uint64_t>(sessions_.ask_for_upgrade()); });
    if (!asked) return asked.error();
    return Upgrading{*asked};
  }
  auto reports = tasks_.run<HandlerReport>([this] { return Result<HandlerReport>(list()); });
  if (!reports) return reports.error();
  return *std::move(reports);
}

SessionOptions Daemon::session_options(const control::Prepare& request,
                                       const PreparedSnapshot& snapshot, WindowUse use) const {
  const auto cold = std::shared_ptr<const ColdMap>(snapshot.image, &snapshot.image->cold);
  const bool prefetches = request.prefetch && use != WindowUse::kRecord;
  return SessionOptions{
      .id = 0,
      .socket_path = request.socket,
      .on_unservable = request.on_unservable,
      .unservable_after = std::chrono::milliseconds(request.unservable_after_ms),
      .trace_out = request.trace_out,
      .serve = {.image = snapshot.image,
                .places = snapshot.places,
                .around = options_.around,
                .prefetch = {},
                .memory_patience = request.unservable_after_ms > 0
                                       ? std::chrono::milliseconds(request.unservable_after_ms)
                                       : Nanoseconds(limits::kMemoryPatience),
                .plan = {.set = prefetches ? snapshot.set : nullptr,
                         .hydrate_bytes_per_s = request.hydrate_bytes_per_s,
                         .cold = cold->empty() ? nullptr : cold,
                         // In an image they would be pages for pages that nobody may touch.
                         .rest_zeros = request.shared ? ZeroPages::kNot : ZeroPages::kToo},
                .window = {.idle = std::chrono::milliseconds(request.record_idle_ms),
                           .most = std::chrono::milliseconds(request.record_most_ms)},
                .window_use = use}};
}

WindowUse Daemon::window_use(const control::Prepare& request, const PreparedSnapshot& snapshot) {
  const WindowUse otherwise = request.trace_out.empty() ? WindowUse::kNone : WindowUse::kTrace;
  if (request.record == RecordMode::kNever) return otherwise;
  if (request.record == RecordMode::kAlways || snapshot.has_no_set) return WindowUse::kRecord;
  if (options_.record_every == 0 || snapshot.set == nullptr) return otherwise;
  const bool wants_more = snapshot.set->recordings() < kFewRecordings;
  if (wants_more && snapshot.set->page_count() < kTinySetPages) return WindowUse::kRecord;
  const std::lock_guard lock(restores_mutex_);
  if (restores_.size() >= limits::kMaxCountedSnapshots) restores_.clear();
  const SnapshotId id = snapshot.image->manifest.snapshot;
  const std::uint64_t count = ++restores_[{snapshot.image->origin, id}];
  const std::uint32_t every =
      wants_more ? std::min(kSoon, options_.record_every) : options_.record_every;
  return count % every == 0 ? WindowUse::kRecord : otherwise;
}

Result<Daemon::Added> Daemon::add_session(NewSession added, MemoryUse use) {
  if (draining_) return fail(ErrorCode::kStopped, "the fault handler is stopping");
  if (sessions_.all().size() >= limits::kMaxSessions) {
    return fail(ErrorCode::kLimitExceeded, "{} sessions are the limit", limits::kMaxSessions);
  }
  TRY(check_descriptors(added.open_descriptors, use));
  SessionOptions& options = added.options;
  Links& server = *TRY(links(options.serve.image->origin));
  set_up(options, server);
  if (use == MemoryUse::kShared) {
    options.shared = TRY(images_.get(loop_, server.demand, options.serve, added.user));
    added.kept[KeptRole::kImageFile] = TRY(duplicate(options.shared->file()));
    added.kept[KeptRole::kImageView] = TRY(duplicate(options.shared->view()));
    added.kept[KeptRole::kImageRecord] = TRY(duplicate(options.shared->record().file()));
  }
  const std::uint64_t id = sessions_.add({server.demand, std::move(options)},
                                         std::move(added.record), std::move(added.kept));
  last_generation_ = std::max(last_generation_ + 1, unix_milliseconds());
  return Added{id, last_generation_};
}

Result<void> Daemon::check_descriptors(std::size_t open, MemoryUse use) const {
  const auto of_supervisor = [](bool shared) {
    return shared ? limits::kKeptSharedDescriptors : limits::kKeptDescriptors;
  };
  std::size_t here = open + limits::kSpareDescriptors + limits::kArrivalDescriptors;
  std::size_t there = limits::kSupervisorDescriptors + of_supervisor(use == MemoryUse::kShared);
  for (const auto& [id, session] : sessions_.all()) {
    if (session->state() == SessionState::kPrepared) here += limits::kArrivalDescriptors;
    there += of_supervisor(session->options().shared != nullptr);
  }
  const std::size_t limit = TRY(descriptor_limit());
  if (std::max(here, there) <= limit) return {};
  return fail(ErrorCode::kNoDescriptors,
              "with one session more {} may be needed, and {} are the limit: raise it (ulimit -n, "
              "LimitNOFILE=)",
              std::max(here, there), limit);
}

void Daemon::set_up(SessionOptions& options, Links& server) {
  options.serve.prefetch.emplace(server.prefetch, workers_, buffers_);
  options.serve.local = &images_.chunks(options.serve.image->origin);
}

Result<Daemon::Links*> Daemon::links(const Origin& origin) {
  if (const auto found = links_.find(origin); found != links_.end()) return found->second.get();
  // The loop holds on to their memory, so that they cannot go before it. Those of a store that is
  // not there any more are used again, and others only when there are too many.
  const bool full = links_.size() >= limits::kMaxLinks;
  const auto unused = std::ranges::find_if(links_, [&](const auto& entry) {
    return (full || entry.first.name_space == origin.name_space) && entry.second->demand.unused() &&
           entry.second->prefetch.unused();
  });
  if (unused != links_.end()) {
    auto links = links_.extract(unused);
    links.key() = origin;
    report_damage(*links.mapped(), origin);
    links.mapped()->demand.serve(origin);
    links.mapped()->prefetch.serve(origin);
    return links_.insert(std::move(links)).position->second.get();
  }
  if (full) {
    return fail(ErrorCode::kLimitExceeded, "sessions are of {} stores and namespaces already",
                links_.size());
  }
  auto links = std::make_unique<Links>(loop_, places_, origin);
  report_damage(*links, origin);
  return links_.emplace(origin, std::move(links)).first->second.get();
}

void Daemon::report_damage(Links& links, const Origin& origin) {
  links.demand.on_damage([this, origin](const Damage& damage) { damage_.note(origin, damage); });
}

void Daemon::note_recording(std::uint64_t session, RecordingState state) {
  if (Session* const found = sessions_.find(session)) return found->set_recording(state);
  const auto ended = std::ranges::find(sessions_.ended(), session, &SessionReport::session);
  if (ended != sessions_.ended().end()) ended->recording = state;
}

HandlerReport Daemon::list() const {
  HandlerReport handler;
  handler.upgrades = sessions_.settled_upgrades();
  handler.upgrade_failure = sessions_.upgrade_failure();
  for (std::size_t i = 0; i < places_.size(); ++i) {
    if (places_[i]) handler.servers.push_back(report(i));
  }
  for (const std::string& name : unresolved_) {
    handler.servers.push_back({.address = name, .state = ServerState::kAway});
  }
  for (const auto& [origin, links] : links_) handler.hedges += links->demand.hedges();
  handler.sessions.assign(sessions_.ended().begin(), sessions_.ended().end());
  handler.damaged = damage_.noted();
  handler.index_bytes = source_.budget().held().value;
  handler.index_bytes_most = source_.budget().most().value;
  handler.unserved_us = static_cast<std::uint64_t>(sessions_.outage().count()) / 1000;
  handler.totals = sessions_.ended_totals();
  for (const auto& [id, session] : sessions_.all()) {
    handler.sessions.push_back(session->report());
    handler.totals += handler.sessions.back();
  }
  return handler;
}

ServerReport Daemon::report(std::size_t server) const {
  ServerReport worst;
  worst.address = places_[server]->text();
  for (const auto& [origin, links] : links_) {
    const ServerReport one = links->demand.report(server);
    worst.requests += one.requests;
    // Where nobody needs it any more, nobody looks whether it is back.
    if (links->demand.unused()) continue;
    worst.state = std::max(worst.state, one.state);
    worst.away_ms = std::max(worst.away_ms, one.away_ms);
  }
  return worst;
}

void Daemon::take_servers(const std::vector<ServerAddress>& servers,
                          std::vector<std::string> unresolved, UniqueFd settings) {
  ServerSet answering;
  for (const auto& [origin, links] : links_) {
    for (std::size_t i = 0; i < places_.size(); ++i) {
      if (links->demand.is_ready(i)) answering.set(i);
    }
  }
  places_ = place_servers(places_, servers, answering);
  unresolved_ = std::move(unresolved);
  servers_.set(servers_in(places_));
  for (const auto& [origin, links] : links_) {
    links->demand.set_servers(places_);
    links->prefetch.set_servers(places_);
  }
  sessions_.keep_settings(std::move(settings));
}

Result<void> Daemon::stop_session(const control::Stop& request) {
  Session* const session = sessions_.find(request.session);
  const bool ends = session != nullptr && session->state() != SessionState::kEnded;
  if (ends) return session->stop(request.mode);
  const auto& ended = sessions_.ended();
  if (session != nullptr ||
      std::ranges::find(ended, request.session, &SessionReport::session) != ended.end()) {
    return fail(ErrorCode::kNotFound, "session {} has ended", request.session);
  }
  return fail(ErrorCode::kNotFound, "there is no session {}", request.session);
}

void Daemon::run() {
  take_precedence();
  loop_.poll(tasks_.wakeup(), POLLIN, task_watch_);
  loop_.poll(workers_.wakeup(), POLLIN, worker_watch_);
  loop_.run({.before = [this] { placement_.before_turn(); }, .after = [this] { after_turn(); }});
}

void Daemon::watch_tasks(int result) {
  if (result < 0) return;
  tasks_.run_all();
  loop_.poll(tasks_.wakeup(), POLLIN, task_watch_);
}

void Daemon::watch_workers(int result) {
  if (result < 0) return;
  workers_.finish_done();
  loop_.poll(workers_.wakeup(), POLLIN, worker_watch_);
}

void Daemon::after_turn() {
  placement_.set_bulk_work(workers_.busy());
  placement_.after_turn();
  loop_.set_spin(placement_.spin());
  images_.tidy();
  if (any_ended_ || draining_) forget_ended();
}

void Daemon::forget_ended() {
  if (draining_) {
    for (const auto& [id, session] : sessions_.all()) {
      if (session->state() != SessionState::kDetached) continue;
      static_cast<void>(session->stop(control::StopMode::kRefuseIfAlive));  // which it does not
    }
  }
  any_ended_ = !sessions_.forget_ended();
  if (!draining_ || !sessions_.all().empty()) return;
  images_.stop();
  if (!images_.finished()) return;
  for (const auto& [origin, links] : links_) {
    links->prefetch.close();
    links->demand.close();
  }
  loop_.stop();
}

void Daemon::request_stop() {
  drain(asked_to_stop_ ? control::StopMode::kKill : control::StopMode::kRefuseIfAlive);
  asked_to_stop_ = true;
}

void Daemon::drain(control::StopMode mode) {
  draining_ = true;
  for (const auto& [id, session] : sessions_.all()) {
    const bool needs_nobody = session->state() == SessionState::kDetached;
    const auto stopped = session->stop(needs_nobody ? control::StopMode::kRefuseIfAlive : mode);
    if (!stopped) {
      const bool has_vmm = session->state() != SessionState::kEnded;
      log_warning("stopping when it has exited: {}{}", stopped.error().message(),
                  has_vmm ? "; a second signal kills it" : "");
    }
  }
}

}  // namespace thaw
