// How the handler goes on with what the one before has left.

#include "base/log.h"
#include "faulthandler/daemon.h"

namespace thaw {

Result<SessionTable::Service> Daemon::adopt(const MemoryRecord& record, const KeptSession& kept) {
  const ControlRequest line = TRY(decode_control_request(record.request()));
  const auto* const request = std::get_if<control::Prepare>(&line);
  if (request == nullptr) return fail(ErrorCode::kMalformed, "a record of no session");
  const MemoryUse use = request->shared ? MemoryUse::kShared : MemoryUse::kOwn;
  const auto snapshot = TRY(source_.adopt(TRY(duplicate(kept[KeptRole::kSnapshot])), use));
  if (record.states().size() != snapshot.image->manifest.spec.memory_pages().value) {
    return fail(ErrorCode::kMalformed, "a record of another snapshot's memory");
  }
  if (request->verify && !snapshot.image->hashes) {
    return fail(ErrorCode::kMalformed, "a snapshot without the hashes that it is verified by");
  }
  SessionOptions options = session_options(*request, snapshot, WindowUse::kNone);
  Links& server = *TRY(links(snapshot.image->origin));
  set_up(options, server);
  if (request->shared) {
    const uid_t user = request->owner_uid.value_or(0);
    options.shared = TRY(adopt_image(server, options.serve, user, kept));
  }
  return SessionTable::Service{server.demand, std::move(options)};
}

Result<HostImage*> Daemon::adopt_image(Links& server, const ServeOptions& options, uid_t user,
                                       const KeptSession& kept) {
  if (HostImage* const image = images_.find(kept[KeptRole::kImageFile])) return image;
  UniqueFd file = TRY(duplicate(kept[KeptRole::kImageFile]));
  UniqueFd view = TRY(duplicate(kept[KeptRole::kImageView]));
  MemoryRecord record = TRY(MemoryRecord::open(TRY(duplicate(kept[KeptRole::kImageRecord]))));
  return images_.adopt(loop_, server.demand, options, user,
                       {std::move(file), std::move(view), std::move(record)});
}

void Daemon::on_alone() {
  log_error("the supervisor is gone: no new sessions, and an end when the last VM has exited");
  drain(control::StopMode::kRefuseIfAlive);
  on_alone_();
}

}  // namespace thaw
