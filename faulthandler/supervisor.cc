#include "faulthandler/supervisor.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/memory_record.h"
#include "format/control.h"

namespace thaw {

namespace {

/// What is to become of a VM that nobody can serve. One whose record says nothing is stopped.
UnservablePolicy policy_of(const KeptSession& kept) {
  auto file = duplicate(kept[KeptRole::kRecord]);
  if (!file) return UnservablePolicy::kKill;
  const auto record = MemoryRecord::open(*std::move(file));
  if (!record) return UnservablePolicy::kKill;
  const auto line = decode_control_request(record->request());
  const auto* const request = line ? std::get_if<control::Prepare>(&*line) : nullptr;
  return request != nullptr ? request->on_unservable : UnservablePolicy::kKill;
}

bool has_exited(const UniqueFd& pidfd) {
  return wait_for_exit(pidfd, Deadline::after(Nanoseconds(0))).has_value();
}

void kill_loudly(const UniqueFd& pidfd) {
  if (const auto killed = kill_process(pidfd); !killed) log_error("{}", killed.error().message());
}

}  // namespace

Supervisor::Supervisor(Loop& loop, UniqueFd control, Commands commands)
    : loop_(loop), control_(std::move(control)), commands_(std::move(commands)) {
  manager_.keep(kept_name(0, KeptRole::kListener), control_);
}

void Supervisor::take_over(std::vector<NamedDescriptor> kept) {
  for (NamedDescriptor& each : kept) {
    const auto name = parse_kept_name(each.name);
    if (!name || name->session == 0) continue;
    sessions_[name->session].kept[name->role] = std::move(each.descriptor);
    highest_ = std::max(highest_, name->session);
  }
  has_served_ = !sessions_.empty();
  died_at_ = Clock::now();
  for (auto& [id, entry] : sessions_) {
    if (!entry.kept.has(KeptRole::kArrival)) open_door(id, entry);
  }
}

int Supervisor::run(std::function<void()> on_ready) {
  on_ready_ = std::move(on_ready);
  start_handler();
  loop_.run({.before = [] {}, .after = [this] { tidy(); }});
  return exit_code_;
}

void Supervisor::signal(int number) {
  last_signal_ = number;
  if (handler_) handler_->signal_group(number);
}

void Supervisor::start_handler() {
  if (const auto started = try_to_start(); !started) {
    log_error("no fault handler: {}", started.error().message());
    if (!has_served_) return stop(1);
    loop_.wait(pause_, restarting_);
    pause_ = std::min<Nanoseconds>(pause_ * 2, limits::kRestartMost);
  }
}

Result<void> Supervisor::try_to_start() {
  MessagePair ends = TRY(create_message_pair());
  handler_.emplace(TRY(ChildProcess::start(commands_.handler, {}, ends.theirs)));
  channel_ = std::make_unique<KeepChannel>(
      loop_, std::move(ends.ours), [this](KeepMessage message) { on_message(std::move(message)); },
      [] {});
  loop_.poll(handler_->pidfd(), POLLIN, exiting_);
  KeptSession control;
  control[KeptRole::kListener] = TRY(duplicate(control_));
  channel_->send({.kind = KeepMessage::Kind::kKept, .descriptors = std::move(control)});
  for (const auto& [id, entry] : sessions_) {
    channel_->send({.kind = KeepMessage::Kind::kKept,
                    .session = id,
                    .descriptors = TRY(entry.kept.duplicate())});
  }
  channel_->send({.kind = KeepMessage::Kind::kAllKept, .value = highest_});
  return {};
}

void Supervisor::on_handler_exit(int result) {
  if (result < 0) return;
  const auto status = handler_->status();
  if (!status) return loop_.poll(handler_->pidfd(), POLLIN, exiting_);
  died_at_ = serving_ ? Clock::now() : died_at_;
  handler_.reset();
  // A session that was prepared in its last moment has been promised.
  channel_->drain();
  channel_->close();
  closing_channels_.push_back(std::move(channel_));
  const bool ended = status->signal == 0 && status->code == 0;
  if (ended || !has_served_) return stop(status->signal != 0 ? 128 + status->signal : status->code);
  log_error("the fault handler {}; another one goes on with {} sessions", status->text(),
            sessions_.size());
  if (serving_) {
    serving_ = false;
    loop_.wait(limits::kNobodyServes, nobody_serves_);
    return start_handler();
  }
  loop_.wait(pause_, restarting_);
  pause_ = std::min<Nanoseconds>(pause_ * 2, limits::kRestartMost);
}

void Supervisor::on_message(KeepMessage message) {
  switch (message.kind) {
    case KeepMessage::Kind::kKeep:
      return keep(message.session, std::move(message.descriptors));
    case KeepMessage::Kind::kDrop:
      return drop(message.session, message.value != 0);
    case KeepMessage::Kind::kServing:
      return on_serving();
    case KeepMessage::Kind::kUpgrade:
      // Who asked is to be told that it is under way.
      if (!upgrading_.active()) loop_.wait(limits::kUpgradePause, upgrading_);
      return;
    default:
      log_error("the fault handler says what makes no sense");
  }
}

void Supervisor::on_serving() {
  serving_ = true;
  // Said to the one before, which may not have heard it.
  if (last_signal_ != 0) handler_->signal_group(last_signal_);
  pause_ = limits::kRestartFirst;
  loop_.cancel(nobody_serves_);
  if (!announced_) {
    announced_ = true;
    manager_.ready();
    on_ready_();
  }
  if (!std::exchange(has_served_, true)) return;
  const Nanoseconds outage = Clock::now() - died_at_;
  log_warning("{} sessions are served again after {:.1f} ms", sessions_.size(),
              std::chrono::duration<double, std::milli>(outage).count());
  channel_->send(
      {.kind = KeepMessage::Kind::kOutage, .value = static_cast<std::uint64_t>(outage.count())});
}

void Supervisor::keep(std::uint64_t id, KeptSession kept) {
  highest_ = std::max(highest_, id);
  Entry& entry = sessions_[id];
  entry.kept = std::move(kept);
  remember(id, entry.kept);
  open_door(id, entry);
}

void Supervisor::remember(std::uint64_t id, const KeptSession& kept) {
  kept.for_each([&](KeptRole role, const UniqueFd& descriptor) {
    manager_.keep(kept_name(id, role), descriptor);
  });
}

void Supervisor::open_door(std::uint64_t id, Entry& entry) {
  auto listener = duplicate(entry.kept[KeptRole::kListener]);
  Result<UniqueFd> image = UniqueFd();
  if (entry.kept.has(KeptRole::kImageView)) image = duplicate(entry.kept[KeptRole::kImageView]);
  if (!listener || !image) {
    Arrival nobody;
    nobody.refusal = listener ? image.error() : listener.error();
    return on_arrival(id, std::move(nobody));
  }
  entry.door = std::make_unique<VmmDoor>(
      loop_, *std::move(listener), *std::move(image),
      [this, id](Arrival arrival) { on_arrival(id, std::move(arrival)); });
}

void Supervisor::on_arrival(std::uint64_t id, Arrival arrival) {
  const auto kept = try_to_keep(id, arrival);
  if (kept) return;
  log_error("session {}: its VMM cannot be taken in: {}", id, kept.error().message());
  if (arrival.vmm.pidfd.valid()) kill_loudly(arrival.vmm.pidfd);
}

Result<void> Supervisor::try_to_keep(std::uint64_t id, Arrival& arrival) {
  KeptSession arrived;
  arrived[KeptRole::kArrival] = TRY(arrival.describe());
  arrived[KeptRole::kConnection] = std::move(arrival.connection);
  arrived[KeptRole::kPidfd] = std::move(arrival.vmm.pidfd);
  arrived[KeptRole::kUserfaultfd] = std::move(arrival.userfaultfd);
  remember(id, arrived);
  auto copy = arrived.duplicate();
  sessions_[id].kept.add(std::move(arrived));
  // Without a handler the next one will be told.
  if (channel_ == nullptr) return {};
  channel_->send(
      {.kind = KeepMessage::Kind::kArrived, .session = id, .descriptors = TRY(std::move(copy))});
  return {};
}

void Supervisor::drop(std::uint64_t id, bool dealt_with) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Entry entry = std::move(found->second);
  sessions_.erase(found);
  entry.kept.for_each(
      [&](KeptRole role, const UniqueFd&) { manager_.forget(kept_name(id, role)); });
  if (entry.door != nullptr) {
    Arrival arrival = entry.door->close();
    closing_doors_.push_back(std::move(entry.door));
    if (!entry.kept.has(KeptRole::kUserfaultfd) && arrival.userfaultfd.valid()) {
      entry.kept[KeptRole::kUserfaultfd] = std::move(arrival.userfaultfd);
      entry.kept[KeptRole::kPidfd] = std::move(arrival.vmm.pidfd);
    }
  }
  if (!dealt_with && entry.kept.has(KeptRole::kUserfaultfd)) let_linger(std::move(entry.kept));
}

void Supervisor::let_linger(KeptSession kept) {
  log_error("a VMM has handed over memory of a session that is over");
  if (policy_of(kept) == UnservablePolicy::kKill) kill_loudly(kept[KeptRole::kPidfd]);
  lingering_.push_back(std::move(kept));
  if (!lingering_timer_.active()) loop_.wait(limits::kLingerInterval, lingering_timer_);
}

void Supervisor::look_at_lingering() {
  std::erase_if(lingering_,
                [](const KeptSession& kept) { return has_exited(kept[KeptRole::kPidfd]); });
  if (!lingering_.empty()) loop_.wait(limits::kLingerInterval, lingering_timer_);
}

void Supervisor::on_nobody_serves() {
  for (const auto& [id, entry] : sessions_) {
    if (!entry.kept.has(KeptRole::kUserfaultfd)) continue;
    const bool kills = policy_of(entry.kept) == UnservablePolicy::kKill;
    log_error("session {}: no fault handler can be had; its VM {}", id,
              kills ? "is killed" : "waits");
    if (kills) kill_loudly(entry.kept[KeptRole::kPidfd]);
  }
}

void Supervisor::upgrade() {
  const auto busy = [](const auto& entry) {
    return entry.second.door != nullptr && entry.second.door->busy();
  };
  if (std::ranges::any_of(sessions_, busy)) return loop_.wait(limits::kUpgradePause, upgrading_);
  log_info("becoming {}", commands_.supervisor.front());
  // Whoever comes next goes on where this one is killed.
  if (handler_) {
    kill_loudly(handler_->pidfd());
    static_cast<void>(wait_for_exit(handler_->pidfd(), Deadline::after(limits::kKilledExit)));
    channel_->drain();
  }
  std::vector<NamedDescriptor> kept;
  const auto pass = [&](std::uint64_t id, KeptRole role, const UniqueFd& descriptor) {
    auto copy = duplicate(descriptor);
    if (copy) kept.push_back({kept_name(id, role), *std::move(copy)});
    return copy.has_value();
  };
  bool all = pass(0, KeptRole::kListener, control_);
  for (const auto& [id, entry] : sessions_) {
    entry.kept.for_each([&, id = id](KeptRole role, const UniqueFd& descriptor) {
      all = all && pass(id, role, descriptor);
    });
  }
  if (!all) return log_error("not upgraded: there are not enough descriptors");
  for (const KeptSession& lingering : lingering_) kill_loudly(lingering[KeptRole::kPidfd]);
  handler_.reset();
  const auto failed = become_with(commands_.supervisor, std::move(kept));
  log_error("{}", failed.error().message());
  // Nothing is as it was, but all descriptors are in place for the program that this one is.
  std::vector<std::string> same = commands_.supervisor;
  same.front() = "/proc/self/exe";
  CHECK(become(same).has_value());
}

void Supervisor::stop(int exit_code) {
  exit_code_ = exit_code;
  // With this process goes what keeps their missing pages from reading as zeros.
  for (const KeptSession& kept : lingering_) kill_loudly(kept[KeptRole::kPidfd]);
  for (auto& [id, entry] : sessions_) {
    if (entry.door == nullptr) continue;
    static_cast<void>(entry.door->close());
    closing_doors_.push_back(std::move(entry.door));
  }
  loop_.stop();
}

void Supervisor::tidy() {
  std::erase_if(closing_doors_, [](const auto& door) { return door->finished(); });
  std::erase_if(closing_channels_, [](const auto& channel) { return channel->finished(); });
}

}  // namespace thaw
