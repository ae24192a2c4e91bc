#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/descriptor_store.h"
#include "base/process.h"
#include "faulthandler/session_keep.h"

namespace thaw {

/// Starts the process that serves the VMs of this host, holds on to all that must outlive it, and
/// starts another one when it dies: that one takes over every session, and the guests go on. VMMs
/// come in here, so that none is lost in between. It does no more than that, so that it has little
/// to die of. One thread.
class Supervisor final : private SessionKeep::Owner {
 public:
  struct Commands {
    /// Starts a handler, which finds its end of the connection as ChildProcess::kChildDescriptor.
    std::vector<std::string> handler;
    /// Starts a supervisor.
    std::vector<std::string> supervisor;
  };
  /// `control` is the listener of the control socket.
  Supervisor(Loop& loop, UniqueFd control, Commands commands);
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;
  virtual ~Supervisor() = default;

  /// Goes on with what a supervisor before has kept, the service manager's descriptors or those
  /// that came with an upgrade; the control socket is not among them. Before run().
  void take_over(std::vector<NamedDescriptor> kept);
  /// Runs until the handler has ended by itself, or could not even begin. Returns its exit code.
  /// `on_ready` is called when the first handler serves.
  int run(std::function<void()> on_ready);
  /// Passes a signal on to the handler.
  void signal(int number);

 private:
  void keep(const std::string& name, const UniqueFd& descriptor) override {
    manager_.keep(name, descriptor);
  }
  void forget(const std::string& name) override { manager_.forget(name); }
  void on_serving() override;
  void on_upgrade() override;

  void start_handler();
  Result<void> try_to_start();
  void start_again_later();
  void on_handler_exit(int result);
  /// Becomes the program that is installed now, as soon as no VMM is in a door.
  void upgrade();
  void stop(int exit_code);

  Loop& loop_;
  const Commands commands_;
  ServiceManager manager_;
  std::function<void()> on_ready_;
  SessionKeep keep_;

  std::optional<ChildProcess> handler_;
  bool announced_ = false;  // that there is one which serves
  Nanoseconds pause_{limits::kRestartFirst};
  int last_signal_ = 0;  // 0: none came
  int exit_code_ = 0;

  Operation exiting_{[this](int result) { on_handler_exit(result); }};
  Operation restarting_{[this](int result) {
    if (result == -ETIME) start_handler();
  }};
  Operation upgrading_{[this](int result) {
    if (result == -ETIME) upgrade();
  }};
};

}  // namespace thaw
