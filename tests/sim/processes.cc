#include "tests/sim/processes.h"

#include <algorithm>

#include "base/check.h"
#include "faulthandler/limits.h"
#include "tests/sim/unix_socket.h"

namespace thaw::sim {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kMostNotice{5};  // from a death to its being noticed
constexpr milliseconds kMostRestart{300};

std::string control_name() { return kept_name(0, KeptRole::kListener); }

}  // namespace

Processes::Processes(Machine& machine, MakeHandler make_handler)
    : machine_(machine), make_handler_(std::move(make_handler)) {
  machine_.set_on_death([this] { on_death(); });
  begin_supervisor({{control_name(), std::make_shared<UnixListener>(machine_)}});
  start_handler();
}

void Processes::begin_supervisor(const Kept& kept) {
  ++supervisors_;
  loop_ = std::make_unique<SimLoop>(machine_);
  SessionKeep::Owner& owner = *this;  // a private base: make_unique may not convert
  keep_ = std::make_unique<SessionKeep>(*loop_, UniqueFd(machine_.open(kept.at(control_name()))),
                                        owner);
  loop_->set_after_turn([this] {
    keep_->tidy();
    std::erase_if(doors_, [](const auto& door) { return door->finished(); });
  });
  std::vector<NamedDescriptor> descriptors;
  for (const auto& [name, file] : kept) {
    descriptors.push_back({name, UniqueFd(machine_.open(file))});
  }
  keep_->take_over(std::move(descriptors), OutageCause::kDeath);
}

void Processes::start_handler() {
  MessagePair ends = create_message_pair().value();
  CHECK(keep_->begin_handler(std::move(ends.ours)).has_value());
  const auto socket = machine_.file(ends.theirs.get());
  ends.theirs.reset();
  const Machine::In process(machine_, ++handlers_);
  handler_ = make_handler_(UniqueFd(machine_.open(socket)));
}

Handler* Processes::handler() const {
  return handler_ != nullptr && handler_->serving() ? handler_.get() : nullptr;
}

void Processes::ask(const std::function<void(Handler&)>& ask) {
  machine_.run_in(handler_->process(), [&] { ask(*handler_); });
}

void Processes::kill_handler() {
  if (handler_ != nullptr && may_die_) on_death();
}

void Processes::on_death() {
  machine_.schedule().note("the handler dies");
  bury_handler();
  const auto notice = machine_.random().duration(kMostNotice);
  machine_.schedule().after(notice, [this, supervisor = supervisors_] {
    if (supervisor != supervisors_) return;
    static_cast<void>(keep_->end_handler(SessionKeep::Death::kOther));
    start_handler_later();
  });
}

void Processes::start_handler_later() {
  const Nanoseconds pause = machine_.random().duration(kMostRestart);
  later(std::exchange(next_delay_, std::nullopt).value_or(pause), &Processes::start_handler);
}

void Processes::bury_handler() {
  if (handler_ == nullptr) return;
  if (!unserved_since_ && handler_->serving()) unserved_since_ = machine_.schedule().now();
  Handler& dead = *handler_.release();
  dead.abandon();
  machine_.end_process(dead.process());
}

void Processes::later(Nanoseconds delay, void (Processes::*action)()) {
  machine_.schedule().after(delay, [this, action, supervisor = supervisors_] {
    if (supervisor == supervisors_) (this->*action)();
  });
}

void Processes::on_serving() {
  const auto now = machine_.schedule().now();
  if (unserved_since_) {
    const Nanoseconds outage = now - *unserved_since_;
    unserved_since_.reset();
    nobody_served_ = nobody_served_ || outage >= limits::kNobodyServes;
    told_(outage);
  }
  // Said by one that is dead by now: the next outage has begun.
  if (handler_ == nullptr) unserved_since_ = now;
}

bool Processes::nobody_served() const {
  const auto now = machine_.schedule().now();
  return nobody_served_ || (unserved_since_ && now - *unserved_since_ >= limits::kNobodyServes);
}

Result<UniqueFd> Processes::open_door(KeepMessage order) {
  MessagePair ends = TRY(create_message_pair());
  order.descriptors[KeptRole::kConnection] = std::move(ends.theirs);
  doors_.push_back(std::make_unique<ServedDoor>(*loop_, std::move(order), [] {}));
  return std::move(ends.ours);
}

bool Processes::doors_are_busy() const {
  return std::ranges::any_of(doors_, [](const auto& door) { return door->busy(); });
}

void Processes::keep(const std::string& name, const UniqueFd& descriptor) {
  stored_[name] = machine_.pass(descriptor.get());
}

void Processes::forget(const std::string& name) { stored_.erase(name); }

void Processes::let_live() {
  may_die_ = false;
  machine_.set_calls_until_death({});
}

void Processes::upgrade() {
  if (handler() == nullptr) return later(limits::kUpgradePause, &Processes::upgrade);
  ask([](Handler& handler) { handler.ask_for_upgrade(); });
}

void Processes::on_upgrade() { later(limits::kUpgradePause, &Processes::become_another); }

void Processes::become_another() {
  if (!may_die_) return;
  keep_->close_doors();
  if (keep_->busy()) return on_upgrade();
  machine_.schedule().note("the supervisor becomes another one");
  bury_handler();
  Kept kept;
  {
    const auto passed = keep_->pass_on();
    for (const NamedDescriptor& each : passed) {
      kept[each.name] = machine_.pass(each.descriptor.get());
    }
  }
  replace_supervisor(kept);
}

void Processes::restart() {
  if (!may_die_) return;
  if (doors_are_busy()) return later(limits::kUpgradePause, &Processes::restart);
  machine_.schedule().note("the supervisor dies, and its handler");
  was_restarted_ = true;
  bury_handler();
  replace_supervisor(stored_);
}

/// What the one before has in memory stays as it is.
void Processes::replace_supervisor(const Kept& kept) {
  static_cast<void>(keep_.release());
  for (auto& door : doors_) static_cast<void>(door.release());
  doors_.clear();
  loop_.release()->abandon();
  machine_.end_process(0);
  begin_supervisor(kept);
  start_handler_later();
}

void Processes::stop() {
  handler_.reset();
  static_cast<void>(keep_->end_handler(SessionKeep::Death::kOther));
  if (keep_->sessions() != 0) machine_.schedule().violate("sessions are kept that are over");
  keep_->stop();
}

bool Processes::stopped() const { return !keep_->is_needed(); }

void Processes::end() {
  loop_->finish();
  keep_.reset();
  doors_.clear();
  loop_.reset();
  stored_.erase(control_name());
  if (!stored_.empty()) {
    machine_.schedule().violate("the service manager has what is over: " + stored_.begin()->first);
  }
}

}  // namespace thaw::sim
