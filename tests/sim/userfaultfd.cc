#include "tests/sim/userfaultfd.h"

#include <algorithm>
#include <cerrno>

#include <poll.h>
#include <sys/ioctl.h>

namespace thaw::sim {

namespace {

/// From the reading of an event to its caller's going on.
constexpr std::chrono::microseconds kMostCallerDelay{400};

int fail_with(int error) {
  errno = error;
  return -1;
}

ByteSpan bytes_at(std::uint64_t address, std::uint64_t length) {
  // SAFETY: the source of a copy, which the caller of the ioctl keeps readable.
  return {reinterpret_cast<const std::byte*>(address), length};
}

}  // namespace

Userfaultfd::~Userfaultfd() {
  *alive_ = false;
  if (memory_.ended()) return;
  machine_.schedule().note("the userfaultfd ends");
  for (auto& [address, page] : memory_.pages()) page.registered = false;
  for (const Event& event : events_) event.on_read();
  for (const Waiter& waiter : waiters_) waiter.wake();
}

short Userfaultfd::ready() const {
  const bool any = !events_.empty() || std::ranges::any_of(waiters_, [](const Waiter& waiter) {
    return !waiter.was_read;
  });
  return any ? POLLIN : 0;
}

bool Userfaultfd::take_fault(uffd_msg& message) {
  const auto next = std::ranges::find(waiters_, false, &Waiter::was_read);
  if (next == waiters_.end()) return false;
  next->was_read = true;
  message.event = UFFD_EVENT_PAGEFAULT;
  message.arg.pagefault.address = next->address.value;
  return true;
}

void Userfaultfd::take_event(uffd_msg& message) {
  message = events_.front().message;
  machine_.schedule().after(machine_.random().duration(kMostCallerDelay),
                            [this, alive = alive_, on_read = std::move(events_.front().on_read)] {
                              if (*alive) --changes_;
                              on_read();
                            });
  events_.pop_front();
}

long Userfaultfd::read(std::span<uffd_msg> messages) {
  std::size_t count = 0;
  for (uffd_msg& message : messages) {
    message = {};
    // Faults go first, whatever came before them; what comes in the midst of a read comes later.
    if (!take_fault(message)) {
      if (events_.empty()) break;
      take_event(message);
    }
    machine_.schedule().note("event {:#x} is read", message.event);
    ++count;
  }
  if (count == 0) return fail_with(EAGAIN);
  return static_cast<long>(count * sizeof(uffd_msg));
}

int Userfaultfd::control(unsigned long request, void* argument) {
  machine_.may_switch();
  if (memory_.ended()) return fail_with(ESRCH);
  // SAFETY: what the request's number says the argument is.
  switch (request) {
    case UFFDIO_COPY:
      return copy(*static_cast<uffdio_copy*>(argument));
    case UFFDIO_ZEROPAGE:
      return zero(*static_cast<uffdio_zeropage*>(argument));
    case UFFDIO_WAKE: {
      const auto& range = *static_cast<const uffdio_range*>(argument);
      wake({range.start}, range.len);
      return 0;
    }
    case UFFDIO_CONTINUE:
      return show(*static_cast<uffdio_continue*>(argument));
    case UFFDIO_REGISTER:
      return register_range(*static_cast<const uffdio_register*>(argument));
    case UFFDIO_UNREGISTER:
      return unregister(*static_cast<const uffdio_range*>(argument));
    default:
      return fail_with(EINVAL);
  }
}

int Userfaultfd::check_range(HostAddress start, std::uint64_t length) {
  if (start.value % kPageBytes != 0 || length % kPageBytes != 0 || length == 0) return EINVAL;
  for (std::uint64_t at = 0; at < length; at += kPageBytes) {
    const GuestMemory::Page* const page = memory_.find(start + ByteCount{at});
    if (page == nullptr || !page->registered) return ENOENT;
  }
  return 0;
}

Userfaultfd::Filled Userfaultfd::fill(HostAddress start, std::uint64_t length, const char* by,
                                      const std::function<Content(std::uint64_t)>& content_at) {
  if (changes_ > 0) return {0, EAGAIN};
  if (const int error = check_range(start, length); error != 0) return {0, error};
  // A limit is met for a moment.
  if (machine_.random().chance(10)) return {0, ENOMEM};
  Filled filled;
  for (; filled.done < length; filled.done += kPageBytes) {
    GuestMemory::Page& page = *memory_.find(start + ByteCount{filled.done});
    if (page.content) return {filled.done, EEXIST};
    // Memory may be short for a moment, or a signal come: what is done is done.
    if (filled.done > 0 && machine_.random().chance(20)) return {filled.done, EAGAIN};
    memory_.fill(page, content_at(filled.done / kPageBytes), by);
  }
  return filled;
}

int Userfaultfd::finish(const Filled& filled, std::int64_t& moved) {
  // After a partial fill the kernel says how far it came, and EAGAIN whatever the reason.
  moved = static_cast<std::int64_t>(filled.done);
  if (filled.error == 0) return 0;
  if (filled.done > 0) return fail_with(EAGAIN);
  moved = machine_.random().chance(500) ? 0 : -filled.error;
  machine_.schedule().note("a fill fails with errno {}", filled.error);
  return fail_with(filled.error);
}

int Userfaultfd::copy(uffdio_copy& request) {
  const ByteSpan from = bytes_at(request.src, request.len);
  const Filled filled = fill({request.dst}, request.len, "a copy", [from](std::uint64_t page) {
    return content_of(from.subspan(page * kPageBytes, kPageBytes));
  });
  if ((request.mode & UFFDIO_COPY_MODE_DONTWAKE) == 0) wake({request.dst}, filled.done);
  if (owner_ == Owner::kHandler) {
    // SAFETY: the handler has mapped it, and reads there what it has filled.
    std::copy_n(from.begin(), filled.done, reinterpret_cast<std::byte*>(request.dst));
  }
  std::int64_t moved = 0;
  const int status = finish(filled, moved);
  request.copy = moved;
  return status;
}

int Userfaultfd::zero(uffdio_zeropage& request) {
  const Filled filled = fill({request.range.start}, request.range.len, "a zero page",
                             [](std::uint64_t) { return kZeroContent; });
  if ((request.mode & UFFDIO_ZEROPAGE_MODE_DONTWAKE) == 0) {
    wake({request.range.start}, filled.done);
  }
  std::int64_t moved = 0;
  const int status = finish(filled, moved);
  request.zeropage = moved;
  return status;
}

void Userfaultfd::wake(HostAddress start, std::uint64_t length) {
  for (auto waiter = waiters_.begin(); waiter != waiters_.end();) {
    if (waiter->address < start || waiter->address.value - start.value >= length) {
      ++waiter;
      continue;
    }
    const std::function<void()> wake_up = std::move(waiter->wake);
    waiter = waiters_.erase(waiter);
    wake_up();
  }
}

int Userfaultfd::show(uffdio_continue& request) {
  const HostAddress start{request.range.start};
  GuestMemory::Page* const page = memory_.find(start);
  const auto content =
      page != nullptr && file_ != nullptr ? file_->content(page->index) : std::nullopt;
  Filled filled{0, EFAULT};
  if (content || page == nullptr || page->content) {
    filled = fill(start, request.range.len, "the file", [&](std::uint64_t) { return *content; });
  }
  wake(start, filled.done);
  std::int64_t moved = 0;
  const int status = finish(filled, moved);
  request.mapped = moved;
  return status;
}

int Userfaultfd::register_range(const uffdio_register& request) {
  for (std::uint64_t at = 0; at < request.range.len; at += kPageBytes) {
    GuestMemory::Page* const page = memory_.find({request.range.start + at});
    if (page == nullptr) return fail_with(EINVAL);
    page->registered = true;
    page->minor = page->minor || (request.mode & UFFDIO_REGISTER_MODE_MINOR) != 0;
  }
  return 0;
}

int Userfaultfd::unregister(const uffdio_range& range) {
  machine_.schedule().note("{} bytes are unregistered", range.len);
  for (std::uint64_t at = 0; at < range.len; at += kPageBytes) {
    GuestMemory::Page* const page = memory_.find({range.start + at});
    if (page != nullptr) page->registered = false;
  }
  wake({range.start}, range.len);
  return 0;
}

void Userfaultfd::fault(HostAddress address, std::function<void()> wake) {
  waiters_.push_back({address, std::move(wake)});
  machine_.notify();
}

void Userfaultfd::interrupt() {
  if (waiters_.empty()) return;
  const auto waiter = std::next(
      waiters_.begin(), static_cast<std::ptrdiff_t>(machine_.random().below(waiters_.size())));
  const std::function<void()> wake_up = std::move(waiter->wake);
  waiters_.erase(waiter);
  wake_up();
}

void Userfaultfd::announce(const uffd_msg& event, std::function<void()> on_read) {
  events_.push_back({event, std::move(on_read)});
  machine_.notify();
}

void Userfaultfd::end_process() {
  waiters_.clear();
  events_.clear();
}

}  // namespace thaw::sim
