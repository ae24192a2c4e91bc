#include "bench/soak.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <list>
#include <random>
#include <thread>

#include "base/clock.h"
#include "base/temporary_directory.h"
#include "bench/figures.h"
#include "format/control_channel.h"
#include "tests/support/programs.h"

namespace thaw::bench {

namespace {

constexpr std::size_t kImagePages = 4096;
constexpr std::array kModes{"verify",        "remove",          "scribble",     "two-regions",
                            "shared-verify", "shared-scribble", "shared-remove"};

/// What has happened; a run may end only with zeros where it has to be.
struct Tally {
  std::uint64_t restored = 0;  // VMs that compared every byte and exited by themselves
  std::uint64_t killed_vms = 0;
  std::uint64_t handler_deaths = 0;
  std::uint64_t server_deaths = 0;
  std::uint64_t pushes = 0;
  std::uint64_t wrong = 0;  // VMs that read what they should not have
  std::uint64_t lost = 0;   // VMs that were killed by somebody else
  std::uint64_t refused = 0;
  std::vector<double> unserved_ms;  // of VMs, for each death of their handler
};

class Soak {
 public:
  Soak(std::string directory, std::uint64_t seed, std::size_t most_vms)
      : directory_(std::move(directory)),
        random_(seed),
        most_vms_(most_vms),
        owner_(path("store")) {
    write_image("image");
  }

  Result<std::vector<Figure>> run(Nanoseconds time);

 private:
  struct Vm {
    test::Program program;
    bool killed = false;
  };

  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  std::size_t draw(std::size_t below) { return random_() % below; }
  void write_image(const std::string& name) {
    test::write_file(path(name), test::make_image(random_(), kImagePages));
  }
  test::Outcome thaw(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(),
                     {test::program_path("thaw"), "--json", "--control", path("control"),
                      "--insecure", "--server", owner_.address()});
    return test::run(arguments);
  }
  Result<void> set_up();
  void start_vms();
  void start_vm();
  void reap();
  void take_in(Vm& vm);
  void disturb();
  void push_and_delete();
  void note_outages();
  Result<std::vector<Figure>> figures(Nanoseconds time);

  const std::string directory_;
  std::mt19937_64 random_;
  const std::size_t most_vms_;
  test::PageServer owner_;
  std::optional<test::PageServer> replica_;
  std::unique_ptr<test::Program> handler_;
  std::list<Vm> vms_;
  std::size_t next_socket_ = 0;
  Tally tally_;
  std::size_t descriptors_before_ = 0;
  std::vector<double> resident_;  // of the supervisor, in bytes, once a round
};

Result<void> Soak::set_up() {
  const auto pushed = owner_.thaw({"push", "snapshot", "--memory", path("image")});
  if (pushed.exit_code != 0) return fail(ErrorCode::kIo, "push: {}", pushed.output);
  replica_.emplace(
      path("store"), 0,
      test::Surroundings{
          .cpus = {}, .messages = path("replica.log"), .environment = {{"THAW_REPLICA", "1"}}});
  handler_ = std::make_unique<test::Program>(
      std::vector<std::string>{test::program_path("thaw-faulthandler"), "--control",
                               path("control"), "--insecure", "--server", owner_.address(),
                               "--server", replica_->address(), "--record-every", "8"},
      test::Surroundings{.cpus = {}, .messages = path("handler.log")});
  TRY(handler_->wait_for_line("ready on "));
  descriptors_before_ = test::open_descriptors(handler_->pid()).size();
  return {};
}

void Soak::start_vm() {
  const std::string mode = kModes[draw(kModes.size())];
  const std::string socket = path("vm" + std::to_string(++next_socket_));
  std::vector<std::string> arguments{"prepare", "snapshot", "--socket", socket};
  if (mode.starts_with("shared-"))
    arguments.insert(arguments.end(), {"--shared", "--allow-root-vmm"});
  if (draw(4) == 0) arguments.insert(arguments.end(), {"--hydrate-mib-s", "100"});
  // In the moment of a handler's death a command may be answered by nobody.
  if (thaw(arguments).exit_code != 0) {
    ++tally_.refused;
    return;
  }
  vms_.push_back({test::Program({test::program_path("vmm"), socket, path("image"), mode})});
}

void Soak::start_vms() {
  for (std::size_t i = 0; i < 4 && vms_.size() < most_vms_; ++i) start_vm();
}

void Soak::take_in(Vm& vm) {
  const int status = vm.program.wait().value_or(-1);
  if (vm.killed) {
    ++tally_.killed_vms;
  } else if (status == 0) {
    ++tally_.restored;
  } else if (status == 128 + SIGKILL) {
    ++tally_.lost;
  } else {
    ++tally_.wrong;
  }
}

void Soak::reap() {
  for (auto vm = vms_.begin(); vm != vms_.end();) {
    // One whose state is a zombie's has ended.
    const std::string stat = test::stat_fields(std::to_string(vm->program.pid()));
    if (!stat.empty() && stat[0] != 'Z') {
      ++vm;
      continue;
    }
    take_in(*vm);
    vm = vms_.erase(vm);
  }
}

void Soak::push_and_delete() {
  const std::string name = "other" + std::to_string(++tally_.pushes);
  write_image("other");
  owner_.thaw({"push", name, "--memory", path("other")});
  owner_.thaw({"rm", name});
  if (draw(4) == 0) owner_.thaw({"gc"});
}

void Soak::disturb() {
  switch (draw(6)) {
    case 0:
    case 1:
      if (const pid_t worker = handler_->worker(); worker > 0 && ::kill(worker, SIGKILL) == 0) {
        ++tally_.handler_deaths;
      }
      return;
    case 2:
      owner_.kill();
      owner_.start();
      ++tally_.server_deaths;
      return;
    case 3:
      replica_->kill();
      replica_->start();
      ++tally_.server_deaths;
      return;
    case 4:
      return push_and_delete();
    default:
      if (vms_.empty()) return;
      Vm& vm = *std::next(vms_.begin(), static_cast<std::ptrdiff_t>(draw(vms_.size())));
      // Before that its session would wait for it.
      if (!vm.program.wait_for_line("handed over")) return;
      vm.killed = true;
      vm.program.signal(SIGKILL);
  }
}

void Soak::note_outages() {
  const auto reply = ask_fault_handler(path("control"), control::List{});
  if (!reply) return;
  for (const SessionReport& report : std::get<HandlerReport>(*reply).sessions) {
    if (report.handler_deaths == 0) continue;
    tally_.unserved_ms.push_back(static_cast<double>(report.unserved_us) / 1000 /
                                 static_cast<double>(report.handler_deaths));
  }
}

Result<std::vector<Figure>> Soak::run(Nanoseconds time) {
  TRY(set_up());
  const Deadline end = Deadline::after(time);
  while (!end.passed()) {
    start_vms();
    reap();
    disturb();
    note_outages();
    resident_.push_back(static_cast<double>(test::resident_bytes(handler_->pid())));
    std::this_thread::sleep_for(std::chrono::milliseconds(50 + draw(200)));
  }
  for (Vm& vm : vms_) take_in(vm);
  vms_.clear();
  return figures(time);
}

Result<std::vector<Figure>> Soak::figures(Nanoseconds time) {
  const std::size_t left = test::open_descriptors_down_to(handler_->pid(), descriptors_before_);
  const double leaked =
      static_cast<double>(left) - static_cast<double>(std::min(left, descriptors_before_));
  handler_->signal(SIGTERM);
  if (TRY(handler_->wait()) != 0) return fail(ErrorCode::kIo, "the handler did not stop well");
  if (tally_.wrong + tally_.lost > 0) {
    return fail(ErrorCode::kCorrupt, "{} VMs read wrong pages, {} were lost", tally_.wrong,
                tally_.lost);
  }
  const std::size_t quarter = std::max<std::size_t>(resident_.size() / 4, 1);
  const double early = median({resident_.begin(), resident_.begin() + static_cast<long>(quarter)});
  const double late = median({resident_.end() - static_cast<long>(quarter), resident_.end()});
  const double minutes = std::chrono::duration<double, std::ratio<60>>(time).count();
  const double unserved = tally_.unserved_ms.empty() ? 0 : quantile(tally_.unserved_ms, 0.99);
  const auto figure = [&](const char* name, const char* unit, double value, double floor,
                          std::string note) {
    return Figure{.name = std::string("soak.") + name,
                  .unit = unit,
                  .value = value,
                  .floor = floor,
                  .n = 1,
                  .note = std::move(note)};
  };
  return std::vector<Figure>{
      figure("restored", "VMs", static_cast<double>(tally_.restored), 1,
             fmt::format("each compared {} pages; {} more were killed, {} never prepared",
                         kImagePages, tally_.killed_vms, tally_.refused)),
      figure("handler_deaths", "kills", static_cast<double>(tally_.handler_deaths), 1, ""),
      figure("server_deaths", "kills", static_cast<double>(tally_.server_deaths), 1, ""),
      figure("unserved_p99", "ms", unserved, 100, "floor: the target for one death"),
      figure("wrong", "VMs", static_cast<double>(tally_.wrong), 1, "has to be 0"),
      figure("lost", "VMs", static_cast<double>(tally_.lost), 1, "has to be 0"),
      figure("leaked", "descriptors", leaked, 1, "of the supervisor, has to be 0"),
      figure("resident_growth", "KiB/min", (late - early) / 1024 / minutes, 1024,
             "of the supervisor; floor: 1 MiB a minute"),
  };
}

}  // namespace

Result<std::vector<Figure>> run_soak_bench(const BenchOptions& options) {
  const bool quick = options.effort == Effort::kQuick;
  const auto directory = TRY(TemporaryDirectory::create("thaw-soak"));
  Soak soak(directory.path("."), options.seed, quick ? 8 : 64);
  return soak.run(quick ? Nanoseconds(std::chrono::seconds(5))
                        : Nanoseconds(std::chrono::minutes(options.minutes)));
}

}  // namespace thaw::bench
