#include "faulthandler/session_table.h"

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

Result<Arrival> arrival_of(KeptSession& kept, const std::string& text) {
  if (!kept.has(KeptRole::kArrival)) {
    Arrival none;
    none.refusal = Error(ErrorCode::kUnavailable, text);
    return none;
  }
  Arrival arrival = TRY(Arrival::read(kept[KeptRole::kArrival]));
  arrival.connection = std::move(kept[KeptRole::kConnection]);
  arrival.vmm.pidfd = std::move(kept[KeptRole::kPidfd]);
  arrival.userfaultfd = std::move(kept[KeptRole::kUserfaultfd]);
  arrival.other_userfaultfds = std::move(kept[KeptRole::kOtherUserfaultfds]);
  return arrival;
}

}  // namespace

SessionTable::SessionTable(Loop& loop, UniqueFd supervisor, Owner& owner)
    : loop_(loop),
      owner_(owner),
      supervisor_(
          loop, std::move(supervisor), reserve_,
          [this](KeepMessage message) { on_message(std::move(message)); },
          [this](KeepChannel::End end) {
            // The supervisor sees to it that another handler goes on, which it has told of all.
            if (end == KeepChannel::End::kOther) owner_.on_alone();
          }) {}

std::uint64_t SessionTable::add(Service service, MemoryRecord record, KeptSession kept) {
  const std::uint64_t id = next_++;
  Session& session = make_session(id, std::move(service), std::move(record));
  session.own_socket(kept.share_socket());
  session.start();
  supervisor_.send(
      {.kind = KeepMessage::Kind::kKeep, .session = id, .descriptors = std::move(kept)});
  return id;
}

Session* SessionTable::find(std::uint64_t id) const {
  const auto found = sessions_.find(id);
  return found != sessions_.end() ? found->second.get() : nullptr;
}

bool SessionTable::forget_ended() {
  bool all = true;
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    const Session& session = *it->second;
    if (!session.finished()) {
      if (session.state() == SessionState::kEnded) all = false;
      ++it;
      continue;
    }
    KeepMessage over{.kind = KeepMessage::Kind::kDrop,
                     .session = session.options().id,
                     .value = session.has_arrived() ? 1u : 0u};
    ended_.push_back(session.report());
    ended_totals_ += ended_.back();
    if (ended_.size() > limits::kMaxEndedReports) ended_.pop_front();
    it = sessions_.erase(
        it);  // as long as the supervisor has its descriptors, closing them is quick
    supervisor_.send(std::move(over));
  }
  return all;
}

std::uint64_t SessionTable::ask_for_upgrade() {
  supervisor_.send({.kind = KeepMessage::Kind::kUpgrade});
  return settled_upgrades_ + 1;
}

void SessionTable::keep_settings(UniqueFd settings) {
  KeptSession kept;
  kept[KeptRole::kRecord] = std::move(settings);
  supervisor_.send({.kind = KeepMessage::Kind::kSettings, .descriptors = std::move(kept)});
}

void SessionTable::take_in_hand(std::uint64_t id) {
  supervisor_.send({.kind = KeepMessage::Kind::kInHand, .session = id});
}

void SessionTable::on_message(KeepMessage message) {
  switch (message.kind) {
    case KeepMessage::Kind::kKept:
      if (message.session == 0 && serving_) {
        owner_.on_serving(std::move(message.descriptors[KeptRole::kListener]));
      } else if (message.session == 0) {
        control_ = std::move(message.descriptors[KeptRole::kListener]);
      } else {
        take_in_hand(message.session);
        adopt(message.session, std::move(message.descriptors), message.value);
      }
      return;
    case KeepMessage::Kind::kAllKept:
      take_in_hand(0);
      next_ = std::max(next_, message.value + 1);
      supervisor_.send({.kind = KeepMessage::Kind::kServing});
      serving_ = true;
      return owner_.on_serving(std::move(control_));
    case KeepMessage::Kind::kArrived:
      take_in_hand(message.session);
      on_arrival(message.session, std::move(message.descriptors), message.text);
      return take_in_hand(0);
    case KeepMessage::Kind::kOutage:
      outage_ = Nanoseconds(message.value);
      for (const auto& [id, session] : sessions_) {
        session->note_outage(outage_,
                             message.session == 0 ? OutageCause::kDeath : OutageCause::kUpgrade);
      }
      return;
    case KeepMessage::Kind::kUpgraded:
      settled_upgrades_ = message.value;
      upgrade_failure_ = std::move(message.text);
      return;
    default:
      log_error("the supervisor says what makes no sense");
  }
}

void SessionTable::adopt(std::uint64_t id, KeptSession kept, std::uint64_t stalls) {
  const auto adopted = try_to_adopt(id, kept, stalls);
  if (adopted) return;
  // No VM is killed for what passes.
  const ErrorCode code = adopted.error().code();
  if (code == ErrorCode::kNoMemory || code == ErrorCode::kNoDescriptors) {
    return supervisor_.give_up(
        fmt::format("session {} cannot be gone on with now: {}", id, adopted.error().message()));
  }
  log_error("session {} cannot be gone on with: {}", id, adopted.error().message());
  // A VM that nobody serves must not wait for ever without anybody knowing.
  if (kept.has(KeptRole::kPidfd)) static_cast<void>(kill_process(kept[KeptRole::kPidfd]));
  supervisor_.send({.kind = KeepMessage::Kind::kDrop, .session = id});
}

Result<void> SessionTable::try_to_adopt(std::uint64_t id, KeptSession& kept, std::uint64_t stalls) {
  MemoryRecord record = TRY(MemoryRecord::open(TRY(duplicate(kept[KeptRole::kRecord]))));
  Service service = TRY(owner_.adopt(record, kept));
  service.options.serve.window = {};
  std::optional<Arrival> arrival;
  if (kept.has(KeptRole::kArrival)) arrival = TRY(arrival_of(kept, {}));
  Session& session = make_session(id, std::move(service), std::move(record));
  if (!arrival) session.own_socket(kept.share_socket());
  if (stalls > 0) session.distrust();
  session.start();
  if (arrival) session.on_arrival(*std::move(arrival));
  return {};
}

void SessionTable::on_arrival(std::uint64_t id, KeptSession arrived, const std::string& text) {
  Session* const session = find(id);
  if (session == nullptr) return;  // and the supervisor knows or will know
  auto arrival = arrival_of(arrived, text);
  if (arrival) return session->on_arrival(*std::move(arrival));
  log_error("session {}: {}", id, arrival.error().message());
}

Session& SessionTable::make_session(std::uint64_t id, Service service, MemoryRecord record) {
  service.options.id = id;
  auto session = std::make_unique<Session>(loop_, service.link, std::move(service.options),
                                           std::move(record), owner_);
  return *sessions_.emplace(id, std::move(session)).first->second;
}

}  // namespace thaw
