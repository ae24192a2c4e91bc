#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <span>

#include <linux/userfaultfd.h>

#include "base/types.h"
#include "tests/sim/guest_memory.h"
#include "tests/sim/machine.h"
#include "tests/sim/memory_file.h"

namespace thaw::sim {

/// A userfaultfd as Linux has it, with the order of what may happen in any order drawn from the
/// seed. While a change to the memory (REMOVE, UNMAP, REMAP) has not been read and acknowledged,
/// copies and zero pages fail with EAGAIN; faults may be read before earlier changes; copies may
/// end early; waiters wake for no reason. With its last descriptor missing pages become zeros.
class Userfaultfd final : public File {
 public:
  /// Whose memory it is.
  enum class Owner { kVmm, kHandler };
  Userfaultfd(Machine& machine, GuestMemory& memory, Owner owner)
      : machine_(machine), memory_(memory), owner_(owner) {}
  Userfaultfd(const Userfaultfd&) = delete;
  Userfaultfd& operator=(const Userfaultfd&) = delete;
  ~Userfaultfd() override;

  // The handler's side, as the system calls have it: a result, or -1 and errno.

  short ready() const override;
  long read(std::span<uffd_msg> messages);
  int control(unsigned long request, void* argument);

  // The VMM's side.

  /// This is behind the memory.
  void set_file(std::shared_ptr<MemoryFile> file) { file_ = std::move(file); }
  /// Somebody waits for a missing page, and `wake` lets him look again.
  void fault(HostAddress address, std::function<void()> wake);
  /// Wakes one who waits, as a signal does.
  void interrupt();
  /// A change of memory begins; until it has been announced and read, nothing is filled.
  void begin_change() { ++changes_; }
  /// Announces it. Once its event was read and the caller is awake again, `on_read` is called.
  void announce(const uffd_msg& event, std::function<void()> on_read);
  /// The process goes, and nobody waits any more.
  void end_process();

  bool has_waiters() const { return !waiters_.empty(); }

 private:
  struct Waiter {
    HostAddress address;
    std::function<void()> wake;
    bool was_read = false;
  };
  struct Event {
    uffd_msg message;
    std::function<void()> on_read;
  };
  struct Filled {
    std::uint64_t done = 0;  // bytes
    int error = 0;           // an errno; 0: all of it
  };
  /// Fills pages from `start` on; `content_at` tells that of the page with this number in the
  /// range.
  Filled fill(HostAddress start, std::uint64_t length, const char* by,
              const std::function<Content(std::uint64_t)>& content_at);
  int check_range(HostAddress start, std::uint64_t length);
  int copy(uffdio_copy& request);
  int zero(uffdio_zeropage& request);
  int finish(const Filled& filled, std::int64_t& moved);
  void wake(HostAddress start, std::uint64_t length);
  int show(uffdio_continue& request);
  int register_range(const uffdio_register& request);
  int unregister(const uffdio_range& range);
  bool take_fault(uffd_msg& message);
  void take_event(uffd_msg& message);

  Machine& machine_;
  GuestMemory& memory_;
  std::shared_ptr<MemoryFile> file_;  // nullptr: nothing
  const Owner owner_;
  std::list<Waiter> waiters_;  // in the order in which they came
  std::deque<Event> events_;   // unread
  unsigned changes_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace thaw::sim
