#pragma once

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

/// Lets this process, and those that it starts, have as many descriptors as the system allows it.
Result<void> raise_descriptor_limit();

/// Turns this process into another program: returns only when that fails. REQUIRES: a command of at
/// least one word.
Result<void> become(const std::vector<std::string>& command);

/// A program that was started by this one, in a process group of its own, so that it can be ended
/// with what it starts. It is reaped only on destruction: until then nobody else gets its number.
/// One thread.
class ChildProcess {
 public:
  /// Looks the program up in PATH, and adds to our environment. Its stdin is empty; what it writes
  /// to stdout goes to our stderr, so that our own stdout stays ours. No signal is blocked.
  /// kNotFound, kPermission. REQUIRES: a command of at least one word.
  static Result<ChildProcess> start(const std::vector<std::string>& command,
                                    const std::vector<EnvironmentVariable>& environment) {
    return start(command, environment, UniqueFd());
  }
  /// The same, with a descriptor that the child finds under the number kChildDescriptor.
  static Result<ChildProcess> start(const std::vector<std::string>& command,
                                    const std::vector<EnvironmentVariable>& environment,
                                    const UniqueFd& passed);
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

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}

  pid_t pid_;
  UniqueFd pidfd_;
};

}  // namespace thaw
