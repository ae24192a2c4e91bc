#pragma once

#include <array>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/socket.h"
#include "base/unique_fd.h"
#include "faulthandler/control_commands.h"
#include "faulthandler/loop.h"
#include "faulthandler/worker_pool.h"

namespace thaw {

/// One connection to the control socket. A client may stall, hang up or die at any moment. So the
/// connection is watched while its command runs on a pool's thread: if the client goes, its
/// `prepare` is called off, and a session whose reply it did not read is taken back. Every wait has
/// an end. On the control socket's thread.
class ControlClient final : private WorkerPool::Job {
 public:
  struct Service {
    Loop& loop;
    WorkerPool& prepares;
    WorkerPool& others;  // for what waits for the fault handler's loop alone
    const ControlCommands commands;
    std::size_t prepares_under_way = 0;  // those that wait for a thread included
  };
  /// Of the client, which outlives it.
  ControlClient(Service& service, UniqueFd connection);
  virtual ~ControlClient() = default;

  /// Whether it has not said what it wants.
  bool is_silent() const { return state_ == State::kReading; }
  /// Lets the client go, unless a command is under way.
  void close();
  /// The fault handler ends: a command under way comes to its end soon, and its reply is sent.
  void stop();
  /// Whether it may be destroyed.
  bool finished() const;

 private:
  enum class State {
    kReading,
    kRunning,     // its command
    kSending,     // the reply
    kDelivering,  // until the client has read that it has a session
    kTakingBack,  // that session
    kClosed,
  };

  void on_readable(int result);
  void on_piece(Received piece);
  void begin(const ControlRequest& request);
  void work(WorkerPool::Tools& tools) override;
  void on_done() override;
  void reply(const ControlReply& reply);
  void on_sent(int result);
  void on_hang_up(int result);
  void on_undelivered();
  void set_patience(Nanoseconds time);
  void on_patience(int result);
  void on_patience_over();
  /// Whether its command had not begun, and now never will.
  bool take_from_pool();
  bool prepares() const { return std::holds_alternative<control::Prepare>(request_); }
  WorkerPool& pool() const;

  Service& service_;
  const UniqueFd connection_;
  State state_ = State::kReading;
  std::array<std::byte, 4096> piece_;
  std::string line_;
  std::vector<UniqueFd> descriptors_;  // that came with the line
  ControlRequest request_ = control::List{};
  SessionObjects objects_;  // of a prepare
  std::stop_source stop_;
  Preparation result_{Stopped{}, {}};
  bool in_pool_ = false;
  bool hung_up_ = false;
  bool late_ = false;
  std::string reply_;
  std::size_t sent_ = 0;
  Clock::time_point patience_ends_{};

  Operation receiving_{[this](int result) { on_readable(result); }};
  Operation sending_{[this](int result) { on_sent(result); }};
  Operation watching_{[this](int result) { on_hang_up(result); }};
  Operation patience_{[this](int result) { on_patience(result); }};
};

}  // namespace thaw
