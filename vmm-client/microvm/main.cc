#include <cstdio>
#include <functional>
#include <optional>

#include "base/clock.h"
#include "base/command_line.h"
#include "base/log.h"
#include "base/output.h"
#include "base/program.h"
#include "base/unfinished_name.h"
#include "vmm-client/microvm/capture.h"
#include "vmm-client/microvm/limits.h"
#include "vmm-client/microvm/microvm.h"
#include "vmm-client/restore_profile.h"

namespace thaw {

namespace {

/// How long the fault handler may take to accept the memory.
constexpr std::chrono::seconds kHandOver{10};

struct Options {
  // run
  std::uint64_t memory = 64u << 20;
  std::size_t vcpus = 1;
  std::optional<std::uint64_t> structure;  // otherwise half of the memory
  std::uint64_t seed = 1;
  std::uint64_t steps = 16384;
  // restore
  std::string state_file;
  std::string memory_file;
  std::string socket;
  bool shared = false;
  // both
  std::optional<std::uint64_t> rounds;
  CaptureFiles capture_files;
  Captured captured = Captured::kAll;
  std::uint64_t capture_after = 1;
  bool json = false;
};

std::int64_t us_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration_cast<std::chrono::microseconds>(to - from).count();
}

void print_serial(ByteSpan bytes) {
  std::fwrite(bytes.data(), 1, bytes.size(), stdout);
  if (bytes.back() == std::byte{'\n'}) std::fflush(stdout);
}

/// `first_output_us`: from the start of the vCPUs to the guest's first byte.
void report(const Options& options, const RestoreProfile& profile, std::int64_t first_output_us) {
  const auto us_of = [&](std::string_view phase) { return profile.us_of(phase).value_or(0); };
  const char* const form =
      options.json
          ? R"({{"restored":{{"memory_us":{},"vm_us":{},"vcpus_us":{},"state_us":{},)"
            R"("first_output_us":{}}}}})"
            "\n"
          : "restored: memory {} us, VM {} us, vCPUs {} us, state {} us, first output {} us\n";
  print_problem(fmt::format(fmt::runtime(form), us_of("memory") + us_of("handover"), us_of("vm"),
                            us_of("vcpus"), us_of("state"), first_output_us));
}

void report(const Options& options, const MemoryImageStatistics& written, std::int64_t us) {
  const char* const form =
      options.json ? R"({{"captured":{{"data_bytes":{},"hole_bytes":{},"capture_us":{}}}}})"
                     "\n"
                   : "captured: {} bytes of data, {} bytes of holes, in {} us\n";
  print_problem(fmt::format(fmt::runtime(form), written.data.value, written.holes.value, us));
}

/// The exit code of this program if the guest has ended by itself.
int guest_ended(MicroVm& vm) {
  log_error("the guest ended with code {}", vm.progress().exit_code().value_or(0));
  return 1;
}

/// Lets a loaded VM run as far as it is to run, and captures it on the way if that is wanted.
Result<int> drive(MicroVm& vm, const Options& options,
                  const std::optional<RestoreProfile>& profile) {
  using Event = GuestProgress::Event;
  if (options.rounds) vm.progress().show_at_most(*options.rounds);
  const auto started = Clock::now();
  TRY(vm.start());
  if (profile) {
    if (TRY(vm.progress().wait_for_output()) == Event::kExited) return guest_ended(vm);
    report(options, *profile, us_between(started, *vm.progress().first_output()));
  }
  if (!options.capture_files.memory.empty()) {
    const Event event = TRY(vm.progress().wait_for_rounds(options.capture_after));
    if (event == Event::kExited) return guest_ended(vm);
    vm.pause();
    std::fflush(stdout);
    const auto begun = Clock::now();
    const MemoryImageStatistics written = TRY(capture(vm, options.capture_files, options.captured));
    report(options, written, us_between(begun, Clock::now()));
    if (!options.rounds) return 0;
    TRY(vm.start());
  }
  const Event event = TRY(vm.progress().wait_for_rounds(options.rounds.value_or(UINT64_MAX)));
  vm.pause();
  return event == Event::kExited ? guest_ended(vm) : 0;
}

Result<int> run(const Options& options) {
  TRY(check_memory_size({options.memory}));
  const auto vm = TRY(MicroVm::create(TRY(MicroVmMemory::zeros({options.memory})), print_serial));
  TRY(vm->add_vcpus(options.vcpus));
  TRY(vm->load_payload({.structure = {options.structure.value_or(options.memory / 2)},
                        .seed = options.seed,
                        .steps = options.steps}));
  return drive(*vm, options, std::nullopt);
}

Result<MicroVmMemory> memory_to_restore(const Options& options, const MicroVmState& state,
                                        PhaseTimer& phases) {
  if (options.socket.empty()) return MicroVmMemory::from_file(options.memory_file, state);
  const ByteCount size = state.memory;
  const Deadline deadline = Deadline::after(kHandOver);
  if (options.shared) return MicroVmMemory::shared(size, options.socket, deadline);
  MicroVmMemory memory = TRY(MicroVmMemory::missing(size));
  TRY(memory.restore(PreparedSession{options.socket}, deadline, phases));
  return memory;
}

Result<int> restore(const Options& options) {
  PhaseTimer phases;
  phases.begin("state");
  const MicroVmState state = TRY(read_state_file(options.state_file));
  phases.begin("memory");
  MicroVmMemory memory = TRY(memory_to_restore(options, state, phases));
  phases.begin("vm");
  const DirtyLog log = options.captured == Captured::kChanges ? DirtyLog::kOn : DirtyLog::kOff;
  const auto vm = TRY(MicroVm::create(std::move(memory), print_serial, log));
  phases.begin("vcpus");
  TRY(vm->add_vcpus(state.vcpus.size()));
  phases.begin("state");
  TRY(vm->load_state(state));
  return drive(*vm, options, RestoreProfile{ShellOrigin::kOnDemand, phases.finish()});
}

void declare_common(CLI::App* sub, Options& options) {
  sub->add_option("--rounds", options.rounds,
                  "End when each vCPU has finished so many rounds since the VM's first start; "
                  "otherwise the guest goes on for ever");
  CLI::Option* const memory = sub->add_option("--capture-memory", options.capture_files.memory,
                                              "File for guest memory, raw and sparse");
  CLI::Option* const state =
      sub->add_option("--capture-state", options.capture_files.state, "File for all else");
  memory->needs(state);
  state->needs(memory);
  sub->add_option("--capture-after", options.capture_after,
                  "Capture when each vCPU has finished so many rounds; the VM ends then, or goes "
                  "on if there are --rounds")
      ->needs(memory)
      ->capture_default_str();
  sub->add_flag("--json", options.json, "Reports on stderr are JSON, one object a line");
}

CLI::App* declare_run(CLI::App& app, Options& options) {
  CLI::App* const sub = app.add_subcommand("run", "Start a VM with the payload in it");
  const auto size = CLI::AsSizeValue(false);
  sub->add_option("--memory", options.memory, "Guest memory, such as 64M; a multiple of 2 MiB")
      ->transform(size);
  sub->add_option("--vcpus", options.vcpus, "vCPUs")
      ->check(CLI::Range(std::size_t{1}, limits::kMaxVcpus))
      ->capture_default_str();
  sub->add_option("--structure", options.structure,
                  "Size of the structure that the guest builds; otherwise half of its memory")
      ->transform(size);
  sub->add_option("--seed", options.seed, "What the structure is drawn from")
      ->capture_default_str();
  sub->add_option("--steps", options.steps, "Nodes that a vCPU visits in a round")
      ->capture_default_str();
  declare_common(sub, options);
  return sub;
}

CLI::App* declare_restore(CLI::App& app, Options& options) {
  CLI::App* const sub = app.add_subcommand("restore", "Let a captured VM go on");
  sub->add_option("--state", options.state_file, "What --capture-state wrote")->required();
  CLI::Option_group* const source = sub->add_option_group("source", "Where its memory is");
  CLI::Option* const socket =
      source->add_option("--socket", options.socket, "Socket that `thaw prepare` made");
  source->add_option("--memory", options.memory_file, "Raw image; it is only read");
  source->require_option(1);
  sub->add_flag("--shared", options.shared, "It was prepared with --shared")->needs(socket);
  declare_common(sub, options);
  sub->add_flag_callback(
         "--capture-changes", [&options] { options.captured = Captured::kChanges; },
         "The file for guest memory has what was written since the restore, and holes "
         "elsewhere: for `thaw push --parent SNAPSHOT --diff`")
      ->needs(sub->get_option("--capture-memory"));
  return sub;
}

}  // namespace

}  // namespace thaw

int main(int argc, char** argv) {
  thaw::begin_program(thaw::ProgramKind::kCommand);
  thaw::Options options;
  CLI::App app("Runs a small VM whose state can be captured, and restores it.");
  app.require_subcommand(1);
  const CLI::App* const run = thaw::declare_run(app, options);
  thaw::declare_restore(app, options);
  thaw::add_version(app);
  if (const auto exit_code = thaw::parse_command_line(app, argc, argv)) return *exit_code;

  thaw::leave_nothing_unfinished();
  thaw::start_logging("thaw-microvm", thaw::LogLevel::kInfo);
  const auto result = run->parsed() ? thaw::run(options) : thaw::restore(options);
  if (!result) thaw::log_error("{}", result.error().message());
  return thaw::finish_output(result.value_or(1));
}
