#include "faulthandler/control_server.h"

#include <algorithm>
#include <utility>

#include <poll.h>

#include "base/check.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/limits.h"

namespace thaw {

ControlServer::ControlServer(std::string path, UniqueFd listener, const Tools& tools,
                             ControlCommands commands)
    : path_(std::move(path)),
      socket_(socket_identity(path_)),
      listener_(std::move(listener)),
      tasks_(tools.tasks),
      service_{tools.loop, tools.prepares, tools.others, std::move(commands)},
      task_watch_([this](int result) {
        watch(task_watch_, tasks_.wakeup(), result, [this] { tasks_.run_all(); });
      }),
      prepare_watch_([this](int result) {
        WorkerPool& pool = service_.prepares;
        watch(prepare_watch_, pool.wakeup(), result, [&pool] { pool.finish_done(); });
      }),
      other_watch_([this](int result) {
        WorkerPool& pool = service_.others;
        watch(other_watch_, pool.wakeup(), result, [&pool] { pool.finish_done(); });
      }),
      thread_([this] { run(); }) {}

ControlServer::~ControlServer() {
  if (socket_) remove_file(path_, *socket_);
  CHECK(tasks_.post([this] { stop(); }).has_value());
}

void ControlServer::hear(UniqueFd listener) {
  socket_ = socket_identity(path_);
  // Functions that are copied own nothing that cannot be.
  const auto next = std::make_shared<UniqueFd>(std::move(listener));
  const auto posted = tasks_.post([this, next] { change_listener(std::move(*next)); });
  if (!posted) log_error("control socket: {}", posted.error().message());
}

void ControlServer::change_listener(UniqueFd listener) {
  next_listener_ = std::move(listener);
  service_.loop.cancel(accepting_);
}

void ControlServer::run() {
  service_.loop.poll(tasks_.wakeup(), POLLIN, task_watch_);
  service_.loop.poll(service_.prepares.wakeup(), POLLIN, prepare_watch_);
  service_.loop.poll(service_.others.wakeup(), POLLIN, other_watch_);
  after_turn();
  service_.loop.run({.before = [] {}, .after = [this] { after_turn(); }});
}

void ControlServer::watch(Operation& operation, const UniqueFd& wakeup, int result,
                          const std::function<void()>& act) {
  if (result < 0) return;
  act();
  service_.loop.poll(wakeup, POLLIN, operation);
}

void ControlServer::on_connection(int result) {
  if (result < 0 || stopping_) return;
  auto connection = accept_connection(listener_, Deadline::after(Nanoseconds(0)));
  if (connection) {
    make_room();
    clients_.push_back(std::make_unique<ControlClient>(service_, *std::move(connection)));
  } else if (connection.error().code() != ErrorCode::kTimeout) {
    // Out of descriptors, mostly: the client stays in the queue.
    log_error("control socket: {}", connection.error().message());
    service_.loop.wait(limits::kAcceptPauseMost, resting_);
  }
}

void ControlServer::on_rested() {}

void ControlServer::make_room() {
  const auto silent = [](const auto& client) { return client->is_silent(); };
  if (std::ranges::count_if(clients_, silent) < std::ptrdiff_t{limits::kMaxSilentClients}) return;
  (*std::ranges::find_if(clients_, silent))->close();
}

void ControlServer::after_turn() {
  std::erase_if(clients_, [](const auto& client) { return client->finished(); });
  if (stopping_) {
    if (clients_.empty()) service_.loop.stop();
    return;
  }
  if (next_listener_.valid() && !accepting_.active()) listener_ = std::move(next_listener_);
  const bool may_accept = clients_.size() < limits::kMaxControlClients && !resting_.active();
  if (may_accept && !accepting_.active()) service_.loop.poll(listener_, POLLIN, accepting_);
}

void ControlServer::stop() {
  stopping_ = true;
  for (const auto& client : clients_) client->stop();
}

}  // namespace thaw
