#include "bench/microvm_runs.h"

#include <fstream>

#include <nlohmann/json.hpp>

#include "vmm-client/microvm/capture.h"
#include "vmm-client/microvm/microvm_shell.h"
#include "vmm-client/restore_pool.h"

namespace thaw::bench {

namespace {

constexpr const char* kMicroVm = "microvm";
constexpr const char* kCapturedAfter = "5";
constexpr const char* kRounds = "6";
constexpr std::chrono::seconds kPatience{10};

}  // namespace

Result<MicroVmRuns> MicroVmRuns::start(test::PageServer& server, const std::string& base) {
  MicroVmRuns runs(base);
  const std::string memory = base + ".memory";
  const std::string state = base + ".state";
  TRY(runs.run({"run", "--memory", "64M", "--steps", "64", "--capture-memory", memory,
                "--capture-state", state, "--capture-after", kCapturedAfter}));
  TRY(succeed(server.thaw({"push", kMicroVm, "--memory", memory, "--state", state}),
              "thaw push of the microVM"));
  return runs;
}

Result<double> MicroVmRuns::shared(Handler& handler) {
  const std::string socket = TRY(handler.prepare(GuestKind::kShared, kMicroVm));
  return restore({"--socket", socket, "--shared"});
}

Result<double> MicroVmRuns::pooled(Handler& handler, ShellOrigin origin) {
  MicroVmShape shape = shape_of(TRY(read_state_file(base_ + ".state")));
  auto factory = std::make_unique<MicroVmShellFactory>(std::move(shape), [](ByteSpan) {});
  const auto pool = TRY(RestorePool::create(std::move(factory), {.min = 0, .max = 1}));
  if (origin == ShellOrigin::kPooled) TRY(pool->warm(1));
  const std::string socket = TRY(handler.prepare(GuestKind::kOwn, kMicroVm));
  const RestoredVm restored =
      TRY(pool->restore({PreparedSession{socket}, base_ + ".state"}, Deadline::after(kPatience)));
  return static_cast<double>(restored.profile().total_us());
}

Result<double> MicroVmRuns::restore(const std::vector<std::string>& source) {
  std::vector<std::string> arguments{"restore",        "--json",   "--state",
                                     base_ + ".state", "--rounds", kRounds};
  arguments.insert(arguments.end(), source.begin(), source.end());
  TRY(run(arguments));
  std::ifstream lines(base_ + ".messages");
  for (std::string line; std::getline(lines, line);) {
    const auto report = nlohmann::json::parse(line, nullptr, false);
    if (!report.is_object() || !report.contains("restored")) continue;
    double us = 0;
    for (const auto& phase : report["restored"]) us += phase.get<double>();
    return us / 1e3;
  }
  return fail(ErrorCode::kIo, "thaw-microvm has not said how long its restore took");
}

Result<void> MicroVmRuns::run(const std::vector<std::string>& arguments) const {
  std::vector<std::string> command{test::program_path("thaw-microvm")};
  command.insert(command.end(), arguments.begin(), arguments.end());
  test::Program program(command, {.cpus = {}, .messages = base_ + ".messages"});
  program.rest_of_output();
  if (TRY(program.wait()) == 0) return {};
  std::ifstream messages(base_ + ".messages");
  return fail(ErrorCode::kUnsupported, "thaw-microvm {}: {}", arguments.front(),
              std::string(std::istreambuf_iterator<char>(messages), {}));
}

}  // namespace thaw::bench
