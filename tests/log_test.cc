// The process's log and its output where they go nowhere: each case in a child, since a log is for
// the life of a process.

#include "base/log.h"

#include <array>
#include <atomic>
#include <csignal>
#include <functional>
#include <stdexcept>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/background_task.h"
#include "base/check.h"
#include "base/event_fd.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log_file.h"
#include "base/output.h"
#include "base/program.h"
#include "base/unique_fd.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr std::chrono::seconds kPatience{30};

struct Pipe {
  UniqueFd reader;
  UniqueFd writer;

  Pipe() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    reader = UniqueFd(ends[0]);
    writer = UniqueFd(ends[1]);
  }
  /// Leaves no room in it.
  void fill() const {
    ::fcntl(writer.get(), F_SETFL, O_NONBLOCK);
    const std::array<char, 4096> filler{};
    while (::write(writer.get(), filler.data(), filler.size()) > 0) {
    }
    ::fcntl(writer.get(), F_SETFL, 0);
  }
  /// Up to the end of what its writers write.
  std::string read_all() {
    writer.reset();
    std::string all;
    std::array<char, 4096> piece{};
    for (ssize_t n; (n = ::read(reader.get(), piece.data(), piece.size())) > 0;) {
      all.append(piece.data(), static_cast<std::size_t>(n));
    }
    return all;
  }
};

/// A child whose stderr is this descriptor; the exit code, or 128 and the signal, or -1 if it
/// hangs.
class Child {
 public:
  Child(const UniqueFd& messages, const std::function<int()>& act) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::dup2(messages.get(), STDERR_FILENO);
    ::signal(SIGPIPE, SIG_DFL);
    std::exit(act());
  }
  int wait() const {
    const Deadline deadline = Deadline::after(kPatience);
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (deadline.passed()) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, &status, 0);
        return -1;
      }
      ::poll(nullptr, 0, 2);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  const pid_t pid_;
};

void log_lines(unsigned count) {
  for (unsigned i = 0; i < count; ++i) log_info("line {}", i);
}

int log_as_a_server(unsigned lines) {
  begin_program(ProgramKind::kServer);
  start_logging("server", LogLevel::kInfo);
  if (!write_log_in_background("")) return 1;
  log_lines(lines);
  return 0;
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(Log, OneMessageIsOneLineWhateverIsInIt) {
  Pipe pipe;
  const Child child(pipe.writer, [] {
    start_logging("program", LogLevel::kInfo);
    log_debug("too little");
    log_warning("{}", std::string("a\n2026-01-01T00:00:00.000 program error forged\x1b[2J"));
    return 0;
  });
  const std::string log = pipe.read_all();

  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(count_of(log, "\n"), 1u) << log;
  EXPECT_NE(log.find(" program warning a\\n2026"), log.npos) << log;
  EXPECT_EQ(log.find('\x1b'), log.npos);
}

TEST(Log, LongLinesAreCutAtTheEndOfACharacter) {
  Pipe pipe;
  const Child child(pipe.writer, [] {
    std::string text = "x";
    while (text.size() < 3 * limits::kMaxLogLineBytes) text += "\u20ac";
    log_info("{}", text);
    return 0;
  });
  const std::string log = pipe.read_all();

  EXPECT_EQ(child.wait(), 0);
  EXPECT_LT(log.size(), limits::kMaxLogLineBytes + 256);
  EXPECT_TRUE(log.ends_with("...\n"));
}

TEST(Log, AServerWritesAllOfItAtItsEnd) {
  Pipe pipe;
  const Child child(pipe.writer, [] { return log_as_a_server(1000); });
  const std::string log = pipe.read_all();

  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(count_of(log, " server info line "), 1000u);
}

TEST(Log, AReaderThatIsGoneEndsNothing) {
  for (const bool server : {false, true}) {
    Pipe pipe;
    pipe.reader.reset();
    const Child child(pipe.writer, [&] {
      if (server) return log_as_a_server(100);
      log_lines(100);  // as in a library, with SIGPIPE as it is by default
      return 0;
    });
    EXPECT_EQ(child.wait(), 0) << server;
  }
}

TEST(Log, AReaderThatStopsHoldsUpNothing) {
  for (const bool server : {false, true}) {
    Pipe pipe;
    pipe.fill();
    const Child child(pipe.writer, [&] {
      if (server) return log_as_a_server(3 * limits::kMaxLogLines);
      log_lines(100);
      return 0;
    });
    EXPECT_EQ(child.wait(), 0) << server;
  }
}

TEST(Log, AReaderThatGoesOnReadsHowManyLinesAreLost) {
  Pipe pipe;
  pipe.fill();
  Pipe logged;
  const Child child(pipe.writer, [&] {
    const int failed = log_as_a_server(limits::kMaxLogLines + 1000);
    if (::write(logged.writer.get(), "x", 1) != 1) return 2;
    flush_log(Deadline::after(kPatience));
    log_info("the end");
    return failed;
  });
  char byte = 0;
  ASSERT_EQ(::read(logged.reader.get(), &byte, 1), 1);
  const std::string log = pipe.read_all();

  EXPECT_EQ(child.wait(), 0);
  // One line may have been in the writer's hands.
  EXPECT_TRUE(log.find(" 1000 lines lost") != log.npos || log.find(" 999 lines lost") != log.npos);
  EXPECT_EQ(count_of(log, "lost"), 1u);
  EXPECT_NE(log.find("the end"), log.npos);
}

TEST(Log, AFullDiskIsALossThatIsTold) {
  const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  Pipe later;
  const Child child(full, [&] {
    const int failed = log_as_a_server(10);
    flush_log(Deadline::after(kPatience));
    ::dup2(later.writer.get(), STDERR_FILENO);
    log_info("room again");
    return failed;
  });
  const std::string log = later.read_all();

  EXPECT_EQ(child.wait(), 0);
  EXPECT_NE(log.find(" server warning 10 lines lost"), log.npos) << log;
  EXPECT_NE(log.find("room again"), log.npos);
}

TEST(Log, TheFileIsOpenedAgain) {
  const ScratchDirectory directory;
  const std::string path = directory.path("log");
  const UniqueFd nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  const Child child(nowhere, [&] {
    start_logging("server", LogLevel::kInfo);
    if (!write_log_in_background(path)) return 1;
    log_info("before");
    flush_log(Deadline::after(kPatience));
    if (::rename(path.c_str(), (path + ".1").c_str()) != 0) return 2;
    log_info("between");
    flush_log(Deadline::after(kPatience));
    reopen_log();
    log_info("after");
    return 0;
  });

  EXPECT_EQ(child.wait(), 0);
  const std::string old = read_text_file(path + ".1", 4096).value();
  const std::string now = read_text_file(path, 4096).value();
  EXPECT_NE(old.find("before"), old.npos);
  EXPECT_NE(old.find("between"), old.npos);
  EXPECT_EQ(count_of(now, "\n"), 1u);
  EXPECT_NE(now.find("after"), now.npos);
}

TEST(Log, AFileThatCannotBeOpenedIsAnErrorAtTheStartAndNoneLater) {
  EXPECT_EQ(code_of(write_log_in_background("/nowhere/log")), ErrorCode::kNotFound);
  const ScratchDirectory directory;
  const std::string folder = directory.path("folder");
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  const std::string path = folder + "/log";
  const UniqueFd nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  const Child child(nowhere, [&] {
    start_logging("server", LogLevel::kInfo);
    if (!write_log_in_background(path)) return 1;
    if (::rename(folder.c_str(), directory.path("moved").c_str()) != 0) return 2;
    reopen_log();
    flush_log(Deadline::after(kPatience));
    log_info("goes on");
    return 0;
  });

  EXPECT_EQ(child.wait(), 0);
  const std::string log = read_text_file(directory.path("moved/log"), 4096).value();
  EXPECT_NE(log.find("still in the old log"), log.npos) << log;
  EXPECT_NE(log.find("goes on"), log.npos) << log;
}

TEST(Log, AFileThatCannotBeOpenedIsTriedAgain) {
  const ScratchDirectory directory;
  const std::string folder = directory.path("later");
  const std::string path = folder + "/log";
  Pipe pipe;
  const Child child(pipe.writer, [&] {
    start_logging("server", LogLevel::kInfo);
    if (!write_log_where_possible(path)) return 1;
    log_info("to stderr");
    reopen_log();
    flush_log(Deadline::after(kPatience));
    if (::mkdir(folder.c_str(), 0700) != 0) return 2;
    reopen_log();
    log_info("to the file");
    return 0;
  });
  const std::string messages = pipe.read_all();

  EXPECT_EQ(child.wait(), 0);
  EXPECT_NE(messages.find("the log goes to stderr: not_found"), messages.npos) << messages;
  EXPECT_NE(messages.find("to stderr"), messages.npos);
  const std::string log = read_text_file(path, 4096).value();
  EXPECT_EQ(count_of(log, "\n"), 1u) << log;
  EXPECT_NE(log.find("to the file"), log.npos);
}

TEST(Log, AFifoNeedsNoReader) {
  const ScratchDirectory directory;
  const std::string path = directory.path("fifo");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  ASSERT_TRUE(succeeded(check_log_file(path)));
  const UniqueFd nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  Pipe written;
  Pipe read;
  const Child child(nowhere, [&] {
    start_logging("server", LogLevel::kInfo);
    if (!write_log_in_background(path)) return 1;
    log_info("before a reader");
    flush_log(Deadline::after(kPatience));
    written.writer.reset();
    read.writer.reset();
    char byte = 0;
    return ::read(read.reader.get(), &byte, 1) == 0 ? 0 : 2;
  });
  written.read_all();
  const UniqueFd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  std::array<char, 4096> line{};
  const ssize_t n = ::read(reader.get(), line.data(), line.size());
  read.writer.reset();

  EXPECT_EQ(child.wait(), 0);
  ASSERT_GT(n, 0);
  EXPECT_NE(std::string(line.data(), static_cast<std::size_t>(n)).find("before a reader"),
            std::string::npos);
}

TEST(Log, ABrokenInvariantIsToldAfterAllElseAndAborts) {
  Pipe pipe;
  const Child child(pipe.writer, [] {
    log_as_a_server(10);
    CHECK(1 + 1 == 3);
    return 0;
  });
  const std::string log = pipe.read_all();

  EXPECT_EQ(child.wait(), 128 + SIGABRT);
  EXPECT_EQ(count_of(log, " line "), 10u);
  EXPECT_NE(log.find("broken invariant: 1 + 1 == 3\n"), log.npos) << log;
}

TEST(Log, ABrokenInvariantAbortsWithoutAReader) {
  for (const bool server : {false, true}) {
    Pipe pipe;
    pipe.fill();
    const Child child(pipe.writer, [&] {
      if (server) log_as_a_server(10);
      CHECK(1 + 1 == 3);
      return 0;
    });
    EXPECT_EQ(child.wait(), 128 + SIGABRT) << server;
  }
}

TEST(Log, AnExceptionThatNothingCatchesIsTold) {
  Pipe pipe;
  const Child child(pipe.writer, [] {
    begin_program(ProgramKind::kServer);
    std::jthread([] { throw std::runtime_error("of a library"); }).join();
    return 0;
  });
  const std::string log = pipe.read_all();

  EXPECT_EQ(child.wait(), 128 + SIGABRT);
  EXPECT_NE(log.find("of a library"), log.npos) << log;
}

TEST(Program, StandardDescriptorsAreOpenAndFail) {
  Pipe pipe;
  const Child child(pipe.writer, [] {
    for (const int fd : {0, 1, 2}) ::close(fd);
    begin_program(ProgramKind::kCommand);
    const UniqueFd next = create_event_fd().value();
    char byte = 0;
    const bool fails = ::read(0, &byte, 1) < 0 && ::write(1, "x", 1) < 0 && ::write(2, "x", 1) < 0;
    return next.get() > 2 && fails ? 0 : 1;
  });

  EXPECT_EQ(child.wait(), 0);
}

TEST(Program, OutputThatFailsIsExitCodeOneAndSaidOnce) {
  Pipe pipe;
  const Child child(pipe.writer, [] {
    begin_program(ProgramKind::kCommand);
    ::dup2(UniqueFd(::open("/dev/full", O_WRONLY)).get(), STDOUT_FILENO);
    for (int i = 0; i < 10'000; ++i) print_out("line {} of many\n", i);
    return finish_output(0);
  });
  const std::string messages = pipe.read_all();

  EXPECT_EQ(child.wait(), 1);
  EXPECT_EQ(count_of(messages, "stdout"), 1u) << messages;
}

TEST(BackgroundTask, RunsAfterEachRequestOrOnceForSeveral) {
  std::atomic<int> runs = 0;
  const UniqueFd ran = create_event_fd().value();
  BackgroundTask task([&] {
    ++runs;
    signal_event_fd(ran);
  });
  for (int i = 1; i <= 3; ++i) {
    task.request();
    ASSERT_TRUE(wait_until_readable(ran, Deadline::after(kPatience)));
    clear_event_fd(ran);
    EXPECT_EQ(runs, i);
  }
}

}  // namespace
}  // namespace thaw::test
