// How the handler prepares a session: on a thread that may wait, and undone wherever it fails.

#include <filesystem>
#include <utility>

#include "base/file.h"
#include "base/file_identity.h"
#include "base/host.h"
#include "base/listen_path.h"
#include "base/log.h"
#include "base/partial_file.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "faulthandler/daemon.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

std::vector<std::string> warnings_for(const SnapshotSpec& spec) {
  const std::string here = cpu_vendor();
  if (spec.cpu_vendor.empty() || here.empty() || spec.cpu_vendor == here) return {};
  return {fmt::format("the snapshot was made on a CPU of {}, this host's is of {}", spec.cpu_vendor,
                      here)};
}

std::optional<FileOwner> owner_of(const control::Prepare& request) {
  if (!request.owner_uid) return std::nullopt;
  return FileOwner{*request.owner_uid, *request.owner_gid};
}

Result<void> check_options(const control::Prepare& request) {
  if (request.owner_uid.has_value() != request.owner_gid.has_value()) {
    return fail(ErrorCode::kInvalidArgument, "an owner has both a user and a group id");
  }
  for (const std::uint32_t ms : {request.record_idle_ms, request.record_most_ms}) {
    if (ms > 0 && std::chrono::milliseconds(ms) <= limits::kMostRecording) continue;
    return fail(ErrorCode::kInvalidArgument, "a recording ends after 1 ms to an hour");
  }
  const bool records = request.record == RecordMode::kAlways || !request.trace_out.empty();
  if (request.shared && records) {
    return fail(ErrorCode::kInvalidArgument,
                "what a VM touches is not seen when its memory is shared");
  }
  if (request.on_unservable == UnservablePolicy::kPoison && !can_poison()) {
    return fail(ErrorCode::kUnsupported, "this kernel poisons no pages (Linux 6.6 and later do)");
  }
  return {};
}

/// What can be known to be wrong with the paths before anything is fetched.
Result<void> check_paths(const control::Prepare& request) {
  TRY(check_listen_path(request.socket));
  const auto same = [](const std::string& one, const std::string& other) {
    return !one.empty() && std::filesystem::path(one).lexically_normal() ==
                               std::filesystem::path(other).lexically_normal();
  };
  if (same(request.state_out, request.socket) || same(request.trace_out, request.socket) ||
      same(request.trace_out, request.state_out)) {
    return fail(ErrorCode::kInvalidArgument,
                "the socket, the state file and the trace need paths of their own");
  }
  if (!request.trace_out.empty()) TRY(PartialFile::create(request.trace_out));
  if (request.state_out.empty()) return {};
  // The handler is often root and the directory a VMM's: it follows no link that it finds there.
  std::error_code error;
  const auto type = std::filesystem::symlink_status(request.state_out, error).type();
  if (type == std::filesystem::file_type::none) {
    return fail_errno(request.state_out, error.value());
  }
  if (type != std::filesystem::file_type::not_found &&
      type != std::filesystem::file_type::regular) {
    return fail(ErrorCode::kAlreadyExists, "{} exists and is no regular file", request.state_out);
  }
  return {};
}

Result<PartialFile> create_state_file(const control::Prepare& request) {
  PartialFile file = TRY(PartialFile::create(request.state_out));
  if (const auto owner = owner_of(request)) TRY(file.give_to(*owner));
  return file;
}

Error called_off() { return Error(ErrorCode::kStopped, "the command was called off"); }

/// The files of a session that is being prepared. They go with it unless they are kept.
class SessionFiles {
 public:
  explicit SessionFiles(const control::Prepare& request) : request_(request) {}
  SessionFiles(const SessionFiles&) = delete;
  SessionFiles& operator=(const SessionFiles&) = delete;
  ~SessionFiles() {
    if (kept_) return;
    if (socket_) remove_file(request_.socket, *socket_);
    if (state_) remove_file(request_.state_out, *state_);
  }

  Result<void> publish(PartialFile& state) {
    const FileIdentity identity = TRY(file_identity(state.fd()));
    TRY(state.publish());
    state_ = identity;
    return {};
  }
  Result<UniqueFd> listen() {
    UniqueFd listener = TRY(listen_unix(request_.socket, owner_of(request_)));
    socket_ = socket_identity(request_.socket);
    return listener;
  }
  void keep() { kept_ = true; }
  const std::optional<FileIdentity>& state() const { return state_; }

 private:
  const control::Prepare& request_;
  std::optional<FileIdentity> state_;   // once it has its name
  std::optional<FileIdentity> socket_;  // once it listens
  bool kept_ = false;
};

}  // namespace

Preparation Daemon::prepare(const control::Prepare& request, const std::stop_token& stop) {
  auto prepared = try_to_prepare(request, stop);
  if (!prepared) return {prepared.error(), {}};
  return *std::move(prepared);
}

Result<Preparation> Daemon::try_to_prepare(const control::Prepare& request,
                                           const std::stop_token& stop) {
  TRY(check_options(request));
  TRY(check_paths(request));
  std::optional<PartialFile> state;
  if (!request.state_out.empty()) state.emplace(TRY(create_state_file(request)));
  const SnapshotWish wish{
      .name_space = request.name_space.empty() ? options_.name_space : request.name_space,
      .snapshot = request.snapshot,
      .use = request.shared ? MemoryUse::kShared : MemoryUse::kOwn,
      .state = state ? &state->fd() : nullptr};
  const PreparedSnapshot snapshot = TRY(source_.prepare(wish, stop));
  const SnapshotSpec& spec = snapshot.image->manifest.spec;
  if (stop.stop_requested()) return std::unexpected(called_off());

  const WindowUse window = request.shared ? WindowUse::kNone : window_use(request, snapshot);
  MemoryRecord record =
      TRY(MemoryRecord::create(encode_control_request(request), spec.memory_pages()));
  KeptSession kept;
  kept[KeptRole::kRecord] = TRY(duplicate(record.file()));
  kept[KeptRole::kSnapshot] = TRY(duplicate(snapshot.image->file));
  SessionFiles files(request);
  if (state) TRY(files.publish(*state));
  kept[KeptRole::kListener] = TRY(files.listen());
  const auto session =
      std::make_shared<NewSession>(session_options(request, snapshot, window), std::move(record),
                                   std::move(kept), open_descriptors().value_or(0));
  const Added added = TRY(tasks_.run<Added>(
      [this, session, use = wish.use] { return add_session(std::move(*session), use); }));
  files.keep();
  Preparation preparation{
      control::Prepared{.session = added.session,
                        .socket = request.socket,
                        .memory = spec.memory,
                        .state = spec.state,
                        .regions = spec.regions,
                        .generation = added.generation,
                        .warnings = warnings_for(spec)},
      [this, id = added.session, path = request.state_out, file = files.state()] {
        const auto ended = tasks_.run<void>([this, id] { return end_unused(id); });
        if (!ended) return log_warning("session {} stays: {}", id, ended.error().message());
        if (file) remove_file(path, *file);
      }};
  if (!stop.stop_requested()) return preparation;
  preparation.take_back();
  return std::unexpected(called_off());
}

Result<void> Daemon::end_unused(std::uint64_t id) {
  Session* const session = sessions_.find(id);
  if (session == nullptr) return {};
  if (session->state() != SessionState::kPrepared) {
    return fail(ErrorCode::kBusy, "its VMM has come");
  }
  return session->stop(control::StopMode::kRefuseIfAlive);
}

}  // namespace thaw
