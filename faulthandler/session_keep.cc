#include "faulthandler/session_keep.h"

#include <algorithm>
#include <utility>

#include "base/blocked_call.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/place.h"
#include "base/socket.h"
#include "faulthandler/address_space.h"
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

/// Whether no process has the memory that was handed over. The kernel is not asked while the VMM
/// lives, which would decide how long that takes.
bool is_over(const KeptSession& kept) {
  if (kept.has(KeptRole::kPidfd) && !has_exited(kept[KeptRole::kPidfd])) return false;
  return !has_address_space(kept[KeptRole::kUserfaultfd]) &&
         !any_has_address_space(kept[KeptRole::kOtherUserfaultfds]);
}

/// Whose VMM may come; nothing when no socket has a file any more.
std::optional<uid_t> user_of(const KeptSession& kept) {
  if (!kept.has(KeptRole::kSocketFile)) return std::nullopt;
  const auto owner = file_owner(kept[KeptRole::kSocketFile]);
  return owner ? std::optional(owner->uid) : std::nullopt;
}

void kill_loudly(const UniqueFd& pidfd) {
  if (const auto killed = kill_process(pidfd); !killed) log_error("{}", killed.error().message());
}

}  // namespace

SessionKeep::SessionKeep(Loop& loop, UniqueFd control, Owner& owner)
    : loop_(loop), control_(std::move(control)), owner_(owner) {
  owner_.keep(kept_name(0, KeptRole::kListener), control_);
  static_cast<void>(reserve_.refill(control_));
}

void SessionKeep::take_over(std::vector<NamedDescriptor> kept, OutageCause cause,
                            std::optional<Clock::time_point> since) {
  outage_cause_ = cause;
  for (NamedDescriptor& each : kept) {
    if (const auto user = parse_leaving_door_name(each.name)) {
      leaving_doors_.push_back({.process = std::move(each.descriptor), .user = user, .since = {}});
      continue;
    }
    const auto name = parse_kept_name(each.name);
    if (!name || name->session == 0) continue;
    sessions_[name->session].kept[name->role] = std::move(each.descriptor);
    highest_ = std::max(highest_, name->session);
  }
  for (auto& [id, entry] : sessions_) {
    // It was over, and its VMM was held on to: another one must not take its place.
    const bool dropped =
        entry.kept.has(KeptRole::kUserfaultfd) && !entry.kept.has(KeptRole::kArrival);
    if (dropped) let_linger(id, std::move(entry.kept));
  }
  std::erase_if(sessions_, [&](const auto& each) { return lingering_.contains(each.first); });
  has_served_ = !sessions_.empty() || cause == OutageCause::kUpgrade;
  died_at_ = since.value_or(Clock::now());
  if (!sessions_.empty()) loop_.wait(limits::kNobodyServes, nobody_serves_);
  look_at_doors();
  doors_are_open_ = cause != OutageCause::kUpgrade;
  if (doors_are_open_) open_doors();
  for (auto& [id, entry] : sessions_) {
    if (!entry.kept.has(KeptRole::kArrival)) continue;
    if (const auto arrival = Arrival::read(entry.kept[KeptRole::kArrival])) {
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
      loop_, std::move(connection), reserve_,
      [this](KeepMessage message) { on_message(std::move(message)); },
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

std::map<std::uint64_t, SessionKeep::Entry>::iterator SessionKeep::in_call_of(pid_t handler) {
  const auto descriptor = descriptor_in_call(handler);
  if (!descriptor) return sessions_.end();
  return std::ranges::find_if(sessions_, [&](const auto& each) {
    const KeptSession& kept = each.second.kept;
    return kept.has(KeptRole::kUserfaultfd) &&
           is_same_open_file(kept[KeptRole::kUserfaultfd], handler, *descriptor);
  });
}

void SessionKeep::note_stall(pid_t handler) {
  const auto found = in_call_of(handler);
  if (found == sessions_.end()) return;
  auto& [id, entry] = *found;
  const auto now = Clock::now();
  log_error("session {}: the fault handler stood still on its memory", id);
  const bool again = now - std::exchange(entry.stalled_at, now) < limits::kStallsForgotten;
  entry.stalls = again ? entry.stalls + 1 : 1;
  if (entry.stalls == limits::kMostStalls) set_aside(id, entry, entry.stalls, "stood still");
}

void SessionKeep::note_unkillable(pid_t handler) {
  const auto found = in_call_of(handler);
  if (found == sessions_.end() || is_set_aside(found->second)) return;
  found->second.stalls = limits::kMostStalls;
  log_error("session {}: the system call on its memory does not end: it is set aside",
            found->first);
  deal_with_unserved(found->first, found->second.kept);
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
  open_doors();
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
  if (doors_are_open_ && !entry.kept.has(KeptRole::kArrival)) open_door(id);
}

void SessionKeep::remember(std::uint64_t id, const KeptSession& kept) {
  kept.for_each([&](KeptRole role, const UniqueFd& descriptor) {
    owner_.keep(kept_name(id, role), descriptor);
  });
}

void SessionKeep::forget(std::uint64_t id, KeptSession kept) {
  kept.for_each([&](KeptRole role, const UniqueFd&) { owner_.forget(kept_name(id, role)); });
  owner_.close(std::move(kept));
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

void SessionKeep::open_doors() {
  doors_are_open_ = true;
  std::vector<std::uint64_t> awaited;
  for (const auto& [id, entry] : sessions_) {
    if (!entry.door && !entry.kept.has(KeptRole::kArrival)) awaited.push_back(id);
  }
  for (const std::uint64_t id : awaited) open_door(id);
}

void SessionKeep::open_door(std::uint64_t id) {
  if (const auto opened = try_to_open_door(id, sessions_[id]); !opened) {
    on_no_door(id, opened.error());
  }
}

Result<void> SessionKeep::try_to_open_door(std::uint64_t id, Entry& entry) {
  const auto user = user_of(entry.kept);
  if (user) {
    const auto hanging = std::ranges::count_if(
        leaving_doors_, [&](const LeavingDoor& door) { return door.user == user && hangs(door); });
    if (hanging >= limits::kMostHangingDoors) {
      return fail(ErrorCode::kLimitExceeded,
                  "closing what user {} has sent does not come to an end in {} processes", *user,
                  hanging);
    }
  }
  const auto request = request_of(record_of(entry.kept));
  KeepMessage order{.kind = KeepMessage::Kind::kOpenDoor,
                    .session = id,
                    .value = request && request->allow_root_vmm ? 1u : 0u};
  order.descriptors = entry.kept.share_entrance();
  UniqueFd connection = TRY(owner_.open_door(std::move(order)));
  entry.door =
      Door{.channel = std::make_unique<KeepChannel>(
               loop_, std::move(connection), reserve_,
               [this, id](KeepMessage message) { on_door_message(id, std::move(message)); },
               [this, id](KeepChannel::End) { on_door_gone(id); }),
           .user = user,
           .answer_by = Clock::now() + limits::kDoorAnswer};
  if (!door_timer_.active()) loop_.wait(limits::kLingerInterval, door_timer_);
  return {};
}

void SessionKeep::on_no_door(std::uint64_t id, const Error& error) {
  Entry& entry = sessions_[id];
  if (++entry.door_failures >= limits::kMostDoorFailures) return give_up(id, {}, error.message());
  log_warning("session {}: its VMM cannot come in yet: {}", id, error.message());
  if (!door_retry_.active()) loop_.wait(limits::kRestartMost, door_retry_);
}

SessionKeep::Entry* SessionKeep::find(std::uint64_t id) {
  for (auto* const entries : {&sessions_, &closing_}) {
    if (const auto found = entries->find(id); found != entries->end()) return &found->second;
  }
  return nullptr;
}

void SessionKeep::on_door_message(std::uint64_t id, KeepMessage message) {
  Entry* const entry = find(id);
  if (entry == nullptr || !entry->door) return;
  switch (message.kind) {
    case KeepMessage::Kind::kDoorOpen:
      entry->door->process = std::move(message.descriptors[KeptRole::kPidfd]);
      if (entry->door->told_to_close) return;
      entry->door->answer_by = Clock::now() + limits::kAcceptTimeout + limits::kDoorClosing;
      return;
    case KeepMessage::Kind::kVmmInside:
      entry->door->inside = std::move(message.descriptors);
      return;
    case KeepMessage::Kind::kClosing:
      if (!entry->door->told_to_close) return;
      entry->door->answer_by = Clock::now() + limits::kUpgradeDoors + limits::kDoorAnswer;
      return;
    case KeepMessage::Kind::kSay:
      return log_line(static_cast<LogLevel>(message.value),
                      fmt::format("session {}: {}", id, message.text));
    case KeepMessage::Kind::kArrived:
      return on_door_answer(id, *entry, std::move(message));
    case KeepMessage::Kind::kClosed:
      end_door(*entry, Answer::kGiven);
      break;
    default:
      return log_error("session {}: its door says what makes no sense", id);
  }
  if (auto over = closing_.extract(id)) return close(id, std::move(over.mapped()));
  if (doors_are_open_) open_door(id);  // an upgrade that closed it was given up meanwhile
}

/// The door holds on to what has come until this process or a handler has it, too.
void SessionKeep::on_door_answer(std::uint64_t id, Entry& entry, KeepMessage answer) {
  Door door = std::move(*entry.door);
  entry.door.reset();
  if (sessions_.contains(id)) {
    on_arrival(id, std::move(answer.descriptors), answer.text);
  } else {
    close_with(id, std::move(answer.descriptors));
  }
  door.channel->send({.kind = KeepMessage::Kind::kTaken, .session = id});
  end_door(std::move(door), Answer::kGiven);
}

void SessionKeep::on_door_gone(std::uint64_t id) {
  Entry* const entry = find(id);
  if (entry == nullptr || !entry->door) return;
  const std::string reason = "the process of its door has ended";
  if (!lose_door(id, *entry, reason)) return;
  on_no_door(id, Error(ErrorCode::kUnavailable, reason));
}

bool SessionKeep::lose_door(std::uint64_t id, Entry& entry, const std::string& reason) {
  KeptSession inside = std::move(entry.door->inside);
  end_door(entry, Answer::kNone);
  if (closing_.contains(id)) {
    close_with(id, std::move(inside));
    return false;
  }
  if (!inside.has(KeptRole::kUserfaultfd)) return true;
  give_up(id, std::move(inside), reason);
  return false;
}

void SessionKeep::close_with(std::uint64_t id, KeptSession arrived) {
  auto over = closing_.extract(id);
  remember(id, arrived);
  over.mapped().kept.add(std::move(arrived));
  close(id, std::move(over.mapped()));
}

void SessionKeep::tell_to_close(std::uint64_t id, Door& door, VmmDoor::Queue queue,
                                Nanoseconds patience) {
  door.told_to_close = true;
  door.answer_by = Clock::now() + patience;
  door.channel->send({.kind = KeepMessage::Kind::kCloseDoor,
                      .session = id,
                      .value = static_cast<std::uint64_t>(queue)});
}

void SessionKeep::end_door(Entry& entry, Answer answer) {
  Door door = std::move(*entry.door);
  entry.door.reset();
  end_door(std::move(door), answer);
}

void SessionKeep::end_door(Door door, Answer answer) {
  door.channel->close();
  closing_channels_.push_back(std::move(door.channel));
  owner_.close(std::move(door.inside));
  if (!door.process.valid()) return;
  leaving_doors_.push_back({.process = std::move(door.process),
                            .user = door.user,
                            .answered = answer == Answer::kGiven});
}

void SessionKeep::look_at_doors() {
  const auto now = Clock::now();
  std::vector<std::uint64_t> late;
  for (const auto* const entries : {&sessions_, &closing_}) {
    for (const auto& [id, entry] : *entries) {
      if (entry.door && entry.door->answer_by < now) late.push_back(id);
    }
  }
  for (const std::uint64_t id : late) {
    log_error("session {}: its door does not answer, and is left alone", id);
    Entry& entry = *find(id);
    const bool opened = entry.door->process.valid();
    const bool waited_for = entry.door->told_to_close;
    if (!opened) owner_.renew_doors();
    const std::string reason = "its door does not answer";
    if (!lose_door(id, entry, reason)) continue;
    if (!opened) {
      on_no_door(id, Error(ErrorCode::kTimeout, "its door does not open"));
    } else if (!waited_for) {
      give_up(id, {}, reason);
    } else if (doors_are_open_) {
      open_door(id);
    }
  }
  look_at_leaving_doors();
  const bool any_left = !leaving_doors_.empty() || busy();
  if (any_left && !door_timer_.active()) loop_.wait(limits::kLingerInterval, door_timer_);
}

/// A door that has answered holds nothing that a VM needs: it may be killed. One that has not may
/// have the memory of a VMM, and kills that itself when it can.
void SessionKeep::look_at_leaving_doors() {
  std::erase_if(leaving_doors_, [](const LeavingDoor& door) { return has_exited(door.process); });
  for (LeavingDoor& door : leaving_doors_) {
    if (!hangs(door)) continue;
    if (door.answered) kill_loudly(door.process);
    if (std::exchange(door.said, true)) continue;
    log_warning(LogKind("door hangs"), "closing what a process of user {} has sent does not end",
                door.user ? std::to_string(*door.user) : "unknown");
  }
}

bool SessionKeep::hangs(const LeavingDoor& door) {
  return Clock::now() - door.since > limits::kDoorExit;
}

void SessionKeep::on_arrival(std::uint64_t id, KeptSession arrived, const std::string& failure) {
  remove_socket(id, sessions_[id].kept);
  if (!arrived.has(KeptRole::kArrival)) return give_up(id, std::move(arrived), failure);
  remember(id, arrived);
  Entry& entry = sessions_[id];
  entry.kept.add(arrived.share());
  if (const auto arrival = Arrival::read(arrived[KeptRole::kArrival])) {
    show_vmm(id, arrival->vmm.pid, entry.kept);
  }
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
  remove_socket(id, entry.mapped().kept);
  if (arrived.has(KeptRole::kPidfd)) kill_loudly(arrived[KeptRole::kPidfd]);
  remember(id, arrived);
  entry.mapped().kept.add(std::move(arrived));
  close(id, std::move(entry.mapped()));
}

void SessionKeep::drop(std::uint64_t id, bool dealt_with) {
  auto entry = sessions_.extract(id);
  if (!entry) return;
  owner_.hide(id);
  remove_socket(id, entry.mapped().kept);
  if (dealt_with && !entry.mapped().door) {
    return forget(id, std::move(entry.mapped().kept));
  }
  close(id, std::move(entry.mapped()));
}

void SessionKeep::close(std::uint64_t id, Entry entry) {
  if (entry.door) {
    tell_to_close(id, *entry.door, VmmDoor::Queue::kHeard, limits::kDoorAnswer);
    closing_.emplace(id, std::move(entry));
    return;
  }
  if (!entry.kept.has(KeptRole::kUserfaultfd)) {
    return forget(id, std::move(entry.kept));
  }
  let_linger(id, std::move(entry.kept));
}

void SessionKeep::let_linger(std::uint64_t id, KeptSession kept) {
  log_error("session {} is over, and its VMM has handed over memory", id);
  const bool kills = stopped_ || policy_of(record_of(kept)) == UnservablePolicy::kKill;
  if (kills && kept.has(KeptRole::kPidfd)) kill_loudly(kept[KeptRole::kPidfd]);
  // The next supervisor must not take it for a session that goes on.
  if (kept.has(KeptRole::kArrival)) {
    owner_.forget(kept_name(id, KeptRole::kArrival));
    kept.drop(KeptRole::kArrival);
  }
  lingering_.emplace(id, Lingering{std::move(kept)});
  if (!lingering_timer_.active()) loop_.wait(limits::kLingerInterval, lingering_timer_);
}

void SessionKeep::look_at_lingering() {
  for (auto it = lingering_.begin(); it != lingering_.end();) {
    auto& [id, held] = *it;
    if (is_over(held.kept)) {
      forget(id, std::move(held.kept));
      it = lingering_.erase(it);
      continue;
    }
    const bool outlives =
        held.kept.has(KeptRole::kPidfd) && has_exited(held.kept[KeptRole::kPidfd]);
    if (outlives && !std::exchange(held.outlives_vmm, true)) {
      log_error("session {}: its VMM has exited, and another process has its memory", id);
    }
    ++it;
  }
  if (lingering_.empty() || lingering_timer_.active()) return;
  loop_.wait(limits::kLingerInterval, lingering_timer_);
}

void SessionKeep::look_whether_served() {
  if (serving_) return;
  const Nanoseconds left = died_at_ + limits::kNobodyServes - Clock::now();
  if (left > Nanoseconds(0)) return loop_.wait(left, nobody_serves_);
  nobody_serves_for_long_ = true;
  open_doors();
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
  return !closing_.empty() || std::ranges::any_of(sessions_, [](const auto& entry) {
    return entry.second.door.has_value();
  });
}

void SessionKeep::close_doors() {
  doors_are_open_ = false;
  for (auto& [id, entry] : sessions_) {
    if (!entry.door || entry.door->told_to_close) continue;
    tell_to_close(id, *entry.door, VmmDoor::Queue::kLeft, limits::kDoorAnswer);
  }
}

std::vector<NamedDescriptor> SessionKeep::pass_on() {
  if (channel_ != nullptr) channel_->drain();
  std::vector<NamedDescriptor> passed;
  passed.push_back({kept_name(0, KeptRole::kListener), std::move(control_)});
  const auto pass = [&passed](std::uint64_t id, KeptSession& kept) {
    for (std::size_t i = 0; i < kKeptRoles; ++i) {
      const auto role = static_cast<KeptRole>(i);
      if (kept.has(role)) passed.push_back({kept_name(id, role), std::move(kept[role])});
    }
  };
  for (auto& [id, entry] : sessions_) pass(id, entry.kept);
  for (auto& [id, held] : lingering_) pass(id, held.kept);
  lingering_.clear();
  // Else each upgrade would allow its user as many again.
  for (LeavingDoor& door : leaving_doors_) {
    if (door.user) passed.push_back({leaving_door_name(*door.user), std::move(door.process)});
  }
  leaving_doors_.clear();
  return passed;
}

void SessionKeep::stop() {
  stopped_ = true;
  while (!sessions_.empty()) {
    const auto& [id, entry] = *sessions_.begin();
    const auto record = record_of(entry.kept);
    drop(id, record && record->detached());  // whose VM needs no handler
  }
  for (const auto& [id, held] : lingering_) {
    if (held.kept.has(KeptRole::kPidfd)) kill_loudly(held.kept[KeptRole::kPidfd]);
  }
  const Deadline deadline = Deadline::after(limits::kKilledExit);
  for (const auto& [id, held] : lingering_) {
    if (!held.kept.has(KeptRole::kPidfd)) continue;
    static_cast<void>(wait_for_exit(held.kept[KeptRole::kPidfd], deadline));
  }
  look_at_lingering();
  for (const auto& [id, held] : lingering_) {
    log_error("session {}: the process that has its memory lives: this one stays until that exits",
              id);
  }
}

void SessionKeep::tidy() {
  static_cast<void>(reserve_.refill(control_));
  std::erase_if(closing_channels_, [](const auto& channel) { return channel->finished(); });
}

}  // namespace thaw
