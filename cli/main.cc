#include <charconv>
#include <filesystem>

#include "base/command_line.h"
#include "base/log.h"
#include "cli/output.h"
#include "cli/pull.h"
#include "cli/push.h"
#include "cli/report.h"
#include "format/control_channel.h"
#include "format/page_client.h"

namespace thaw {

namespace {

struct Options {
  std::string server = "127.0.0.1:7433";
  std::string name_space = "default";
  std::string control = "/run/thaw/control.sock";
  bool json = false;

  std::string name;
  std::string memory;
  std::string state;
  std::vector<std::string> labels;
  std::vector<std::string> regions;
  std::string socket;
  std::string owner;
  std::string on_unservable = "kill";
  std::uint64_t session = 0;
  bool kill = false;

  OutputForm form() const { return json ? OutputForm::kJson : OutputForm::kTable; }
};

Result<PageClient> connect(const Options& options) {
  return PageClient::connect(TRY(resolve_tcp(options.server)), options.name_space);
}

/// "3G", "512M", "4096": a size in bytes with an optional binary unit.
Result<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  constexpr std::string_view kUnits = "KMGT";
  const std::size_t place = unit.size() == 1 ? kUnits.find(unit.front()) : std::string_view::npos;
  const unsigned shift = unit.empty() ? 0 : 10 * static_cast<unsigned>(place + 1);
  if (error != std::errc{} || (!unit.empty() && place == std::string_view::npos) ||
      value > (std::uint64_t{1} << 50) >> shift) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" is no size such as 512M", text);
  }
  return value << shift;
}

/// "SIZE" or "SIZE:PAGE_SIZE", one for each region in order.
Result<std::vector<RegionShape>> parse_regions(const std::vector<std::string>& texts) {
  std::vector<RegionShape> regions;
  ImageOffset offset{0};
  for (const std::string& text : texts) {
    const std::size_t colon = text.find(':');
    const ByteCount size{TRY(parse_size(std::string_view(text).substr(0, colon)))};
    ByteCount page_size{kPageBytes};
    if (colon != std::string::npos) {
      page_size = {TRY(parse_size(std::string_view(text).substr(colon + 1)))};
    }
    regions.push_back({size, offset, page_size});
    offset += size;
  }
  return regions;
}

Result<std::vector<Label>> parse_labels(const std::vector<std::string>& texts) {
  std::vector<Label> labels;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      return fail(ErrorCode::kInvalidArgument, "\"{}\" is not KEY=VALUE", text);
    }
    labels.push_back({text.substr(0, equals), text.substr(equals + 1)});
  }
  return labels;
}

Result<void> push(const Options& options) {
  PushOptions push{.server = TRY(resolve_tcp(options.server)),
                   .name_space = options.name_space,
                   .name = options.name,
                   .memory_path = options.memory,
                   .state_path = options.state,
                   .regions = TRY(parse_regions(options.regions)),
                   .labels = TRY(parse_labels(options.labels))};
  print_push(TRY(push_snapshot(push)), options.form());
  return {};
}

Result<void> pull(const Options& options) {
  const PullOptions pull{.server = TRY(resolve_tcp(options.server)),
                         .name_space = options.name_space,
                         .name = options.name,
                         .memory_path = options.memory,
                         .state_path = options.state};
  print_pull(TRY(pull_snapshot(pull)), options.form());
  return {};
}

Result<void> list(const Options& options) {
  PageClient client = TRY(connect(options));
  print_snapshots(TRY(client.list()), options.form());
  return {};
}

Result<void> show(const Options& options) {
  PageClient client = TRY(connect(options));
  print_snapshot(TRY(client.show(options.name)), options.form());
  return {};
}

Result<void> remove(const Options& options) {
  PageClient client = TRY(connect(options));
  TRY(client.remove(options.name));
  print_success(options.form());
  return {};
}

Result<void> statistics(const Options& options) {
  PageClient client = TRY(connect(options));
  print_statistics(TRY(client.statistics()), options.form());
  return {};
}

/// A path for the fault handler, whose working directory is another.
std::string absolute(const std::string& path) {
  return path.empty() ? path : std::filesystem::absolute(path).string();
}

Result<void> prepare(const Options& options) {
  control::Prepare request{.snapshot = options.name,
                           .socket = absolute(options.socket),
                           .state_out = absolute(options.state),
                           .name_space = options.name_space,
                           .owner_uid = {},
                           .owner_gid = {},
                           .on_unservable = options.on_unservable == "wait"
                                                ? UnservablePolicy::kWait
                                                : UnservablePolicy::kKill,
                           .trace_out = {}};
  if (!options.owner.empty()) {
    const std::size_t colon = options.owner.find(':');
    if (colon == std::string::npos) {
      return fail(ErrorCode::kInvalidArgument, "\"{}\" is not UID:GID", options.owner);
    }
    const std::string_view owner(options.owner);
    request.owner_uid = static_cast<std::uint32_t>(TRY(parse_size(owner.substr(0, colon))));
    request.owner_gid = static_cast<std::uint32_t>(TRY(parse_size(owner.substr(colon + 1))));
  }
  const ControlReply reply = TRY(ask_fault_handler(options.control, request));
  print_prepared(std::get<control::Prepared>(reply), options.form());
  return {};
}

Result<void> list_sessions(const Options& options) {
  const ControlReply reply = TRY(ask_fault_handler(options.control, control::List{}));
  print_sessions(std::get<std::vector<SessionReport>>(reply), options.form());
  return {};
}

Result<void> stop(const Options& options) {
  const auto mode = options.kill ? control::StopMode::kKill : control::StopMode::kRefuseIfAlive;
  TRY(ask_fault_handler(options.control, control::Stop{options.session, mode}));
  print_success(options.form());
  return {};
}

using Command = Result<void> (*)(const Options&);

/// Declares all commands; the one that the user chose is stored in `chosen`.
void declare_commands(CLI::App& app, Options& options, Command& chosen) {
  const auto command = [&](const char* name, const char* description, Command run) {
    CLI::App* const subcommand = app.add_subcommand(name, description);
    subcommand->fallthrough();
    subcommand->callback([&chosen, run] { chosen = run; });
    return subcommand;
  };
  const auto named = [&](CLI::App* subcommand) {
    subcommand->add_option("snapshot", options.name, "Name of the snapshot")->required();
    return subcommand;
  };

  CLI::App* sub = named(command("push", "Store a snapshot on the page server", push));
  sub->add_option("--memory", options.memory, "Raw image of guest memory")->required();
  sub->add_option("--state", options.state, "The VMM's state file, kept and given back as it is");
  sub->add_option("--label", options.labels, "KEY=VALUE, may be repeated");
  sub->add_option("--region", options.regions,
                  "SIZE[:PAGE_SIZE] of each memory region in order; a VM is then only served if "
                  "its regions are these");

  sub = named(command("pull", "Write a snapshot's memory image, sparse, and state file", pull));
  sub->add_option("--memory", options.memory, "File for the memory image")->required();
  sub->add_option("--state", options.state, "File for the VMM's state");

  command("ls", "List the snapshots", list);
  named(command("show", "Show one snapshot", show));
  named(command("rm", "Delete a snapshot", remove));
  command("stats", "Show what the page server holds", statistics);

  sub = named(command("prepare", "Make this host's fault handler ready for a restore", prepare));
  sub->add_option("--socket", options.socket, "Where the VMM will connect")->required();
  sub->add_option("--state-out", options.state, "File to write the VMM's state to");
  sub->add_option("--owner", options.owner, "UID:GID of the socket and the state file");
  sub->add_option("--on-unservable", options.on_unservable,
                  "If a page cannot be had for good: kill the VM, or let it wait")
      ->check(CLI::IsMember({"kill", "wait"}))
      ->capture_default_str();

  command("ps", "Show the VMs that this host's fault handler serves", list_sessions);
  sub = command("stop", "End a session", stop);
  sub->add_option("session", options.session, "Number of the session")->required();
  sub->add_flag("--kill", options.kill, "Kill its VM too; without its session it would hang");
}

}  // namespace

}  // namespace thaw

int main(int argc, char** argv) {
  thaw::Options options;
  thaw::Command chosen = nullptr;
  CLI::App app("Restores virtual machines before their memory has arrived.");
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 success, 1 failure, 2 wrong arguments, 3 not found, 4 no answer,\n"
      "5 exists already or busy.");
  app.add_option("--server", options.server, "HOST:PORT of the page server")->capture_default_str();
  app.add_option("--namespace", options.name_space, "Namespace of the snapshots")
      ->capture_default_str();
  app.add_option("--control", options.control, "Control socket of the fault handler")
      ->capture_default_str();
  app.add_flag("--json", options.json, "Print JSON instead of tables");
  declare_commands(app, options, chosen);
  thaw::add_configuration(app);
  if (const auto exit_code = thaw::parse_command_line(app, argc, argv)) return *exit_code;

  thaw::start_logging("thaw", thaw::LogLevel::kInfo);
  if (const auto result = chosen(options); !result) {
    thaw::print_error(result.error(), options.form());
    return thaw::exit_code_for(result.error().code());
  }
  return 0;
}
