// How the handler prepares a session: on a thread that may wait, and undone wherever it fails.

#include <algorithm>
#include <thread>
#include <utility>

#include "base/file.h"
#include "base/host.h"
#include "base/log.h"
#include "base/place.h"
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

Result<void> check_options(const control::Prepare& request) {
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

/// The socket lets in its owner and root alone.
Result<void> check_owner(const control::Prepare& request, uid_t owner) {
  if (!request.shared || request.allow_root_vmm || !is_own_or_root(owner)) return {};
  return fail(ErrorCode::kInvalidArgument,
              "a VMM of user {} could change the host image, which is shared with other VMs; name "
              "another user with --owner, or allow it with --allow-root-vmm",
              owner);
}

Error called_off() { return Error(ErrorCode::kStopped, "the command was called off"); }

}  // namespace

Preparation Daemon::prepare(const control::Prepare& request, SessionObjects objects,
                            const std::stop_token& stop) {
  auto prepared = try_to_prepare(request, std::move(objects), stop);
  if (!prepared) return {prepared.error(), {}};
  return *std::move(prepared);
}

Result<Preparation> Daemon::try_to_prepare(const control::Prepare& request, SessionObjects objects,
                                           const std::stop_token& stop) {
  TRY(check_options(request));
  const FileOwner owner = TRY(file_owner(objects.socket_file));
  TRY(check_owner(request, owner.uid));
  const SnapshotWish wish{
      .name_space = request.name_space.empty() ? options_.name_space : request.name_space,
      .snapshot = request.snapshot,
      .use = request.shared ? MemoryUse::kShared : MemoryUse::kOwn,
      .state = objects.state.valid() ? &objects.state : nullptr,
      .checked_by = request.verify ? CheckedBy::kContentHash : CheckedBy::kChecksums};
  const PreparedSnapshot snapshot = TRY(source_.prepare(wish, stop));
  const SnapshotSpec& spec = snapshot.image->manifest.spec;
  if (stop.stop_requested()) return std::unexpected(called_off());

  const WindowUse window = request.shared ? WindowUse::kNone : window_use(request, snapshot);
  // The handler that takes the session over has no socket any more that would tell the owner.
  control::Prepare recorded = request;
  recorded.owner_uid = owner.uid;
  recorded.owner_gid = owner.gid;
  MemoryRecord record =
      TRY(MemoryRecord::create(encode_control_request(recorded), spec.memory_pages()));
  KeptSession kept;
  kept[KeptRole::kRecord] = TRY(duplicate(record.file()));
  kept[KeptRole::kSnapshot] = TRY(duplicate(snapshot.image->file));
  kept[KeptRole::kListener] = std::move(objects.listener);
  kept[KeptRole::kSocketDirectory] = std::move(objects.socket_directory);
  kept[KeptRole::kSocketFile] = std::move(objects.socket_file);
  kept[KeptRole::kTraceDirectory] = std::move(objects.trace_directory);
  SessionOptions options = session_options(request, snapshot, window);
  const auto session =
      std::make_shared<NewSession>(std::move(options), std::move(record), std::move(kept),
                                   owner.uid, open_descriptors().value_or(0));
  const Added added = TRY(tasks_.run<Added>(
      [this, session, use = wish.use] { return add_session(std::move(*session), use); }));
  await_pin(*snapshot.image, stop);
  Preparation preparation{control::Prepared{.session = added.session,
                                            .socket = request.socket,
                                            .memory = spec.memory,
                                            .state = spec.state,
                                            .regions = spec.regions,
                                            .generation = added.generation,
                                            .warnings = warnings_for(spec)},
                          [this, id = added.session] {
                            const auto ended =
                                tasks_.run<void>([this, id] { return end_unused(id); });
                            if (!ended)
                              log_warning("session {} stays: {}", id, ended.error().message());
                          }};
  if (!stop.stop_requested()) return preparation;
  preparation.take_back();
  return std::unexpected(called_off());
}

void Daemon::await_pin(const SnapshotImage& image, const std::stop_token& stop) {
  const Deadline deadline = Deadline::after(limits::kPinPatience);
  Nanoseconds pause = limits::kPinPauseFirst;
  while (!deadline.passed() && !stop.stop_requested()) {
    const auto pinned = tasks_.run<bool>(
        [this, origin = image.origin, snapshot = image.manifest.snapshot]() -> Result<bool> {
          return TRY(links(origin))->demand.has_pinned(snapshot);
        });
    if (!pinned || *pinned) return;
    std::this_thread::sleep_for(pause);
    pause = std::min<Nanoseconds>(pause * 2, limits::kPinPauseMost);
  }
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
