#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// How a process ended: by itself with a code, or by a signal.
struct ExitStatus {
  int code = 0;
  int signal = 0;  // 0: none
  /// "exited with code 1", "was killed by signal 9 (SIGKILL)".
  std::string text() const;
  friend bool operator==(const ExitStatus&, const ExitStatus&) = default;
};

struct EnvironmentVariable {
  std::string name;
  std::string value;
};

/// The path of a program that is installed beside the running one.
Result<std::string> program_beside_this_one(const std::string& name);

/// The path of the running program; where it was replaced or removed since, a name by which the
/// kernel still finds it.
std::string own_program();

/// By this name a process starts the program that it runs itself, even if that was replaced or
/// deleted since.
inline constexpr const char* kRunningProgram = "/proc/self/exe";

/// The name that `ps` and `top` show of this process: without it one that was started through
/// kRunningProgram would be called "exe".
void name_process(const std::string& name);

/// What the kernel does with this process when the one that started it ends: kills it (SIGKILL), or
/// lets it go on, even if it was paused.
enum class OrphanFate { kGoesOn, kIsKilled };
Result<void> set_orphan_fate(OrphanFate fate);

/// How many descriptors this process may have, and how many it has.
Result<std::size_t> descriptor_limit();
Result<std::size_t> open_descriptors();

/// Turns this process into another program: returns only when that fails. REQUIRES: a command of at
/// least one word.
Result<void> become(const std::vector<std::string>& command);
/// The same of the program in `file`; the command's first word is only what it is called.
Result<void> become(const std::string& file, const std::vector<std::string>& command);

/// A pipe, of which reading does not block.
struct Pipe {
  UniqueFd reading;
  UniqueFd writing;
};
Result<Pipe> create_pipe();
/// What is in the pipe now, at most this much.
std::string drain_pipe(const UniqueFd& reading, std::size_t most);

/// A program that was started by this one, in a process group of its own, so that it can be ended
/// with what it starts. It is reaped only on destruction: until then nobody else gets its number.
/// One thread.
class ChildProcess {
 public:
  /// Looks the program up in PATH, and adds to our environment. Its stdin is empty; what it writes
  /// to stdout goes to our stderr, so that our own stdout stays ours. No signal is blocked, and
  /// SIGPIPE and SIGXFSZ have their default action.
  /// kNotFound, kPermission. REQUIRES: a command of at least one word.
  static Result<ChildProcess> start(const std::vector<std::string>& command,
                                    const std::vector<EnvironmentVariable>& environment) {
    return start({.command = command, .environment = environment});
  }
  struct Plan {
    std::vector<std::string> command;
    std::string file{};  // the program; empty: the command's first word
    std::vector<EnvironmentVariable> environment{};
    const UniqueFd* passed = nullptr;    // the child finds it under the number kChildDescriptor
    const UniqueFd* messages = nullptr;  // where stdout and stderr go; nullptr: to our stderr
  };
  static Result<ChildProcess> start(const Plan& plan);
  static constexpr int kChildDescriptor = 3;
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  /// Kills all that is left of the group.
  ~ChildProcess();

  /// For wait_for_exit().
  const UniqueFd& pidfd() const { return pidfd_; }
  pid_t pid() const { return pid_; }
  /// Nothing while it runs.
  std::optional<ExitStatus> status() const;
  /// To each process of the group; one that is gone already is fine.
  void signal_group(int signal) const;
  /// Has the process stand still (SIGSTOP) until it is sent SIGCONT: it has ended, or says nothing
  /// more, when this returns. kTimeout.
  Result<void> pause(Deadline deadline) const;

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}

  pid_t pid_;
  UniqueFd pidfd_;
};

}  // namespace thaw
