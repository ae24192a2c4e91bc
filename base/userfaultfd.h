#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <sys/types.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"
#include "base/unique_fd.h"

namespace thaw {

/// userfaultfd(2) with every outcome named. Addresses are those of the process whose memory is
/// registered; lengths are multiples of that memory's page size. Safe from any thread: the kernel
/// serialises.

struct FaultEvent {
  HostAddress address;  // page-aligned unless the kernel was asked for exact addresses
};
struct RemoveEvent {
  HostAddress start;
  ByteCount length;
};
struct UnmapEvent {
  HostAddress start;
  ByteCount length;
};
struct RemapEvent {
  HostAddress from;
  HostAddress to;
  ByteCount length;
};
using MemoryEvent = std::variant<FaultEvent, RemoveEvent, UnmapEvent, RemapEvent>;

/// What became of a copy or a zero page.
enum class FillOutcome {
  kFilled,       // all of it is present now and its waiters were woken
  kExists,       // a page was present already; `done` bytes before it were filled
  kRemoving,     // a REMOVE is unread or not through yet (EAGAIN): read events, then try again
  kRangeGone,    // no registered memory there any more (ENOENT)
  kProcessGone,  // the process has exited (ESRCH)
  kNoMemory,     // there is no memory for it at present: `error_number` says how the kernel put it
  kFailed,       // anything else, which does not pass: `error_number` says what
};
struct FillResult {
  FillOutcome outcome;
  ByteCount done;        // bytes filled from the start of the range
  int error_number = 0;  // for kNoMemory and kFailed
};
/// Whether it is worth another attempt later.
inline bool is_hindered(const FillResult& result) {
  return result.outcome == FillOutcome::kRemoving || result.outcome == FillOutcome::kNoMemory;
}
/// "ENOMEM 12".
std::string errno_name(int error_number);
/// "Cannot allocate memory (ENOMEM 12)".
std::string errno_text(int error_number);

/// Whether the kernel notes which pages are written after they were filled, at the cost of a fault
/// of its own for each page's first write: asynchronous write-protection, of Linux 6.7 and later.
/// What it has noted is told by written_pages() in base/pagemap.h.
enum class WriteTracking { kOff, kOn };

/// Creates a userfaultfd with REMOVE events: /dev/userfaultfd where it may be opened, else the
/// system call. Non-blocking, close-on-exec, UFFDIO_API done. kUnsupported: this kernel tracks no
/// writes.
Result<UniqueFd> create_userfaultfd(WriteTracking tracking = WriteTracking::kOff);
/// The same for memory that this process fills and no system call of it touches before: one that
/// does fails with EFAULT. This takes no right (Linux 5.11).
Result<UniqueFd> create_filling_userfaultfd();

/// Registers [start, start + length) for MISSING faults, and for tracking on a userfaultfd that was
/// created for it. Tracked pages must be filled as such.
Result<void> register_missing(const UniqueFd& uffd, HostAddress start, ByteCount length,
                              WriteTracking tracking = WriteTracking::kOff);
/// The same, and for MINOR faults: those on pages that are in the file behind the memory and have
/// not been seen in this mapping. What was registered for MISSING faults may be.
Result<void> register_missing_and_minor(const UniqueFd& uffd, HostAddress start, ByteCount length);

/// Ends the registration of [start, start + length) and wakes who waits there: missing pages are
/// zero from now on, and nobody is told. A range that is not registered or mapped any more is fine.
Result<void> unregister(const UniqueFd& uffd, HostAddress start, ByteCount length);

/// Refuses descriptors that are no userfaultfd, and userfaultfds on which UFFDIO_API was not done:
/// kNotUserfaultfd. Needs no descriptor of its own.
Result<void> check_userfaultfd(const UniqueFd& uffd);

/// Whether a userfaultfd tells of pages that its process gives back.
enum class RemoveEvents { kReported, kNone };
/// Reads /proc/self/fdinfo, whose "API:" line is written by userfaultfd_show_fdinfo() in
/// fs/userfaultfd.c. kUnsupported when it tells of forks, too: with such an event comes the child's
/// userfaultfd, on which its missing pages depend, and which the process that reads it has alone.
/// REQUIRES: check_userfaultfd() took the descriptor.
Result<RemoveEvents> remove_events_of(const UniqueFd& uffd);

/// poll(2) on a userfaultfd that blocks tells an error instead of events.
Result<void> make_nonblocking(const UniqueFd& uffd);

/// Room for one event as the kernel writes it; all zeros: none.
struct RawEvent {
  std::array<std::uint64_t, 4> words{};
};
/// Never waits, even where the descriptor blocks (before Linux 6.10: 20 ms at most, then kProtocol:
/// its other owner has made it block; the thread gets SIGALRM). Reads what is queued, as much as
/// there is room for, and returns how many events that were: 0 when the queue is empty.
Result<std::size_t> read_raw_events(const UniqueFd& uffd, std::span<RawEvent> to);
/// Appends the events; those behind the first one that there is not are none either.
Result<void> decode_events(std::span<const RawEvent> events, std::vector<MemoryEvent>& to);
/// Both at once, up to limits::kUserfaultfdEventsPerRead events.
Result<std::size_t> read_events(const UniqueFd& uffd, std::vector<MemoryEvent>& to);

/// What a fill does with those who wait for its pages. Left asleep, they must be woken later.
enum class Waiters { kWake, kLeave };

/// Fills missing pages with a copy of `from`. Tracked, they count as unwritten; kFailed where the
/// memory is not registered for that.
FillResult copy_pages(const UniqueFd& uffd, HostAddress to, ByteSpan from,
                      Waiters waiters = Waiters::kWake,
                      WriteTracking tracking = WriteTracking::kOff);
/// Fills missing pages with zeros, tracked or not: the kernel knows its page of zeros. Not for
/// hugetlbfs memory.
FillResult zero_pages(const UniqueFd& uffd, HostAddress to, ByteCount length,
                      Waiters waiters = Waiters::kWake);
/// Lets pages be seen that are in the file behind the memory (UFFDIO_CONTINUE), and wakes their
/// waiters. kFailed: there is no such page in the file, or the memory has none.
FillResult show_pages(const UniqueFd& uffd, HostAddress start, ByteCount length);
/// Whether poison_pages() can do what it says: Linux 6.6 and later.
bool can_poison();
/// Makes missing pages ones that cannot be touched: whoever does gets SIGBUS, as if the memory were
/// broken. Wakes their waiters, and raises no more events for them.
FillResult poison_pages(const UniqueFd& uffd, HostAddress start, ByteCount length);
/// Whether a process still has the memory that this userfaultfd is of. `elsewhere` is an address
/// where the userfaultfd has never had memory registered: nothing happens to it.
bool has_process(const UniqueFd& uffd, HostAddress elsewhere);
/// Wakes waiters; those whose page is still missing raise their fault again.
void wake_pages(const UniqueFd& uffd, HostAddress start, ByteCount length);

}  // namespace thaw
