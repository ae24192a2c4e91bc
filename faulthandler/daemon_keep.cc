// What the handler leaves to whoever comes after it, and takes over from whoever was before.

#include <algorithm>

#include "base/log.h"
#include "faulthandler/daemon.h"

namespace thaw {

namespace {

Result<Arrival> arrival_of(KeptSession& kept) {
  Arrival arrival = TRY(Arrival::read(kept[KeptRole::kArrival]));
  arrival.connection = std::move(kept[KeptRole::kConnection]);
  arrival.vmm.pidfd = std::move(kept[KeptRole::kPidfd]);
  arrival.userfaultfd = std::move(kept[KeptRole::kUserfaultfd]);
  return arrival;
}

}  // namespace

void Daemon::on_message(KeepMessage message) {
  switch (message.kind) {
    case KeepMessage::Kind::kKept:
      if (message.session == 0) {
        control_ = std::move(message.descriptors[KeptRole::kListener]);
      } else {
        adopt(message.session, std::move(message.descriptors));
      }
      return;
    case KeepMessage::Kind::kAllKept:
      next_session_ = std::max(next_session_, message.value + 1);
      supervisor_.send({.kind = KeepMessage::Kind::kServing});
      return on_serving_(std::move(control_));
    case KeepMessage::Kind::kArrived:
      return on_arrival(message.session, std::move(message.descriptors));
    case KeepMessage::Kind::kOutage:
      for (const auto& [id, session] : sessions_) {
        session->note_outage(Nanoseconds(message.value));
      }
      return;
    default:
      log_error("the supervisor says what makes no sense");
  }
}

void Daemon::on_supervisor_gone() {
  log_error("the supervisor is gone: no new sessions, and an end when the last VM has exited");
  drain(control::StopMode::kRefuseIfAlive);
  on_alone_();
}

void Daemon::adopt(std::uint64_t id, KeptSession kept) {
  const auto adopted = try_to_adopt(id, kept);
  if (adopted) return;
  log_error("session {} cannot be gone on with: {}", id, adopted.error().message());
  // A VM that nobody serves must not wait for ever without anybody knowing.
  if (kept.has(KeptRole::kPidfd)) static_cast<void>(kill_process(kept[KeptRole::kPidfd]));
  supervisor_.send({.kind = KeepMessage::Kind::kDrop, .session = id});
}

Result<void> Daemon::try_to_adopt(std::uint64_t id, KeptSession& kept) {
  MemoryRecord record = TRY(MemoryRecord::open(TRY(duplicate(kept[KeptRole::kRecord]))));
  const ControlRequest line = TRY(decode_control_request(record.request()));
  const auto* const request = std::get_if<control::Prepare>(&line);
  if (request == nullptr) return fail(ErrorCode::kMalformed, "a record of no session");
  const MemoryUse use = request->shared ? MemoryUse::kShared : MemoryUse::kOwn;
  const auto snapshot = TRY(source_.adopt(TRY(duplicate(kept[KeptRole::kSnapshot])), use));
  if (record.states().size() != snapshot.image->manifest.spec.memory_pages().value) {
    return fail(ErrorCode::kMalformed, "a record of another snapshot's memory");
  }
  SessionOptions options = session_options(*request, snapshot, WindowUse::kNone);
  options.id = id;
  options.serve.window = {};
  Links& server = *TRY(links(snapshot.image->origin));
  set_up(options, server);
  if (request->shared) options.shared = TRY(adopt_image(server, options.serve, kept));
  std::optional<Arrival> arrival;
  if (kept.has(KeptRole::kArrival)) arrival = TRY(arrival_of(kept));
  Session& session = make_session(server, {std::move(options), std::move(record), {}});
  session.start();
  if (arrival) session.on_arrival(*std::move(arrival));
  return {};
}

Result<HostImage*> Daemon::adopt_image(Links& server, const ServeOptions& options,
                                       const KeptSession& kept) {
  if (HostImage* const image = images_.find(*options.image)) return image;
  UniqueFd file = TRY(duplicate(kept[KeptRole::kImageFile]));
  UniqueFd view = TRY(duplicate(kept[KeptRole::kImageView]));
  MemoryRecord record = TRY(MemoryRecord::open(TRY(duplicate(kept[KeptRole::kImageRecord]))));
  return images_.adopt(loop_, server.demand, options,
                       {std::move(file), std::move(view), std::move(record)});
}

void Daemon::on_arrival(std::uint64_t id, KeptSession arrived) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;  // and the supervisor knows or will know
  auto arrival = arrival_of(arrived);
  if (arrival) return found->second->on_arrival(*std::move(arrival));
  log_error("session {}: {}", id, arrival.error().message());
}

void Daemon::drop(const Session& session) {
  supervisor_.send({.kind = KeepMessage::Kind::kDrop,
                    .session = session.options().id,
                    .value = session.has_arrived() ? 1u : 0u});
}

}  // namespace thaw
