#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/process.h"
#include "base/unique_fd.h"

namespace thaw::test {

/// Whether the programs have a sanitizer in them, which a test's own object does not know.
bool programs_are_sanitized();
inline const bool kSanitized = programs_are_sanitized();

/// How long a test waits for anything that a program is to do.
inline const std::chrono::seconds kPatience{kSanitized ? 60 : 30};
/// By how much the memory of a program may grow of which nothing was asked: that of a sanitizer,
/// which keeps what is freed for a while and takes notes.
inline const std::size_t kSanitizerBytes = kSanitized ? 512u << 20 : 0;

/// Where the built programs are.
std::string program_path(const std::string& name);

/// Where a program runs and where its messages go.
struct Surroundings {
  std::vector<unsigned> cpus;                         // those it may run on; empty: all
  std::string messages;                               // file for its stderr; empty: ours
  std::string host = "127.0.0.1";                     // where a server listens, or unix:PATH
  std::vector<EnvironmentVariable> environment = {};  // beside ours

  static Surroundings with(std::vector<EnvironmentVariable> environment) {
    Surroundings surroundings;
    surroundings.environment = std::move(environment);
    return surroundings;
  }
};

/// A child process with pipes to its stdin and from its stdout. Killed and reaped on destruction,
/// its worker too.
/// One thread.
class Program {
 public:
  explicit Program(const std::vector<std::string>& command, const Surroundings& surroundings = {});
  Program(Program&& other) noexcept;
  Program& operator=(Program&&) = delete;
  ~Program();

  pid_t pid() const { return pid_; }
  /// Of its first thread, oldest first.
  std::vector<pid_t> children() const;
  /// The process that does its work, of a program that supervises another: its only child; 0: there
  /// is none now.
  pid_t worker() const;
  /// The rest of the next line of stdout that begins with `prefix`.
  Result<std::string> wait_for_line(const std::string& prefix);
  /// Gives the program a line, which ours take as leave to go on.
  void tell(const std::string& line);
  void signal(int number);
  /// The exit status, or 128 and the number of the signal that ended it; kTimeout.
  Result<int> wait();
  /// What of stdout no wait_for_line() has taken, to its end.
  std::string rest_of_output();

 private:
  pid_t pid_ = -1;
  UniqueFd input_;
  UniqueFd output_;
  std::string buffer_;
};

/// What each open descriptor of a process refers to, such as "socket:[123]".
std::vector<std::string> open_descriptors(pid_t pid);
/// How many there are, once no more than `most` are left, or when patience ends.
std::size_t open_descriptors_down_to(pid_t pid, std::size_t most);

/// What stands behind the name in /proc/PROCESS/stat, from the state on; empty when it has gone.
std::string stat_fields(const std::string& process);
/// How much CPU time all threads of a process have used.
std::chrono::milliseconds cpu_time(pid_t pid);

/// Memory of a process that is present, in bytes.
std::size_t resident_bytes(pid_t pid);
/// The most that was ever present of it; nothing once it has ended.
std::optional<std::size_t> peak_resident_bytes(pid_t pid);

struct Outcome {
  int exit_code;
  std::string output;
};
/// Runs a program to its end.
Outcome run(const std::vector<std::string>& command);

/// The real page server on a store directory and a port of its own.
class PageServer {
 public:
  explicit PageServer(std::string store, std::uint64_t min_free_mib = 0,
                      Surroundings surroundings = {});
  /// The address is the same after every start.
  void start();
  void kill();
  /// SIGTERM; returns its exit status.
  Result<int> stop();
  /// It stands still once this returns, until resume().
  void suspend();
  void resume();

  const std::string& address() const { return address_; }
  pid_t pid() const { return program_->pid(); }
  /// Runs `thaw --json` against this server.
  Outcome thaw(std::vector<std::string> arguments) const;

 private:
  std::string store_;
  std::uint64_t min_free_mib_;
  Surroundings surroundings_;
  std::string address_;
  std::unique_ptr<Program> program_;
};

/// A memory image: zero pages, pages that compress, pages that do not, and duplicates.
Bytes make_image(std::uint64_t seed, std::size_t pages);
void write_file(const std::string& path, ByteSpan content);
Bytes read_file(const std::string& path);

}  // namespace thaw::test
