#include "base/log.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <fmt/chrono.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/log_file.h"
#include "base/log_queue.h"
#include "base/output.h"
#include "base/printable.h"
#include "base/unique_fd.h"

namespace thaw {

namespace {

constexpr std::size_t kMostPrefixBytes = 256;
constexpr std::size_t kMostProgramBytes = 64;
static_assert(limits::kMaxLogLineBytes + kMostPrefixBytes <= PIPE_BUF);

std::string_view level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
    case LogLevel::kNone:
      break;
  }
  return "error";
}

/// Cuts text that is too long, at the end of a character.
std::string shortened(std::string text) {
  constexpr std::string_view kCut = "...";
  if (text.size() <= limits::kMaxLogLineBytes) return text;
  std::size_t end = limits::kMaxLogLineBytes - kCut.size();
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80) --end;
  text.resize(end);
  text += kCut;
  return text;
}

/// Opening a FIFO or a terminal must not wait until its other side is there.
constexpr int kOpenFlags = O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

Result<UniqueFd> open_log(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | kOpenFlags, 0600));
  const int error = file.valid() ? 0 : errno;
  struct stat status{};
  if (::stat(path.c_str(), &status) == 0 && S_ISFIFO(status.st_mode)) {
    // With a reading end of its own, a FIFO keeps its lines from one reader to the next.
    UniqueFd both(::open(path.c_str(), O_RDWR | kOpenFlags));
    if (both.valid()) return both;
  }
  if (!file.valid()) return fail_errno("open the log " + path, error);
  return file;
}

/// Writes all of it, however long that takes; the end of the written part if it fails.
std::optional<std::size_t> failed_at(int fd, std::string_view text) {
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = ::write(fd, text.data() + written, text.size() - written);
    if (n >= 0) {
      written += static_cast<std::size_t>(n);
    } else if (errno == EAGAIN) {
      pollfd ready{.fd = fd, .events = POLLOUT, .revents = 0};
      ::poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return written;
    }
  }
  return std::nullopt;
}

/// The process's log. Locks itself; never destroyed, since its thread is never joined: it may be in
/// a write(2) that does not end.
class Log {
 public:
  /// What a file that cannot be opened does.
  enum class Missing { kFails, kIsLogged };

  static Log& instance() {
    static Log& log = *std::make_unique<Log>().release();
    return log;
  }

  void start(std::string_view program, LogLevel least) {
    {
      const std::lock_guard lock(mutex_);
      program_ = program.substr(0, kMostProgramBytes);
    }
    least_ = least;
    static const int at_exit =
        std::atexit([] { instance().finish(Deadline::after(limits::kLogPatience)); });
    static_cast<void>(at_exit);
  }

  Result<void> start_writer(const std::string& path, Missing missing) {
    path_ = path;
    if (!path.empty()) {
      auto opened = open_log(path);
      if (opened) {
        file_ = *std::move(opened);
      } else if (missing == Missing::kFails) {
        return std::unexpected(opened.error());
      } else {
        log_error("the log goes to stderr: {}", opened.error().message());
      }
    }
    // Signals are for the threads that wait for them.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    const auto started = start_thread();
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
  }

  void reopen() {
    {
      const std::lock_guard lock(mutex_);
      reopening_ = true;
    }
    wakeup_.notify_one();
  }

  void add(LogLevel level, std::string_view kind, std::string_view line) {
    if (level < least_.load(std::memory_order_relaxed)) return;
    const std::string text = shortened(printable(line.substr(0, limits::kMaxLogLineBytes)) +
                                       (line.size() > limits::kMaxLogLineBytes ? "..." : ""));
    std::unique_lock lock(mutex_);
    queue_.add(level, kind, text, LogQueue::Now::read());
    if (!has_writer_) return write_here(lock, Deadline::after(patience_here_));
    lock.unlock();
    wakeup_.notify_one();
  }

  void flush(Deadline deadline) {
    std::unique_lock lock(mutex_);
    if (!has_writer_) return write_here(lock, deadline);
    wakeup_.notify_one();
    written_.wait_until(lock, deadline.when(), [this] { return idle(); });
  }

  void finish(Deadline deadline) {
    {
      const std::lock_guard lock(mutex_);
      queue_.add_all_summaries(LogQueue::Now::read());
    }
    flush(deadline);
  }

  /// Like add() and flush(), of a thread that may hold the lock or be the writer itself.
  bool try_last_words(std::string_view line, Deadline deadline) {
    std::unique_lock lock(mutex_, std::defer_lock);
    while (!lock.try_lock()) {
      if (deadline.passed()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (!has_writer_) return false;
    queue_.add(LogLevel::kError, {}, shortened(printable(line)), LogQueue::Now::read());
    wakeup_.notify_one();
    return written_.wait_until(lock, deadline.when(), [this] { return idle(); });
  }

 private:
  Result<void> start_thread() {
    try {
      const std::lock_guard lock(mutex_);
      std::thread([this] { write_lines(); }).detach();
      has_writer_ = true;
    } catch (const std::system_error& error) {
      return fail_errno("start the thread that writes the log", error.code().value());
    }
    return {};
  }

  std::string formatted(const LogLine& line) const {
    using std::chrono::system_clock;
    const auto second = std::chrono::floor<std::chrono::seconds>(line.at);  // before 1970, too
    const std::time_t seconds = system_clock::to_time_t(second);
    std::tm broken_down{};
    ::localtime_r(&seconds, &broken_down);
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(line.at - second);
    return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03} {} {} {}\n", broken_down, ms.count(), program_,
                       level_name(line.level), line.text);
  }

  bool idle() const { return queue_.empty() && !reopening_ && !writing_; }

  /// On the calling thread, where there is no other. A reader that has used up the patience once
  /// gets none until it reads again.
  void write_here(std::unique_lock<std::mutex>& lock, Deadline deadline) {
    while (!queue_.empty()) {
      const LogLine line = queue_.take(LogQueue::Now::read());
      const std::string text = formatted(line);
      lock.unlock();
      const bool written = write_within(STDERR_FILENO, text, deadline);
      lock.lock();
      patience_here_ = written ? limits::kLogPatience : Nanoseconds(0);
    }
  }

  [[noreturn]] void write_lines() {
    std::unique_lock lock(mutex_);
    while (true) {
      const LogQueue::Now now = LogQueue::Now::read();
      queue_.add_due(now);
      if (std::exchange(reopening_, false)) {
        writing_ = true;
        lock.unlock();
        reopen_file();
        lock.lock();
        writing_ = false;
      } else if (!queue_.empty()) {
        const LogLine line = queue_.take(now);
        writing_ = true;
        lock.unlock();
        write(line);
        lock.lock();
        writing_ = false;
      } else {
        written_.notify_all();
        const auto due = queue_.next_due();
        const auto called = [this] { return !idle(); };
        if (due) {
          wakeup_.wait_until(lock, *due, called);
        } else {
          wakeup_.wait(lock, called);
        }
      }
    }
  }

  void reopen_file() {
    if (path_.empty()) return;
    auto opened = open_log(path_);
    if (!opened) return log_error("still in the old log: {}", opened.error().message());
    file_ = *std::move(opened);
  }

  /// On the writer's thread.
  void write(const LogLine& line) {
    std::string text;
    if (torn_) text += "\n";
    if (unwritten_ > 0) {
      text += formatted(
          {.level = LogLevel::kWarning, .at = line.at, .text = lost_lines_text(unwritten_)});
    }
    text += formatted(line);
    const auto failed = failed_at(file_.valid() ? file_.get() : STDERR_FILENO, text);
    if (!failed) {
      unwritten_ = 0;
      torn_ = false;
    } else {
      unwritten_ += line.stands_for;
      torn_ = torn_ || *failed > 0;
    }
  }

  std::atomic<LogLevel> least_ = LogLevel::kInfo;

  std::mutex mutex_;
  std::string program_ = "thaw";                      // guarded by mutex_ until main has named it
  LogQueue queue_;                                    // guarded by mutex_
  bool has_writer_ = false;                           // guarded by mutex_
  bool writing_ = false;                              // guarded by mutex_
  bool reopening_ = false;                            // guarded by mutex_
  Nanoseconds patience_here_ = limits::kLogPatience;  // guarded by mutex_
  std::condition_variable wakeup_;
  std::condition_variable written_;

  // Of the writer's thread.
  std::string path_;
  UniqueFd file_;                // none: stderr
  std::uint64_t unwritten_ = 0;  // lines that failed since the last that did not
  bool torn_ = false;            // the last line that failed was begun
};

}  // namespace

void start_logging(std::string_view program, LogLevel least) {
  Log::instance().start(program, least);
}

Result<void> write_log_in_background(const std::string& file) {
  return Log::instance().start_writer(file, Log::Missing::kFails);
}

Result<void> write_log_where_possible(const std::string& file) {
  return Log::instance().start_writer(file, Log::Missing::kIsLogged);
}

Result<void> check_log_file(const std::string& file) {
  if (!file.empty()) TRY(open_log(file));
  return {};
}

void reopen_log() { Log::instance().reopen(); }

void flush_log(Deadline deadline) { Log::instance().flush(deadline); }

void log_last_words(std::string_view line) noexcept {
  const Deadline deadline = Deadline::after(limits::kLogPatience);
  try {
    if (Log::instance().try_last_words(line, deadline)) return;
  } catch (...) {
    // Without memory it is written as it is.
  }
  if (write_within(STDERR_FILENO, line, deadline)) write_within(STDERR_FILENO, "\n", deadline);
}

void log_line(LogLevel level, std::string_view line) { Log::instance().add(level, {}, line); }

void log_line(LogLevel level, const LogKind& kind, std::string_view line) {
  Log::instance().add(level, kind.name, line);
}

}  // namespace thaw
