#include "base/memory_reserve.h"

#include <atomic>
#include <new>
#include <utility>

#include <sys/mman.h>

namespace thaw {

namespace {

std::size_t size_kept = 0;             // constant once there are other threads
std::atomic<void*> reserve = nullptr;  // nullptr: it is used up
thread_local bool may_fail = false;

bool refill() {
  if (size_kept == 0 || reserve != nullptr) return true;
  void* const made =
      ::mmap(nullptr, size_kept, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) return false;
  void* none = nullptr;
  if (!reserve.compare_exchange_strong(none, made)) ::munmap(made, size_kept);
  return true;
}

/// What operator new calls before it tries again.
void spend() {
  void* const spent = may_fail ? nullptr : reserve.exchange(nullptr);
  if (spent == nullptr) throw std::bad_alloc();
  ::munmap(spent, size_kept);
}

}  // namespace

void keep_memory_reserve(ByteCount size) {
  size_kept = size.value;
  std::set_new_handler(spend);
  static_cast<void>(refill());
}

AllocationsMayFail::AllocationsMayFail()
    : before_(std::exchange(may_fail, true)), has_reserve_(refill()) {}
AllocationsMayFail::~AllocationsMayFail() { may_fail = before_; }

}  // namespace thaw
