#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/file_identity.h"
#include "base/unique_fd.h"
#include "faulthandler/control_client.h"
#include "faulthandler/task_queue.h"

namespace thaw {

/// Answers the control socket. Commands block on page servers, files and the fault handler's loop,
/// and their clients stall: none of that may hold up a fault or another command. So one thread
/// talks to all clients and never waits for one; `prepare` runs in a pool of its own, so that `ps`,
/// `stop` and `--upgrade` find a thread whatever page servers do. Removes the socket on stop.
class ControlServer {
 public:
  /// What it works with, which outlives it. The loop is its own and does not run yet.
  struct Tools {
    Loop& loop;
    TaskQueue& tasks;
    WorkerPool& prepares;
    WorkerPool& others;
  };
  /// `listener` listens at `path`.
  ControlServer(std::string path, UniqueFd listener, const Tools& tools, ControlCommands commands);
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;
  /// Hears clients by another listener at the same path from now on.
  void hear(UniqueFd listener);
  /// Commands under way come to their end, and are answered.
  ~ControlServer();

 private:
  void run();
  void on_connection(int result);
  void on_rested();
  void change_listener(UniqueFd listener);
  void make_room();
  /// Hears new clients unless there are too many, and forgets those that have gone.
  void after_turn();
  void stop();
  /// Has `act` called on its thread whenever the descriptor is readable.
  void watch(Operation& operation, const UniqueFd& wakeup, int result,
             const std::function<void()>& act);

  const std::string path_;
  std::optional<FileIdentity> socket_;  // that the listener has at the path
  UniqueFd listener_;
  UniqueFd next_listener_;  // until the other one is not waited for any more
  TaskQueue& tasks_;
  ControlClient::Service service_;
  std::vector<std::unique_ptr<ControlClient>> clients_;  // the oldest first
  bool stopping_ = false;

  Operation accepting_{[this](int result) { on_connection(result); }};
  Operation resting_{[this](int) { on_rested(); }};
  Operation task_watch_;
  Operation prepare_watch_;
  Operation other_watch_;
  std::jthread thread_;  // the last member: it uses the others
};

}  // namespace thaw
