#include "tests/sim/machine.h"

#include <algorithm>

#include <fcntl.h>

#include "base/check.h"
#include "base/file.h"

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
  if (const auto real = std::dynamic_pointer_cast<RealFile>(file)) {
    auto copy = duplicate(real->fd());
    CHECK(copy.has_value());
    return copy->release();
  }
  int fd = kFirstDescriptor;
  while (files_.contains(fd)) ++fd;
  files_.emplace(fd, Descriptor{std::move(file), process_});
  return fd;
}

std::shared_ptr<File> Machine::file(int fd) const {
  const auto found = files_.find(fd);
  return found != files_.end() ? found->second.file : nullptr;
}

std::shared_ptr<File> Machine::pass(int fd) const {
  if (fd >= kFirstDescriptor) return file(fd);
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  CHECK(copy.valid());
  return std::make_shared<RealFile>(std::move(copy));
}

void Machine::close(int fd) {
  const auto found = files_.find(fd);
  if (found == files_.end()) return schedule_.violate("a descriptor was closed twice");
  const std::shared_ptr<File> last = std::move(found->second.file);
  files_.erase(found);
}

void Machine::start_thread(std::function<void()> run) {
  const std::uint64_t number = next_thread_++;
  threads_.push_back({std::make_unique<Fiber>(std::move(run)), number, process_});
  go_on_later(number);
}

void Machine::go_on_later(std::uint64_t thread) {
  schedule_.after(random().duration(kMostThreadDelay), [this, thread] { go_on(thread); });
}

void Machine::go_on(std::uint64_t thread) {
  const auto found = std::ranges::find(threads_, thread, &Thread::number);
  if (found == threads_.end()) return;  // somebody has waited for its end meanwhile
  const In process(*this, found->process);
  running_ = found->fiber.get();
  running_->resume();
  const bool done = running_->done();
  running_ = nullptr;
  if (dying_) {
    if (turn_ == nullptr) tell_of_death();
    return;
  }
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
  if (dying_) turn_->yield();
}

void Machine::run_in(unsigned process, const std::function<void()>& run) {
  const In in(*this, process);
  auto fiber = std::make_unique<Fiber>(run);
  turn_ = fiber.get();
  turn_->resume();
  turn_ = nullptr;
  if (!dying_) return;
  static_cast<void>(fiber.release());
  tell_of_death();
}

void Machine::may_die() {
  Fiber* const here = running_ != nullptr ? running_ : turn_;
  if (process_ == 0 || here == nullptr || !calls_until_death_) return;
  if ((*calls_until_death_)-- > 0) return;
  calls_until_death_.reset();
  dying_ = true;
  here->yield();
}

void Machine::tell_of_death() {
  dying_ = false;
  on_death_();
}

void Machine::end_process(unsigned process) {
  for (Thread& thread : threads_) {
    if (thread.process == process) static_cast<void>(thread.fiber.release());
  }
  std::erase_if(threads_, [](const Thread& thread) { return thread.fiber == nullptr; });
  std::vector<std::shared_ptr<File>> files;
  for (const auto& [fd, descriptor] : files_) {
    if (descriptor.process == process) files.push_back(descriptor.file);
  }
  std::erase_if(files_, [&](const auto& each) { return each.second.process == process; });
  for (const auto& file : files) file->on_death();
}

}  // namespace thaw::sim
