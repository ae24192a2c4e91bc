#include "cli/record.h"

#include <algorithm>
#include <csignal>
#include <optional>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/event_fd.h"
#include "base/log.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/temporary_directory.h"
#include "cli/limits.h"
#include "format/control_channel.h"
#include "format/prepare_session.h"

namespace thaw {

namespace {

/// A session of the fault handler; on destruction it and its VM are ended.
class RecordedSession {
 public:
  static Result<RecordedSession> prepare(const std::string& control,
                                         const control::Prepare& request) {
    return RecordedSession(control, TRY(prepare_session(control, request)).session);
  }
  RecordedSession(RecordedSession&& other) noexcept
      : control_(std::move(other.control_)), number_(std::exchange(other.number_, 0)) {}
  RecordedSession& operator=(RecordedSession&&) = delete;
  ~RecordedSession() {
    if (number_ == 0) return;
    if (const auto ended = end(); !ended && ended.error().code() != ErrorCode::kNotFound) {
      log_warning("session {} may still be there: {}", number_, ended.error().message());
    }
  }

  /// kNotFound when the handler has forgotten it.
  Result<SessionReport> report() const {
    const ControlReply reply = TRY(ask_fault_handler(control_, control::List{}));
    const auto& sessions = std::get<HandlerReport>(reply).sessions;
    const auto found = std::ranges::find(sessions, number_, &SessionReport::session);
    if (found == sessions.end()) {
      return fail(ErrorCode::kNotFound, "the fault handler knows no session {}", number_);
    }
    return *found;
  }

  /// Waits until no VMM is there any more, or yet. kTimeout.
  Result<void> wait_for_vmm_exit(Deadline deadline) const {
    while (true) {
      const SessionReport now = TRY(report());
      if (now.state == SessionState::kEnded || now.state == SessionState::kPrepared) return {};
      if (deadline.passed()) return fail(ErrorCode::kTimeout, "the VM did not exit");
      std::this_thread::sleep_for(limits::kRunPoll);
    }
  }

 private:
  RecordedSession(std::string control, std::uint64_t number)
      : control_(std::move(control)), number_(number) {}

  Result<void> end() const {
    const SessionReport now = TRY(report());
    if (now.state == SessionState::kEnded) return {};
    TRY(ask_fault_handler(control_, control::Stop{number_, control::StopMode::kKill}));
    return wait_for_vmm_exit(Deadline::after(limits::kSessionEnd));
  }

  std::string control_;
  std::uint64_t number_;  // 0: moved from
};

/// Why no recording will come of this session any more, unless what is on its way still does it;
/// nothing while there is hope.
std::optional<std::string> obstacle(const SessionReport& session,
                                    const std::optional<ExitStatus>& exit) {
  if (session.state == SessionState::kEnded && session.recording != RecordingState::kUploading) {
    return session.outcome;
  }
  if (session.state == SessionState::kPrepared && exit) {
    return fmt::format("the command {} before a VMM had connected", exit->text());
  }
  return std::nullopt;
}

/// Fills in what comes of the recording.
Result<void> watch(const RecordedSession& session, const ChildProcess& command,
                   const UniqueFd& stop_signals, Deadline deadline, RecordedRun& run) {
  std::optional<Deadline> settled;
  while (true) {
    const auto exit = command.status();
    const SessionReport now = TRY(session.report());
    run.pages = now.recorded_pages;
    if (now.recording == RecordingState::kStored) return {};
    if (now.recording == RecordingState::kFailed) run.problem = "the recording failed";
    if (now.state == SessionState::kRefused) run.problem = now.outcome;
    if (deadline.passed()) {
      run.problem = fmt::format("it took too long: the session is {}, its recording {}",
                                session_state_name(now.state), recording_state_name(now.recording));
    }
    if (const auto why = obstacle(now, exit)) {
      if (!settled) settled = Deadline::after(limits::kRunSettle);
      if (settled->passed()) run.problem = *why;
    }
    if (!run.problem.empty()) return {};
    if (wait_until_readable(stop_signals, Deadline::after(limits::kRunPoll))) {
      return fail(ErrorCode::kStopped, "stopped in run {}", run.number);
    }
  }
}

/// SIGTERM for the command's group, and some time for it and the VMM to exit.
void end_gently(const ChildProcess& command, const RecordedSession& session) {
  const Deadline deadline = Deadline::after(limits::kCommandExit);
  command.signal_group(SIGTERM);
  // Those that are left by then are killed with the objects' end.
  if (!wait_for_exit(command.pidfd(), deadline)) return;
  if (!session.wait_for_vmm_exit(deadline)) return;
}

Result<RecordedRun> record_run(const RecordOptions& options, unsigned number,
                               const UniqueFd& stop_signals) {
  const TemporaryDirectory directory = TRY(TemporaryDirectory::create("thaw-record"));
  control::Prepare request = options.prepare;
  request.socket = directory.path("vm.sock");
  std::vector<EnvironmentVariable> environment{{"THAW_RUN", std::to_string(number)},
                                               {"THAW_SOCKET", request.socket}};
  if (options.with_state) {
    request.state_out = directory.path("vm.state");
    environment.push_back({"THAW_STATE", request.state_out});
  }
  const RecordedSession session = TRY(RecordedSession::prepare(options.control, request));
  const auto started = Clock::now();
  const ChildProcess command = TRY(ChildProcess::start(options.command, environment));
  RecordedRun run{.number = number, .problem = {}};
  const auto most =
      limits::kRunStart + std::chrono::milliseconds(request.record_most_ms) + limits::kRunStore;
  const auto watched = watch(session, command, stop_signals, Deadline::after(most), run);
  run.seconds = std::chrono::duration<double>(Clock::now() - started).count();
  end_gently(command, session);
  if (!watched) return std::unexpected(watched.error());
  return run;
}

}  // namespace

Result<std::vector<RecordedRun>> record_runs(
    const RecordOptions& options, const UniqueFd& stop_signals,
    const std::function<void(const RecordedRun&)>& on_run) {
  std::vector<RecordedRun> runs;
  for (unsigned number = 1; number <= options.runs; ++number) {
    runs.push_back(TRY(record_run(options, number, stop_signals)));
    on_run(runs.back());
  }
  return runs;
}

}  // namespace thaw
