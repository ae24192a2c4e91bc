#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/descriptor_store.h"
#include "base/file_identity.h"
#include "base/process.h"
#include "base/service_manager.h"
#include "faulthandler/door_maker.h"
#include "faulthandler/errand_service.h"
#include "faulthandler/inheritance.h"
#include "faulthandler/pulse.h"
#include "faulthandler/session_keep.h"
#include "faulthandler/successor_proof.h"

namespace thaw {

/// Starts the process that serves the VMs of this host, holds on to all that must outlive it, and
/// starts another one when it dies, or stands still: that one takes over every session, and the
/// guests go on. VMMs come in by its doors, so that none is lost in between. It does no more than
/// that, so that it has little to die of. One thread.
///
/// An upgrade replaces this program and its handler. The new program is proven beside them first
/// (SuccessorProof). Then a guard holds all descriptors until a handler of the new program serves;
/// if none does, the program before goes on, in this process or in the guard.
class Supervisor final : private SessionKeep::Owner {
 public:
  struct Programs {
    /// Starts a handler, which finds its end of the connection as ChildProcess::kChildDescriptor,
    /// and on it its settings. `handler_file`: the program; empty: the command's first word.
    std::vector<std::string> handler;
    std::string handler_file{};
    /// Has the program that runs wait for orders to open doors (DoorMaker).
    std::vector<std::string> doors{};
    /// Starts the program that is installed now.
    std::vector<std::string> successor{};
    /// Path of the control socket; empty: it has none that could be lost.
    std::string control{};
    /// What each thread that does errands begins with: it gives up rights that they do not need.
    std::function<void()> begin_errands = [] {};
  };
  /// `control` is the listener of the control socket. `before` is what the program before has left;
  /// its settings are those that handlers run by.
  Supervisor(Loop& loop, UniqueFd control, Programs programs, Inheritance before);
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
  /// Opens the log's file again, makes the control socket anew if it is gone, and has the handler
  /// read its files again.
  void reload();

 private:
  static constexpr const char* kOutOfTouch = "is out of touch";

  void keep(const std::string& name, const UniqueFd& descriptor) override {
    manager_.keep(name, descriptor);
  }
  void forget(const std::string& name) override { manager_.forget(name); }
  Result<UniqueFd> open_door(KeepMessage order) override {
    return doors_.open(std::move(order), before_.settings);
  }
  void renew_doors() override { doors_.give_up(); }
  void close(KeptSession kept) override;
  void close_all();
  void show(std::uint64_t session, const ErrandSubject& subject) override {
    errands_.show(session, subject);
  }
  void hide(std::uint64_t session) override { errands_.hide(session); }
  void on_serving() override;
  void on_upgrade() override;
  void on_settings(UniqueFd settings) override;
  void on_handler_lost(KeepChannel::End end) override;
  /// So that another one goes on. `why`: "is out of touch", say.
  void kill_to_replace(const std::string& why);
  void on_stall(Nanoseconds stalled);
  void end_pulse();

  /// Listens anew where the control socket's path leads to another file by now, or to none.
  void renew_control();
  void start_handler();
  Result<void> try_to_start();
  void start_again_later();
  void on_handler_exit(int result);
  /// It was killed, and does not exit: the kernel holds a thread of it in a call. None of its code
  /// runs any more, so another one goes on.
  void on_unkillable();
  /// `served`: it has.
  void go_on_without(const ExitStatus& status, bool served);
  /// Its process is dead when it returns.
  Result<void> kill_handler();
  void on_proof(Result<UniqueFd> settings);
  void fail_upgrade(const std::string& reason);
  /// Becomes the proven program, as soon as no VMM's handoff is under way. Connections that have
  /// handed nothing over hold that up for limits::kUpgradeDoors.
  void upgrade();
  /// No handler of this program has served: becomes the program before again.
  void go_back(const std::string& reason);
  /// Nor has one of the program before, in this process: ends, so that the guard goes on.
  void leave_to_guard(const std::string& reason);
  void on_probation_over();
  /// With all that is kept. `file`: the program.
  [[noreturn]] void become_another(const std::string& file, const std::vector<std::string>& command,
                                   std::vector<NamedDescriptor> kept);
  void tell_alive();
  void tidy();
  /// A guard has all that this process has, and goes on.
  void leave();
  /// Ends, as soon as no VMM reads zeros without this process.
  void stop(int exit_code);

  Loop& loop_;
  const Programs programs_;
  ServiceManager manager_;
  std::function<void()> on_ready_;
  Inheritance before_;
  std::optional<FileIdentity> control_;  // of the socket's file
  ErrandService errands_;
  DoorMaker doors_;
  SessionKeep keep_;

  std::optional<ChildProcess> handler_;
  std::list<ChildProcess> held_handlers_;  // killed, and not dead
  std::vector<KeptSession> unclosed_;      // which no process could be had for
  UniqueFd pulse_event_;                   // of the handler
  std::unique_ptr<PulseWatch> pulse_;      // from the moment that it serves
  std::vector<std::unique_ptr<PulseWatch>> ended_pulses_;
  Nanoseconds stall_patience_{limits::kStalled};
  Clock::time_point stalled_at_;           // last
  std::unique_ptr<SuccessorProof> proof_;  // nullptr: no program is being proven
  std::vector<std::unique_ptr<SuccessorProof>> ended_proofs_;
  UniqueFd successor_;             // the proven program's settings
  Clock::time_point proven_at_{};  // when they came
  bool announced_ = false;         // that there is one which serves
  Nanoseconds pause_{limits::kRestartFirst};
  Clock::time_point served_since_;
  int last_signal_ = 0;  // 0: none came
  int exit_code_ = 0;
  bool stopping_ = false;

  Operation telling_{[this](int result) {
    if (result == -ETIME) tell_alive();
  }};
  Operation exiting_{[this](int result) { on_handler_exit(result); }};
  Operation dying_{[this](int result) {
    if (result == -ETIME) on_unkillable();
  }};
  Operation closing_{[this](int result) {
    if (result == -ETIME) close_all();
  }};
  Operation restarting_{[this](int result) {
    if (result == -ETIME) start_handler();
  }};
  Operation upgrading_{[this](int result) {
    if (result == -ETIME) upgrade();
  }};
  Operation losing_{[this](int result) {
    if (result == -ETIME) kill_to_replace(kOutOfTouch);
  }};
  Operation probation_{[this](int result) {
    if (result == -ETIME) on_probation_over();
  }};
};

}  // namespace thaw
