#include "tests/sim/apart.h"

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"

namespace thaw::sim {

namespace {

struct Numbers {
  std::uint64_t trace_hash;
  std::uint64_t steps;
};

/// A broken invariant: what was printed so far is of use. It is raised by this thread itself.
void on_abort(int) {
  std::fflush(stdout);
  std::signal(SIGABRT, SIG_DFL);
  std::raise(SIGABRT);
}

void run_and_tell(const std::function<Outcome()>& run, int to) {
  std::signal(SIGABRT, on_abort);
  const Outcome outcome = run();
  const Numbers numbers{outcome.trace_hash, outcome.steps};
  const std::string& text = outcome.violation;
  CHECK(::write(to, &numbers, sizeof numbers) == static_cast<ssize_t>(sizeof numbers));
  CHECK(::write(to, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  std::fflush(stdout);
}

std::string read_all(int from) {
  std::string text;
  std::array<char, 512> piece{};
  for (ssize_t n = 0; (n = ::read(from, piece.data(), piece.size())) > 0;) {
    text.append(piece.data(), static_cast<std::size_t>(n));
  }
  return text;
}

}  // namespace

Outcome run_apart(const std::function<Outcome()>& run) {
  std::array<int, 2> ends{};
  CHECK(::pipe(ends.data()) == 0);
  std::fflush(stdout);
  const pid_t child = ::fork();
  CHECK(child >= 0);
  if (child == 0) {
    run_and_tell(run, ends[1]);
    std::_Exit(0);
  }
  ::close(ends[1]);
  const std::string told = read_all(ends[0]);
  ::close(ends[0]);
  int status = 0;
  CHECK(::waitpid(child, &status, 0) == child);
  Numbers numbers{};
  if (status != 0 || told.size() < sizeof numbers) {
    return {.violation = fmt::format("a broken invariant (status {:#x})", status)};
  }
  told.copy(static_cast<char*>(static_cast<void*>(&numbers)), sizeof numbers);
  return {told.substr(sizeof numbers), numbers.trace_hash, numbers.steps};
}

}  // namespace thaw::sim
