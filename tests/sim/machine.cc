#include "tests/sim/machine.h"

#include <algorithm>

#include "base/check.h"

namespace thaw::sim {

namespace {

/// Until a thread that could go on does.
constexpr std::chrono::microseconds kMostThreadDelay{2000};

/// System calls have no argument that would lead to the machine they are made on.
Machine*& current_machine() {
  static Machine* machine = nullptr;
  return machine;
}

}  // namespace

Machine::Machine(Schedule& schedule) : schedule_(schedule) {
  CHECK(current_machine() == nullptr);
  current_machine() = this;
}

Machine::~Machine() {
  watchers_.clear();
  files_.clear();
  current_machine() = nullptr;
}

void Machine::abandon() { current_machine() = nullptr; }

Machine& Machine::current() {
  CHECK(current_machine() != nullptr);
  return *current_machine();
}

Machine* Machine::find_current() { return current_machine(); }

int Machine::open(std::shared_ptr<File> file) {
  int fd = kFirstDescriptor;
  while (files_.contains(fd)) ++fd;
  files_.emplace(fd, std::move(file));
  return fd;
}

std::shared_ptr<File> Machine::file(int fd) const {
  const auto found = files_.find(fd);
  return found != files_.end() ? found->second : nullptr;
}

void Machine::close(int fd) {
  const auto found = files_.find(fd);
  if (found == files_.end()) return schedule_.violate("a descriptor was closed twice");
  const std::shared_ptr<File> last = std::move(found->second);
  files_.erase(found);
}

void Machine::start_thread(std::function<void()> run) {
  const std::uint64_t number = next_thread_++;
  threads_.push_back({std::make_unique<Fiber>(std::move(run)), number});
  go_on_later(number);
}

void Machine::go_on_later(std::uint64_t thread) {
  schedule_.after(random().duration(kMostThreadDelay), [this, thread] { go_on(thread); });
}

void Machine::go_on(std::uint64_t thread) {
  const auto found = std::ranges::find(threads_, thread, &Thread::number);
  if (found == threads_.end()) return;  // somebody has waited for its end meanwhile
  running_ = found->fiber.get();
  running_->resume();
  const bool done = running_->done();
  running_ = nullptr;
  // The list may have grown meanwhile.
  if (done) std::erase_if(threads_, [thread](const Thread& one) { return one.number == thread; });
}

void Machine::may_switch() {
  if (running_ == nullptr || random().chance(400)) return;
  const auto self = std::ranges::find(threads_, running_,
                                      [](const Thread& thread) { return thread.fiber.get(); });
  go_on_later(self->number);
  running_->yield();
}

void Machine::wait_for_others() {
  if (running_ != nullptr) {
    const auto self = std::ranges::find(threads_, running_,
                                        [](const Thread& thread) { return thread.fiber.get(); });
    go_on_later(self->number);
    return running_->yield();
  }
  if (threads_.empty()) {
    schedule_.violate("the loop waits for a thread, and there is none");
    CHECK(!"the loop waits for ever");
  }
  go_on(threads_[random().below(threads_.size())].number);
}

}  // namespace thaw::sim
