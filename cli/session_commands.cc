#include <filesystem>

#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/report.h"
#include "format/control_channel.h"
#include "format/prepare_session.h"

namespace thaw::command {

namespace {

/// A path for the fault handler, whose working directory is another.
Result<std::string> absolute(const std::string& path) {
  if (path.empty()) return path;
  if (path == "-") {
    return fail(ErrorCode::kInvalidArgument, "the fault handler needs a path, not \"-\"");
  }
  std::error_code error;
  std::string whole = std::filesystem::absolute(path, error).string();
  if (error) return fail_errno("the working directory", error.value());
  return whole;
}

RecordMode record_mode(const Options& options) {
  if (options.record) return RecordMode::kAlways;
  return options.no_record ? RecordMode::kNever : RecordMode::kWithoutSet;
}

UnservablePolicy unservable_policy(const Options& options) {
  if (options.on_unservable == "wait") return UnservablePolicy::kWait;
  return options.on_unservable == "poison" ? UnservablePolicy::kPoison : UnservablePolicy::kKill;
}

}  // namespace

Result<void> prepare(const Options& options) {
  control::Prepare request{.snapshot = options.name,
                           .socket = {},
                           .state_out = {},
                           .name_space = options.name_space,
                           .owner_uid = {},
                           .owner_gid = {},
                           .on_unservable = unservable_policy(options),
                           .unservable_after_ms = options.unservable_after_s * 1000,
                           .record = record_mode(options),
                           .record_idle_ms = options.record_idle_ms,
                           .record_most_ms = options.record_most_ms,
                           .prefetch = !options.no_prefetch,
                           .hydrate_bytes_per_s = options.hydrate_mib_s << 20,
                           .trace_out = {},
                           .shared = options.shared,
                           .allow_root_vmm = options.allow_root_vmm,
                           .verify = options.verify};
  request.socket = TRY(absolute(options.socket));
  request.state_out = TRY(absolute(options.state));
  request.trace_out = TRY(absolute(options.trace));
  if (!options.owner.empty()) {
    const FileOwner owner = TRY(parse_owner(options.owner));
    request.owner_uid = owner.uid;
    request.owner_gid = owner.gid;
  }
  print_prepared(TRY(prepare_session(options.control, request)), options.form());
  return {};
}

Result<void> list_sessions(const Options& options) {
  const ControlReply reply = TRY(ask_fault_handler(options.control, control::List{}));
  print_sessions(std::get<HandlerReport>(reply), options.form());
  return {};
}

Result<void> stop(const Options& options) {
  const auto mode = options.kill ? control::StopMode::kKill : control::StopMode::kRefuseIfAlive;
  TRY(ask_fault_handler(options.control, control::Stop{options.session, mode}));
  print_success(options.form());
  return {};
}

}  // namespace thaw::command
