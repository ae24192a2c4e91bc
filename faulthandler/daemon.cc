#include "faulthandler/daemon.h"

#include <future>

#include <poll.h>

#include "base/event_fd.h"
#include "base/log.h"
#include "faulthandler/limits.h"

namespace thaw {

Result<std::unique_ptr<TaskQueue>> TaskQueue::create() {
  UniqueFd wakeup = TRY(create_event_fd());
  return std::unique_ptr<TaskQueue>(new TaskQueue(std::move(wakeup)));
}

Result<void> TaskQueue::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (tasks_.size() >= limits::kMaxPostedTasks) {
      return fail(ErrorCode::kLimitExceeded, "{} commands are waiting already", tasks_.size());
    }
    tasks_.push_back(std::move(task));
  }
  signal_event_fd(wakeup_);
  return {};
}

void TaskQueue::run_all() {
  clear_event_fd(wakeup_);
  std::deque<std::function<void()>> due;
  {
    const std::lock_guard lock(mutex_);
    due.swap(tasks_);
  }
  for (const auto& task : due) task();
}

Daemon::Daemon(Loop& loop, TaskQueue& tasks, DaemonOptions options)
    : loop_(loop),
      tasks_(tasks),
      options_(std::move(options)),
      source_(options_.server),
      placement_(options_.placement),
      task_watch_([this](int result) { watch_tasks(result); }) {}

Daemon::~Daemon() = default;

template <typename T>
Result<T> Daemon::on_loop(std::function<Result<T>()> task) {
  auto promise = std::make_shared<std::promise<Result<T>>>();
  auto future = promise->get_future();
  TRY(tasks_.post([promise, task = std::move(task)] { promise->set_value(task()); }));
  if (future.wait_for(limits::kControlTimeout) != std::future_status::ready) {
    return fail(ErrorCode::kTimeout, "the fault handler's loop did not answer");
  }
  return future.get();
}

ControlReply Daemon::handle(const ControlRequest& request) {
  if (const auto* wanted = std::get_if<control::Prepare>(&request)) return prepare(*wanted);
  if (const auto* wanted = std::get_if<control::Stop>(&request)) {
    const auto stopped = on_loop<void>([this, request = *wanted] { return stop_session(request); });
    if (!stopped) return stopped.error();
    return Stopped{};
  }
  auto reports = on_loop<std::vector<SessionReport>>(
      [this] { return Result<std::vector<SessionReport>>(list()); });
  if (!reports) return reports.error();
  return *std::move(reports);
}

ControlReply Daemon::prepare(const control::Prepare& request) {
  const std::string name_space =
      request.name_space.empty() ? options_.name_space : request.name_space;
  if (request.owner_uid.has_value() != request.owner_gid.has_value()) {
    return Error(ErrorCode::kInvalidArgument, "an owner has both a user and a group id");
  }
  std::optional<FileOwner> owner;
  if (request.owner_uid) owner = FileOwner{*request.owner_uid, *request.owner_gid};

  auto image = source_.prepare(name_space, request.snapshot, request.state_out, owner);
  if (!image) return image.error();
  auto listener = listen_unix(request.socket, owner);
  if (!listener) return listener.error();
  auto options =
      std::make_shared<SessionOptions>(SessionOptions{.id = 0,
                                                      .socket_path = request.socket,
                                                      .listener = *std::move(listener),
                                                      .image = *image,
                                                      .on_unservable = request.on_unservable,
                                                      .around = options_.around});
  const auto session = on_loop<std::uint64_t>(
      [this, options, name_space] { return add_session(std::move(*options), name_space); });
  if (!session) {
    remove_file(request.socket);
    return session.error();
  }
  const SnapshotSpec& spec = (*image)->manifest.spec;
  return control::Prepared{*session, request.socket, spec.memory, spec.state, spec.regions};
}

Result<std::uint64_t> Daemon::add_session(SessionOptions options, const std::string& name_space) {
  if (stopping_) return fail(ErrorCode::kStopped, "the fault handler is stopping");
  if (sessions_.size() >= limits::kMaxSessions) {
    return fail(ErrorCode::kLimitExceeded, "{} sessions are the limit", limits::kMaxSessions);
  }
  const std::uint64_t id = next_session_++;
  options.id = id;
  Session::Owner& owner = *this;  // a private base: make_unique may not convert
  auto session = std::make_unique<Session>(loop_, link(name_space), std::move(options), owner);
  session->start();
  sessions_.emplace(id, std::move(session));
  return id;
}

DemandLink& Daemon::link(const std::string& name_space) {
  auto& link = links_[name_space];
  if (link == nullptr) {
    link = std::make_unique<DemandLink>(loop_, options_.server, name_space);
  }
  return *link;
}

std::vector<SessionReport> Daemon::list() const {
  std::vector<SessionReport> reports(ended_.begin(), ended_.end());
  for (const auto& [id, session] : sessions_) reports.push_back(session->report());
  return reports;
}

Result<void> Daemon::stop_session(const control::Stop& request) {
  const auto found = sessions_.find(request.session);
  if (found == sessions_.end()) {
    return fail(ErrorCode::kNotFound, "there is no session {}", request.session);
  }
  return found->second->stop(request.mode);
}

void Daemon::run() {
  loop_.poll(tasks_.wakeup(), POLLIN, task_watch_);
  loop_.run({.before = [this] { placement_.before_turn(); }, .after = [this] { after_turn(); }});
}

void Daemon::watch_tasks(int result) {
  if (result < 0) return;
  tasks_.run_all();
  loop_.poll(tasks_.wakeup(), POLLIN, task_watch_);
}

void Daemon::after_turn() {
  placement_.after_turn();
  loop_.set_spin(placement_.spin());
  if (any_ended_ || stopping_) forget_ended();
}

void Daemon::forget_ended() {
  any_ended_ = false;
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    if (!it->second->finished()) {
      if (it->second->state() == SessionState::kEnded) any_ended_ = true;
      ++it;
      continue;
    }
    ended_.push_back(it->second->report());
    if (ended_.size() > limits::kMaxEndedReports) ended_.pop_front();
    it = sessions_.erase(it);
  }
  if (!stopping_ || !sessions_.empty()) return;
  for (const auto& [name_space, link] : links_) link->close();
  loop_.stop();
}

void Daemon::request_stop() {
  const auto mode = stopping_ ? control::StopMode::kKill : control::StopMode::kRefuseIfAlive;
  for (const auto& [id, session] : sessions_) {
    if (const auto stopped = session->stop(mode); !stopped) {
      log_warning("stopping when it has exited: {}; a second signal kills it",
                  stopped.error().message());
    }
  }
  stopping_ = true;
}

}  // namespace thaw
