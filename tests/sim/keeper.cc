#include "tests/sim/keeper.h"

#include <algorithm>

#include "base/check.h"
#include "base/file.h"

namespace thaw::sim {

namespace {

constexpr std::chrono::microseconds kMostMessage{100};  // from one process to the other

}  // namespace

Keeper::Keeper(Machine& machine) : machine_(machine), loop_(machine) {}

void Keeper::serve(Tell tell) {
  tell_ = std::move(tell);
  ++handlers_;
}

void Keeper::leave() {
  tell_ = nullptr;
  ++handlers_;
}

void Keeper::keep(const KeptSession& left) {
  const Machine::In own(machine_, 0);
  auto copied = left.duplicate();
  CHECK(copied.has_value());
  KeptSession kept = *std::move(copied);
  const std::size_t number = sessions_.size();
  UniqueFd listener = duplicate(kept[KeptRole::kListener]).value();
  UniqueFd image;
  if (kept.has(KeptRole::kImageView)) image = duplicate(kept[KeptRole::kImageView]).value();
  sessions_.push_back(
      {std::move(kept), std::make_unique<VmmDoor>(loop_, std::move(listener), std::move(image),
                                                  [this, number](Arrival arrival) {
                                                    on_arrival(number, std::move(arrival));
                                                  })});
}

void Keeper::on_arrival(std::size_t session, Arrival arrival) {
  KeptSession arrived;
  arrived[KeptRole::kArrival] = arrival.describe().value();
  arrived[KeptRole::kConnection] = std::move(arrival.connection);
  arrived[KeptRole::kPidfd] = std::move(arrival.vmm.pidfd);
  arrived[KeptRole::kUserfaultfd] = std::move(arrival.userfaultfd);
  // A message, which goes with the handler that it was for.
  auto copied = arrived.duplicate();
  CHECK(copied.has_value());
  const auto copy = std::make_shared<KeptSession>(*std::move(copied));
  sessions_[session].kept.add(std::move(arrived));
  machine_.schedule().after(machine_.random().duration(kMostMessage),
                            [this, session, copy, handler = handlers_] {
                              if (handler == handlers_ && tell_) tell_(session, *copy);
                            });
}

KeptSession Keeper::kept(std::size_t session) const {
  auto copy = sessions_[session].kept.duplicate();
  CHECK(copy.has_value());
  return *std::move(copy);
}

void Keeper::drop(std::size_t session) {
  machine_.schedule().after(machine_.random().duration(kMostMessage),
                            [this, session] { forget(session); });
}

void Keeper::forget(std::size_t session) {
  Entry& entry = sessions_[session];
  static_cast<void>(entry.door->close());
  entry.kept = {};
}

bool Keeper::idle() const {
  return loop_.under_way() == 0 && std::ranges::all_of(sessions_, [](const Entry& entry) {
           return entry.door->finished() && entry.kept.roles() == 0;
         });
}

}  // namespace thaw::sim
