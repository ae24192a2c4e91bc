#include "tests/sim/fiber.h"

#include <cstddef>
#include <cstdint>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#include "base/check.h"

namespace thaw::sim {

namespace {

constexpr std::size_t kStackBytes = 256u << 10;

// Each switch of stacks is announced to AddressSanitizer before and confirmed after it.
void announce_switch([[maybe_unused]] void** shadow, [[maybe_unused]] const void* to,
                     [[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(shadow, to, bytes);
#endif
}
void confirm_switch([[maybe_unused]] void* shadow, [[maybe_unused]] const void** from,
                    [[maybe_unused]] std::size_t* bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(shadow, from, bytes);
#endif
}

}  // namespace

Fiber::Fiber(std::function<void()> run)
    : run_(std::move(run)), stack_(std::make_unique_for_overwrite<std::byte[]>(kStackBytes)) {
  CHECK(::getcontext(&fiber_) == 0);
  fiber_.uc_stack.ss_sp = stack_.get();
  fiber_.uc_stack.ss_size = kStackBytes;
  fiber_.uc_link = nullptr;
  // SAFETY: a pointer in two halves, as makecontext wants ints; enter() puts it together again.
  const auto self = reinterpret_cast<std::uintptr_t>(this);
  ::makecontext(&fiber_, reinterpret_cast<void (*)()>(&Fiber::enter), 2,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
}

void Fiber::enter(unsigned high, unsigned low) {
  auto* const self =
      reinterpret_cast<Fiber*>(static_cast<std::uintptr_t>(high) << 32 | std::uintptr_t{low});
  confirm_switch(nullptr, &self->caller_stack_, &self->caller_stack_bytes_);
  self->run_();
  self->done_ = true;
  announce_switch(nullptr, self->caller_stack_, self->caller_stack_bytes_);
  ::swapcontext(&self->fiber_, &self->caller_);
}

void Fiber::resume() {
  CHECK(!done_);
  announce_switch(&caller_shadow_, stack_.get(), kStackBytes);
  CHECK(::swapcontext(&caller_, &fiber_) == 0);
  confirm_switch(caller_shadow_, nullptr, nullptr);
}

void Fiber::yield() {
  announce_switch(&fiber_shadow_, caller_stack_, caller_stack_bytes_);
  CHECK(::swapcontext(&fiber_, &caller_) == 0);
  confirm_switch(fiber_shadow_, &caller_stack_, &caller_stack_bytes_);
}

}  // namespace thaw::sim
