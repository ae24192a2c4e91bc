#include "faulthandler/session_keep.h"

#include <algorithm>
#include <utility>

#include "base/blocked_call.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/place.h"
#include "base/socket.h"
#include "format/control.h"

namespace thaw {

namespace {

Result<MemoryRecord> record_of(const KeptSession& kept) {
  return MemoryRecord::look_at(TRY(duplicate(kept[KeptRole::kRecord])));
}

/// What the session was prepared for; nothing when its record does not say.
std::optional<control::Prepare> request_of(const Result<MemoryRecord>& record) {
  if (!record) return std::nullopt;
  const auto line = decode_control_request(record->request());
  const auto* const request = line ? std::get_if<control::Prepare>(&*line) : nullptr;
  return request != nullptr ? std::optional(*request) : std::nullopt;
}

/// What is to become of a VM that nobody can serve. One whose record says nothing is stopped.
UnservablePolicy policy_of(const Result<MemoryRecord>& record) {
  const auto request = request_of(record);
  return request ? request->on_unservable : UnservablePolicy::kKill;
}

bool has_exited(const UniqueFd& pidfd) {
  return wait_for_exit(pidfd, Deadline::after(Nanoseconds(0))).has_value();
}

void kill_loudly(const UniqueFd& pidfd) {
  if (const auto killed = kill_process(pidfd); !killed) log_error("{}", killed.error().message());
}

}  // namespace

SessionKeep::SessionKeep(Loop& loop, UniqueFd control, Owner& owner)
    : loop_(loop), control_(std::move(control)), owner_(owner) {
  owner_.keep(kept_name(0, KeptRole::kListener), control_);
  static_cast<void>(reserve_.refill());
}

void SessionKeep::take_over(std::vector<NamedDescriptor> kept, OutageCause cause) {
  outage_cause_ = cause;
  for (NamedDescriptor& each : kept) {
    const auto name = parse_kept_name(each.name);
    if (!name || name->session == 0) continue;
    sessions_[name->session].kept[name->role] = std::move(each.descriptor);
    highest_ = std::max(highest_, name->session);
  }
  for (auto& [id, entry] : sessions_) {
    // Its VMM came while it was dropped, and another one must not take its place.
    const bool dropped =
        entry.kept.has(KeptRole::kUserfaultfd) && !entry.kept.has(KeptRole::kArrival);
    if (dropped) let_linger(id, std::move(entry.kept));
  }
  std::erase_if(sessions_, [&](const auto& each) { return lingering_.contains(each.first); });
  has_served_ = !sessions_.empty() || cause == OutageCause::kUpgrade;
  died_at_ = Clock::now();
  if (!sessions_.empty()) loop_.wait(limits::kNobodyServes, nobody_serves_);
  for (auto& [id, entry] : sessions_) {
    if (!entry.kept.has(KeptRole::kArrival)) {
      open_door(id, entry);
    } else if (const auto arrival = Arrival::read(entry.kept[KeptRole::kArrival])) {
      show_vmm(id, arrival->vmm.pid, entry.kept);
    }
  }
}

void SessionKeep::show_vmm(std::uint64_t id, pid_t vmm, const KeptSession& kept) {
  const auto if_kept = [&](KeptRole role) { return kept.has(role) ? &kept[role] : nullptr; };
  const auto request = request_of(record_of(kept));
  owner_.show(id, {.pid = vmm,
                   .pidfd = if_kept(KeptRole::kPidfd),
                   .image = if_kept(KeptRole::kImageView),
                   .traces = if_kept(KeptRole::kTraceDirectory),
                   .trace = request ? request->trace_out : std::string()});
}

void SessionKeep::replace_control(UniqueFd control) {
  const std::string name = kept_name(0, KeptRole::kListener);
  owner_.forget(name);
  control_ = std::move(control);
  owner_.keep(name, control_);
  if (channel_ == nullptr) return;
  KeptSession replaced;
  auto copy = duplicate(control_);
  if (!copy) return log_error("the control socket: {}", copy.error().message());
  replaced[KeptRole::kListener] = *std::move(copy);
  channel_->send({.kind = KeepMessage::Kind::kKept, .descriptors = std::move(replaced)});
}

Result<void> SessionKeep::begin_handler(UniqueFd connection) {
  KeptSession control;
  control[KeptRole::kListener] = TRY(duplicate(control_));
  channel_ = std::make_unique<KeepChannel>(
      loop_, std::move(connection), [this](KeepMessage message) { on_message(std::move(message)); },
      [this](KeepChannel::End end) { owner_.on_handler_lost(end); });
  channel_->send({.kind = KeepMessage::Kind::kKept, .descriptors = std::move(control)});
  for (const auto& [id, entry] : sessions_) {
    if (is_set_aside(entry)) continue;
    channel_->send({.kind = KeepMessage::Kind::kKept,
                    .session = id,
                    .value = entry.stalls,
                    .descriptors = entry.kept.share()});
  }
  channel_->send({.kind = KeepMessage::Kind::kUpgraded,
                  .value = upgrades_.settled,
                  .text = upgrades_.failure});
  channel_->send({.kind = KeepMessage::Kind::kAllKept, .value = highest_});
  return {};
}

void SessionKeep::settle_upgrade(std::string failure) {
  upgrades_ = {upgrades_.settled + 1, std::move(failure)};
  if (channel_ == nullptr) return;
  channel_->send({.kind = KeepMessage::Kind::kUpgraded,
                  .value = upgrades_.settled,
                  .text = upgrades_.failure});
}

bool SessionKeep::end_handler(Death death) {
  channel_->drain();
  channel_->close();
  closing_channels_.push_back(std::move(channel_));
  if (death == Death::kCrash) note_crash();
  in_hand_ = 0;
  if (!serving_) return false;
  serving_ = false;
  died_at_ = Clock::now();
  outage_cause_ = OutageCause::kDeath;
  // The timer of an outage that ended may run still: it looks at the time.
  if (!nobody_serves_.active()) loop_.wait(limits::kNobodyServes, nobody_serves_);
  return true;
}

void SessionKeep::note_crash() {
  for (auto& [id, entry] : sessions_) {
    if (id != in_hand_) continue;
    if (++entry.crashes == limits::kMostCrashes) set_aside(id, entry, entry.crashes, "crashed");
  }
}

void SessionKeep::set_aside(std::uint64_t id, const Entry& entry, unsigned times,
                            const char* what) {
  log_error("session {}: {} fault handlers in a row have {} on it; it is set aside", id, times,
            what);
  deal_with_unserved(id, entry.kept);
}

void SessionKeep::note_stall(pid_t handler) {
  const auto descriptor = descriptor_in_call(handler);
  if (!descriptor) return;
  const auto now = Clock::now();
  for (auto& [id, entry] : sessions_) {
    if (!entry.kept.has(KeptRole::kUserfaultfd) ||
        !is_same_open_file(entry.kept[KeptRole::kUserfaultfd], handler, *descriptor)) {
      continue;
    }
    log_error("session {}: the fault handler stood still on its memory", id);
    const bool again = now - std::exchange(entry.stalled_at, now) < limits::kStallsForgotten;
    entry.stalls = again ? entry.stalls + 1 : 1;
    if (entry.stalls == limits::kMostStalls) set_aside(id, entry, entry.stalls, "stood still");
    return;
  }
}

void SessionKeep::on_message(KeepMessage message) {
  switch (message.kind) {
    case KeepMessage::Kind::kKeep:
      return keep(message.session, std::move(message.descriptors));
    case KeepMessage::Kind::kDrop:
      return drop(message.session, message.value != 0);
    case KeepMessage::Kind::kServing:
      return on_serving();
    case KeepMessage::Kind::kUpgrade:
      return owner_.on_upgrade();
    case KeepMessage::Kind::kSettings:
      return owner_.on_settings(std::move(message.descriptors[KeptRole::kRecord]));
    case KeepMessage::Kind::kInHand:
      // It has come through the one before.
      if (const auto done = sessions_.find(in_hand_); done != sessions_.end()) {
        done->second.crashes = 0;
      }
      in_hand_ = message.session;
      return;
    default:
      log_error("the fault handler says what makes no sense");
  }
}

void SessionKeep::on_serving() {
  serving_ = true;
  nobody_serves_for_long_ = false;
  owner_.on_serving();
  if (!std::exchange(has_served_, true)) return;
  const Nanoseconds outage = Clock::now() - died_at_;
  const bool planned = outage_cause_ == OutageCause::kUpgrade;
  log_line(planned ? LogLevel::kInfo : LogLevel::kWarning,
           fmt::format("{} sessions are served again after {:.1f} ms", sessions_.size(),
                       std::chrono::duration<double, std::milli>(outage).count()));
  channel_->send({.kind = KeepMessage::Kind::kOutage,
                  .session = planned ? 1u : 0u,
                  .value = static_cast<std::uint64_t>(outage.count())});
}

void SessionKeep::keep(std::uint64_t id, KeptSession kept) {
  highest_ = std::max(highest_, id);
  Entry& entry = sessions_[id];
  entry.kept = std::move(kept);
  remember(id, entry.kept);
  // What frees descriptors must still be heard.
  if (!channel_->has_room()) return give_up(id, {}, "the supervisor has no descriptors left");
  open_door(id, entry);
}

void SessionKeep::remember(std::uint64_t id, const KeptSession& kept) {
  kept.for_each([&](KeptRole role, const UniqueFd& descriptor) {
    owner_.keep(kept_name(id, role), descriptor);
  });
}

void SessionKeep::forget(std::uint64_t id, const KeptSession& kept) {
  kept.for_each([&](KeptRole role, const UniqueFd&) { owner_.forget(kept_name(id, role)); });
}

void SessionKeep::remove_socket(std::uint64_t id, KeptSession& kept) {
  if (!kept.has(KeptRole::kSocketFile)) return;
  const auto request = request_of(record_of(kept));
  for (const KeptRole role : {KeptRole::kSocketDirectory, KeptRole::kSocketFile}) {
    owner_.forget(kept_name(id, role));
  }
  const auto removed = kept.remove_socket(request ? last_component(request->socket) : "");
  if (!removed) log_warning("session {}: its socket stays: {}", id, removed.error().message());
}

void SessionKeep::open_door(std::uint64_t id, Entry& entry) {
  const auto request = request_of(record_of(entry.kept));
  entry.door = std::make_unique<VmmDoor>(
      loop_, id, entry.kept.share(), reserve_,
      [this, id](Arrival arrival) { on_arrival(id, std::move(arrival)); },
      request && request->allow_root_vmm ? VmmDoor::RootVmm::kAllowed : VmmDoor::RootVmm::kRefused);
}

void SessionKeep::on_arrival(std::uint64_t id, Arrival arrival) {
  remove_socket(id, sessions_[id].kept);
  auto description = arrival.describe();
  KeptSession arrived;
  arrived[KeptRole::kOtherUserfaultfds] = std::move(arrival.other_userfaultfds);
  arrived[KeptRole::kConnection] = std::move(arrival.connection);
  arrived[KeptRole::kPidfd] = std::move(arrival.vmm.pidfd);
  arrived[KeptRole::kUserfaultfd] = std::move(arrival.userfaultfd);
  if (!description) return give_up(id, std::move(arrived), description.error().message());
  arrived[KeptRole::kArrival] = *std::move(description);
  remember(id, arrived);
  Entry& entry = sessions_[id];
  entry.kept.add(arrived.share());
  show_vmm(id, arrival.vmm.pid, entry.kept);
  if (nobody_serves_for_long_ || is_set_aside(entry)) deal_with_unserved(id, entry.kept);
  // Without a handler the next one will be told.
  if (channel_ == nullptr || is_set_aside(entry)) return;
  channel_->send(
      {.kind = KeepMessage::Kind::kArrived, .session = id, .descriptors = std::move(arrived)});
}

void SessionKeep::give_up(std::uint64_t id, KeptSession arrived, const std::string& reason) {
  log_error("session {}: its VMM cannot be taken in: {}", id, reason);
  if (channel_ != nullptr) {
    channel_->send({.kind = KeepMessage::Kind::kArrived, .session = id, .text = reason});
  }
  auto entry = sessions_.extract(id);
  owner_.hide(id);
  if (entry.mapped().door != nullptr) {
    static_cast<void>(entry.mapped().door->close());
    closing_doors_.push_back(std::move(entry.mapped().door));
  }
  KeptSession kept = std::move(entry.mapped().kept);
  remove_socket(id, kept);
  if (arrived.has(KeptRole::kPidfd)) kill_loudly(arrived[KeptRole::kPidfd]);
  const bool lingers = arrived.has(KeptRole::kUserfaultfd);
  remember(id, arrived);
  kept.add(std::move(arrived));
  lingers ? linger(id, std::move(kept)) : forget(id, kept);
}

void SessionKeep::drop(std::uint64_t id, bool dealt_with) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Entry entry = std::move(found->second);
  sessions_.erase(found);
  owner_.hide(id);
  remove_socket(id, entry.kept);
  if (entry.door != nullptr) {
    Arrival arrival = entry.door->close();
    closing_doors_.push_back(std::move(entry.door));
    if (!entry.kept.has(KeptRole::kUserfaultfd) && arrival.userfaultfd.valid()) {
      KeptSession arrived;
      arrived[KeptRole::kUserfaultfd] = std::move(arrival.userfaultfd);
      arrived[KeptRole::kOtherUserfaultfds] = std::move(arrival.other_userfaultfds);
      arrived[KeptRole::kPidfd] = std::move(arrival.vmm.pidfd);
      remember(id, arrived);
      entry.kept.add(std::move(arrived));
    }
  }
  const bool lingers = !dealt_with && entry.kept.has(KeptRole::kUserfaultfd);
  lingers ? let_linger(id, std::move(entry.kept)) : forget(id, entry.kept);
}

void SessionKeep::let_linger(std::uint64_t id, KeptSession kept) {
  log_error("session {} is over, and its VMM has handed over memory", id);
  if (policy_of(record_of(kept)) == UnservablePolicy::kKill) kill_loudly(kept[KeptRole::kPidfd]);
  linger(id, std::move(kept));
}

void SessionKeep::linger(std::uint64_t id, KeptSession kept) {
  lingering_.emplace(id, std::move(kept));
  if (!lingering_timer_.active()) loop_.wait(limits::kLingerInterval, lingering_timer_);
}

void SessionKeep::look_at_lingering() {
  std::erase_if(lingering_, [&](const auto& each) {
    const auto& [id, kept] = each;
    if (!has_exited(kept[KeptRole::kPidfd])) return false;
    forget(id, kept);
    return true;
  });
  if (!lingering_.empty()) loop_.wait(limits::kLingerInterval, lingering_timer_);
}

void SessionKeep::kill_lingering() {
  for (const auto& [id, kept] : lingering_) kill_loudly(kept[KeptRole::kPidfd]);
  for (const auto& [id, kept] : lingering_) {
    const auto exited = wait_for_exit(kept[KeptRole::kPidfd], Deadline::after(limits::kKilledExit));
    if (!exited) log_error("a VMM that was killed: {}", exited.error().message());
    forget(id, kept);
  }
}

void SessionKeep::look_whether_served() {
  if (serving_) return;
  const Nanoseconds left = died_at_ + limits::kNobodyServes - Clock::now();
  if (left > Nanoseconds(0)) return loop_.wait(left, nobody_serves_);
  nobody_serves_for_long_ = true;
  for (const auto& [id, entry] : sessions_) deal_with_unserved(id, entry.kept);
}

void SessionKeep::deal_with_unserved(std::uint64_t id, const KeptSession& kept) {
  if (!kept.has(KeptRole::kUserfaultfd)) return;
  const auto record = record_of(kept);
  if (record && record->detached()) return;
  const bool kills = policy_of(record) == UnservablePolicy::kKill;
  log_error("session {}: no fault handler can be had; its VM {}", id,
            kills ? "is killed" : "waits");
  if (kills) kill_loudly(kept[KeptRole::kPidfd]);
}

bool SessionKeep::busy() const {
  return std::ranges::any_of(sessions_, [](const auto& entry) {
    return entry.second.door != nullptr && entry.second.door->busy();
  });
}

std::vector<NamedDescriptor> SessionKeep::pass_on() {
  if (channel_ != nullptr) channel_->drain();
  std::vector<NamedDescriptor> kept;
  kept.push_back({kept_name(0, KeptRole::kListener), std::move(control_)});
  for (auto& [id, entry] : sessions_) {
    for (std::size_t i = 0; i < kKeptRoles; ++i) {
      const auto role = static_cast<KeptRole>(i);
      if (!entry.kept.has(role)) continue;
      kept.push_back({kept_name(id, role), std::move(entry.kept[role])});
    }
  }
  kill_lingering();
  return kept;
}

void SessionKeep::stop() {
  kill_lingering();
  for (auto& [id, entry] : sessions_) {
    if (entry.door == nullptr) continue;
    static_cast<void>(entry.door->close());
    closing_doors_.push_back(std::move(entry.door));
  }
}

void SessionKeep::tidy() {
  static_cast<void>(reserve_.refill());
  std::erase_if(closing_doors_, [](const auto& door) { return door->finished(); });
  std::erase_if(closing_channels_, [](const auto& channel) { return channel->finished(); });
}

}  // namespace thaw
