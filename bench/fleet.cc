#include "bench/fleet.h"

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "base/file.h"
#include "format/control_channel.h"

namespace thaw::bench {

namespace {

constexpr std::size_t kLastWordsBytes = 400;
/// Pages that are on their way arrive well within this time.
constexpr std::chrono::milliseconds kSettleTime{20};

const char* word_for(GuestKind kind) {
  switch (kind) {
    case GuestKind::kOwn:
      return "own";
    case GuestKind::kShared:
      return "shared";
    case GuestKind::kFile:
      return "file";
    case GuestKind::kPresent:
      return "present";
  }
  return "";
}

}  // namespace

Result<void> succeed(const test::Outcome& outcome, const std::string& what) {
  if (outcome.exit_code == 0) return {};
  return fail(ErrorCode::kIo, "{}: exit code {}, {}", what, outcome.exit_code, outcome.output);
}

Result<void> write_pages(const std::string& path, std::span<const std::uint32_t> pages) {
  std::ofstream file(path, std::ios::binary);
  file << as_text(std::as_bytes(pages));
  if (!file.flush()) return fail(ErrorCode::kIo, "writing {}", path);
  return {};
}

Result<std::vector<double>> read_touch_times(const std::string& path) {
  const UniqueFd file = TRY(open_for_reading(path + ".ns"));
  std::vector<std::int64_t> latencies(TRY(file_size(file)).value / sizeof(std::int64_t));
  TRY(read_at(file, std::as_writable_bytes(std::span(latencies)), 0));
  std::vector<double> us;
  us.reserve(latencies.size());
  for (const std::int64_t ns : latencies) us.push_back(static_cast<double>(ns) / 1e3);
  return us;
}

Result<ByteCount> proportional_bytes(pid_t process, const std::string& path_part) {
  std::ifstream maps(fmt::format("/proc/{}/smaps", process));
  ByteCount bytes;
  bool counts = false;
  for (std::string line; std::getline(maps, line);) {
    // "START-END ...": a mapping; "Pss: N kB": of the last one.
    const std::string word = line.substr(0, line.find(' '));
    if (word.find('-') != std::string::npos) counts = line.find(path_part) != std::string::npos;
    if (counts && word == "Pss:") bytes += ByteCount{std::stoull(line.substr(word.size())) << 10};
  }
  if (!maps.eof()) return fail(ErrorCode::kIo, "reading the mappings of process {}", process);
  return bytes;
}

Result<void> push_image(test::PageServer& server, const std::string& image,
                        const std::string& scratch, const std::vector<std::string>& flags) {
  const auto thaw = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), flags.begin(), flags.end());
    return server.thaw(std::move(arguments));
  };
  TRY(succeed(thaw({"push", kSnapshot, "--memory", image}), "thaw push"));
  if (TRY(server.stop()) != 0) return fail(ErrorCode::kIo, "the page server did not stop well");
  server.start();
  TRY(succeed(thaw({"pull", kSnapshot, "--memory", scratch}), "thaw pull"));
  remove_file(scratch);
  return {};
}

Result<Handler> Handler::start(const std::string& base, const std::string& server,
                               const std::vector<std::string>& flags,
                               const std::vector<std::string>& prepare_flags) {
  std::vector<std::string> command{test::program_path("thaw-faulthandler"),
                                   "--insecure",
                                   "--control",
                                   base + ".control",
                                   "--server",
                                   server};
  command.insert(command.end(), flags.begin(), flags.end());
  Handler handler(test::Program(command, {.cpus = {}, .messages = base + ".log"}), base,
                  prepare_flags);
  if (const auto ready = handler.program_.wait_for_line("ready on "); !ready) {
    return fail(ErrorCode::kUnavailable, "the fault handler did not start: {}",
                handler.last_words());
  }
  return handler;
}

Result<std::string> Handler::prepare(GuestKind kind, const std::string& snapshot) {
  std::string socket = fmt::format("{}.{}", base_, ++sessions_);
  std::vector<std::string> command{test::program_path("thaw"),
                                   "--json",
                                   "--control",
                                   base_ + ".control",
                                   "prepare",
                                   snapshot,
                                   "--socket",
                                   socket};
  if (kind == GuestKind::kShared) command.insert(command.end(), {"--shared", "--allow-root-vmm"});
  command.insert(command.end(), prepare_flags_.begin(), prepare_flags_.end());
  TRY(succeed(test::run(command), "thaw prepare"));
  return socket;
}

Result<SessionReport> Handler::last_session() {
  const ControlReply reply = TRY(ask_fault_handler(base_ + ".control", control::List{}));
  for (const SessionReport& report : std::get<HandlerReport>(reply).sessions) {
    if (report.session == sessions_) return report;
  }
  return fail(ErrorCode::kNotFound, "the fault handler has no session {}", sessions_);
}

std::string Handler::last_words() const {
  std::ifstream file(base_ + ".log", std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.size() > kLastWordsBytes) text.erase(0, text.size() - kLastWordsBytes);
  return text;
}

Result<Guest> Guest::start(Handler& handler, const std::string& image, std::optional<unsigned> cpu,
                           GuestKind kind) {
  const bool served = kind == GuestKind::kOwn || kind == GuestKind::kShared;
  const std::string socket = served ? TRY(handler.prepare(kind)) : handler.scratch_path();
  std::vector<std::string> command{test::program_path("thaw-bench-guest"), word_for(kind), socket,
                                   image};
  if (cpu) command.push_back(std::to_string(*cpu));
  Guest guest(test::Program(command), handler, socket + ".pages");
  TRY(guest.reply("ready"));
  return guest;
}

Result<void> Guest::begin(const char* command, std::span<const std::uint32_t> pages,
                          unsigned threads) {
  TRY(write_pages(base_, pages));
  program_.tell(fmt::format("{} {} {}", command, base_, threads));
  return {};
}

Result<void> Guest::begin_touch(std::span<const std::uint32_t> pages, unsigned threads) {
  return begin("touch", pages, threads);
}

Result<Guest::Touched> Guest::finish_touch() {
  std::istringstream words(TRY(reply("touched ")));
  double nanoseconds = 0;
  Touched touched;
  words >> nanoseconds >> touched.present;
  touched.seconds = nanoseconds / 1e9;
  touched.us = TRY(read_touch_times(base_));
  return touched;
}

Result<Guest::Touched> Guest::touch(std::span<const std::uint32_t> pages, unsigned threads) {
  TRY(begin_touch(pages, threads));
  return finish_touch();
}

Result<Guest::Touched> Guest::probe(std::span<const std::uint32_t> pages) {
  TRY(begin("probe", pages, 1));
  return finish_touch();
}

Result<std::size_t> Guest::count_present() {
  std::size_t last = 0;
  while (true) {
    program_.tell("count");
    const std::size_t now = std::stoull(TRY(reply("present ")));
    if (now == last) return now;
    last = now;
    std::this_thread::sleep_for(kSettleTime);
  }
}

Result<void> Guest::verify_and_end() {
  program_.tell("verify");
  TRY(reply("verified "));
  program_.signal(SIGKILL);
  TRY(program_.wait());
  return {};
}

Result<std::string> Guest::reply(const std::string& expected) {
  const auto line = program_.wait_for_line("");
  if (line && line->starts_with(expected)) return line->substr(expected.size());
  return fail(ErrorCode::kIo, "a guest said \"{}\"; its fault handler: {}",
              line ? *line : line.error().message(), handler_->last_words());
}

}  // namespace thaw::bench
