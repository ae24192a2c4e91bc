#include "base/userfaultfd.h"

#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <optional>
#include <string_view>

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/userfaultfd_abi.h"

namespace thaw {

namespace {

constexpr std::uint64_t kFeatures = UFFD_FEATURE_EVENT_REMOVE;
constexpr std::uint64_t kTrackingFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP |
                                            UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
                                            UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;

Result<UniqueFd> open_userfaultfd() {
  const UniqueFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (device.valid()) {
    // SAFETY: takes flags by value and returns a new descriptor.
    UniqueFd fd(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
    if (fd.valid()) return fd;
  }
  UniqueFd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd.valid()) {
    return fail_errno(
        "userfaultfd (needs root, access to /dev/userfaultfd, or "
        "vm.unprivileged_userfaultfd=1)");
  }
  return fd;
}

FillResult fill_result(int status, std::int64_t moved, ByteCount wanted) {
  const ByteCount done{moved > 0 ? static_cast<std::uint64_t>(moved) : 0};
  if (status == 0) return {FillOutcome::kFilled, wanted};
  switch (errno) {
    // After a partial copy the kernel says EAGAIN and how far it came; the next attempt at the
    // rest tells what stopped it.
    case EAGAIN:
    case EINTR:
      return {FillOutcome::kRemoving, done};
    case EEXIST:
      return {FillOutcome::kExists, done};
    case ENOENT:
      return {FillOutcome::kRangeGone, done};
    case ESRCH:
      return {FillOutcome::kProcessGone, done};
    // The limit of a cgroup or of the tmpfs behind the memory, or of the host: it may pass.
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case ENOBUFS:
      return {FillOutcome::kNoMemory, done, errno};
    default:
      return {FillOutcome::kFailed, done, errno};
  }
}

/// Repeats `attempt(done)` on the rest of the range while partial fills make progress.
template <typename Attempt>
FillResult fill_all(ByteCount length, Attempt attempt) {
  ByteCount done{0};
  while (true) {
    FillResult result = attempt(done);
    done += result.done;
    const bool partial = result.outcome == FillOutcome::kRemoving && result.done.value > 0;
    if (partial && done < length) continue;
    result.done = done;
    return result;
  }
}

Result<void> register_memory(const UniqueFd& uffd, HostAddress start, ByteCount length,
                             std::uint64_t mode) {
  uffdio_register request{
      .range = {.start = start.value, .len = length.value}, .mode = mode, .ioctls = 0};
  // SAFETY: request is live for the call; registering changes no memory content.
  if (::ioctl(uffd.get(), UFFDIO_REGISTER, &request) != 0) {
    return fail_errno(fmt::format("UFFDIO_REGISTER of {} bytes", length.value));
  }
  return {};
}

/// A timer that interrupts the system call which its thread is in: by a signal, whose handler does
/// nothing.
class ThreadTimer {
 public:
  ThreadTimer() = default;
  ThreadTimer(const ThreadTimer&) = delete;
  ThreadTimer& operator=(const ThreadTimer&) = delete;
  ~ThreadTimer() {
    if (timer_) ::timer_delete(*timer_);
  }

  /// Of the thread that calls; sets errno where that cannot be.
  bool make() {
    if (timer_) return true;
    struct sigaction nothing{};
    nothing.sa_handler = [](int) {};
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, kSignal);
    CHECK(::sigaction(kSignal, &nothing, nullptr) == 0);  // without SA_RESTART
    CHECK(::pthread_sigmask(SIG_UNBLOCK, &signals, nullptr) == 0);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = kSignal;
    event._sigev_un._tid = ::gettid();
    timer_t timer{};
    if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) return false;
    timer_ = timer;
    return true;
  }
  /// Again and again, for the first may come before the call; 0: never.
  void interrupt_each(Nanoseconds time) const {
    const timespec each{.tv_sec = 0, .tv_nsec = time.count()};
    const itimerspec times{.it_interval = each, .it_value = each};
    CHECK(::timer_settime(*timer_, 0, &times, nullptr) == 0);
  }

 private:
  static constexpr int kSignal = SIGALRM;
  std::optional<timer_t> timer_;
};

/// A VMM that makes its userfaultfd block between the flag and the read is found out by then.
constexpr Nanoseconds kReadPatience = std::chrono::milliseconds(20);

/// Reads without waiting, whatever the descriptor's flags are: the VMM shares them and may change
/// them at any time.
ssize_t read_at_once(const UniqueFd& uffd, std::span<RawEvent> messages) {
  const iovec to{messages.data(), messages.size_bytes()};
  const ssize_t n = ::preadv2(uffd.get(), &to, 1, -1, RWF_NOWAIT);
  if (n >= 0 || (errno != EOPNOTSUPP && errno != EINVAL)) return n;
  // Before Linux 6.10 a userfaultfd has no such read.
  if (!make_nonblocking(uffd)) return -1;
  thread_local ThreadTimer timer;
  if (!timer.make()) return -1;
  timer.interrupt_each(kReadPatience);
  const ssize_t read = ::read(uffd.get(), messages.data(), messages.size_bytes());
  const int error_number = errno;
  timer.interrupt_each(Nanoseconds(0));
  errno = error_number;
  return read;
}

Result<void> begin_api(const UniqueFd& uffd, std::uint64_t features) {
  uffdio_api api{.api = UFFD_API, .features = features, .ioctls = 0};
  // SAFETY: api is a live uffdio_api for the duration of the call.
  if (::ioctl(uffd.get(), UFFDIO_API, &api) == 0) return {};
  return fail_errno("UFFDIO_API with EVENT_REMOVE");
}

/// Of faults in user mode alone, which takes no right.
Result<UniqueFd> open_of_user_mode() {
  // SAFETY: takes flags by value and returns a new descriptor.
  UniqueFd fd(
      static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  if (fd.valid()) return fd;
  return fail_errno("userfaultfd of user mode alone (Linux 5.11)");
}

bool is_blocking(const UniqueFd& uffd) { return (::fcntl(uffd.get(), F_GETFL) & O_NONBLOCK) == 0; }

}  // namespace

Result<UniqueFd> create_userfaultfd(WriteTracking tracking) {
  UniqueFd fd = TRY(open_userfaultfd());
  const bool tracks = tracking == WriteTracking::kOn;
  const auto begun = begin_api(fd, kFeatures | (tracks ? kTrackingFeatures : 0));
  if (begun) return fd;
  if (!tracks) return std::unexpected(begun.error());
  return fail(ErrorCode::kUnsupported,
              "this kernel does not track writes (Linux 6.7 and later do)");
}

Result<UniqueFd> create_filling_userfaultfd() {
  UniqueFd fd = TRY(open_of_user_mode());
  TRY(begin_api(fd, kFeatures));
  return fd;
}

Result<void> register_missing(const UniqueFd& uffd, HostAddress start, ByteCount length,
                              WriteTracking tracking) {
  const std::uint64_t tracked = tracking == WriteTracking::kOn ? UFFDIO_REGISTER_MODE_WP : 0;
  return register_memory(uffd, start, length, UFFDIO_REGISTER_MODE_MISSING | tracked);
}

Result<void> register_missing_and_minor(const UniqueFd& uffd, HostAddress start, ByteCount length) {
  return register_memory(uffd, start, length,
                         UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
}

Result<void> unregister(const UniqueFd& uffd, HostAddress start, ByteCount length) {
  uffdio_range range{.start = start.value, .len = length.value};
  // SAFETY: the kernel checks the range.
  if (::ioctl(uffd.get(), UFFDIO_UNREGISTER, &range) == 0) return {};
  if (errno == EINVAL || errno == ENOMEM || errno == ESRCH) return {};
  return fail_errno("UFFDIO_UNREGISTER");
}

Result<void> check_userfaultfd(const UniqueFd& uffd) {
  std::error_code ignored;
  const auto target =
      std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", uffd.get()), ignored);
  if (target != "anon_inode:[userfaultfd]") {
    return fail(ErrorCode::kNotUserfaultfd, "the descriptor is {}", target.string());
  }
  // Before UFFDIO_API every other ioctl is EINVAL. After it, waking a valid range never fails.
  uffdio_range range{.start = 1u << 20, .len = kPageBytes};
  // SAFETY: waking changes no memory. A thread that waits there raises its fault again.
  if (::ioctl(uffd.get(), UFFDIO_WAKE, &range) != 0 && errno == EINVAL) {
    return fail(ErrorCode::kNotUserfaultfd, "UFFDIO_API was not done on the userfaultfd");
  }
  return {};
}

Result<RemoveEvents> remove_events_of(const UniqueFd& uffd) {
  const std::string info =
      TRY(read_text_file(fmt::format("/proc/self/fdinfo/{}", uffd.get()), 4096));
  // "API:\t<api>:<features enabled>:<features known>", all hexadecimal. UFFDIO_API itself cannot
  // be asked a second time.
  std::uint64_t features = 0;
  const std::size_t line = info.find("API:\t");
  const std::size_t colon = line == std::string::npos ? line : info.find(':', line + 5);
  if (colon != std::string::npos) {
    std::from_chars(info.data() + colon + 1, info.data() + info.size(), features, 16);
  }
  if ((features & UFFD_FEATURE_EVENT_FORK) != 0) {
    return fail(ErrorCode::kUnsupported,
                "the userfaultfd tells of forks, and no handler can serve two guests");
  }
  const bool reported = (features & UFFD_FEATURE_EVENT_REMOVE) != 0;
  return reported ? RemoveEvents::kReported : RemoveEvents::kNone;
}

Result<void> make_nonblocking(const UniqueFd& uffd) {
  const int flags = ::fcntl(uffd.get(), F_GETFL);
  if (flags < 0) return fail_errno("F_GETFL");
  if ((flags & O_NONBLOCK) == 0 && ::fcntl(uffd.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return fail_errno("F_SETFL");
  }
  return {};
}

Result<std::size_t> read_raw_events(const UniqueFd& uffd, std::span<RawEvent> to) {
  static_assert(sizeof(RawEvent) == sizeof(uffd_msg));
  const ssize_t n = read_at_once(uffd, to);
  if (n < 0 && errno == EINTR && is_blocking(uffd)) {
    return fail(ErrorCode::kProtocol, "the VMM has made its userfaultfd block");
  }
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return std::size_t{0};
  if (n < 0) return fail_errno("read userfaultfd");
  return static_cast<std::size_t>(n) / sizeof(uffd_msg);
}

Result<void> decode_events(std::span<const RawEvent> events, std::vector<MemoryEvent>& to) {
  for (const RawEvent& raw : events) {
    const auto message = std::bit_cast<uffd_msg>(raw);
    switch (message.event) {
      case 0:
        return {};
      case UFFD_EVENT_PAGEFAULT:
        to.push_back(FaultEvent{{message.arg.pagefault.address}});
        break;
      case UFFD_EVENT_REMOVE:
        to.push_back(RemoveEvent{{message.arg.remove.start},
                                 {message.arg.remove.end - message.arg.remove.start}});
        break;
      case UFFD_EVENT_UNMAP:
        to.push_back(UnmapEvent{{message.arg.remove.start},
                                {message.arg.remove.end - message.arg.remove.start}});
        break;
      case UFFD_EVENT_REMAP:
        to.push_back(
            RemapEvent{{message.arg.remap.from}, {message.arg.remap.to}, {message.arg.remap.len}});
        break;
      default:
        return fail(ErrorCode::kUnsupported, "userfaultfd event {:#x}", message.event);
    }
  }
  return {};
}

Result<std::size_t> read_events(const UniqueFd& uffd, std::vector<MemoryEvent>& to) {
  std::array<RawEvent, limits::kUserfaultfdEventsPerRead> events;
  const std::size_t count = TRY(read_raw_events(uffd, events));
  TRY(decode_events(std::span(events).first(count), to));
  return count;
}

FillResult copy_pages(const UniqueFd& uffd, HostAddress to, ByteSpan from, Waiters waiters,
                      WriteTracking tracking) {
  const std::uint64_t mode = (waiters == Waiters::kLeave ? UFFDIO_COPY_MODE_DONTWAKE : 0) |
                             (tracking == WriteTracking::kOn ? UFFDIO_COPY_MODE_WP : 0);
  return fill_all({from.size()}, [&](ByteCount done) {
    const ByteSpan rest = from.subspan(done.value);
    // SAFETY: the source is readable for its whole length; the kernel checks the destination and
    // never overwrites a present page.
    uffdio_copy request{.dst = (to + done).value,
                        .src = reinterpret_cast<std::uint64_t>(rest.data()),
                        .len = rest.size(),
                        .mode = mode,
                        .copy = 0};
    const int status = ::ioctl(uffd.get(), UFFDIO_COPY, &request);
    return fill_result(status, request.copy, {rest.size()});
  });
}

FillResult zero_pages(const UniqueFd& uffd, HostAddress to, ByteCount length, Waiters waiters) {
  return fill_all(length, [&](ByteCount done) {
    const ByteCount rest = length - done;
    // SAFETY: the kernel checks the range and never overwrites a present page.
    uffdio_zeropage request{.range = {.start = (to + done).value, .len = rest.value},
                            .mode = waiters == Waiters::kLeave ? UFFDIO_ZEROPAGE_MODE_DONTWAKE : 0,
                            .zeropage = 0};
    const int status = ::ioctl(uffd.get(), UFFDIO_ZEROPAGE, &request);
    return fill_result(status, request.zeropage, rest);
  });
}

FillResult show_pages(const UniqueFd& uffd, HostAddress start, ByteCount length) {
  return fill_all(length, [&](ByteCount done) {
    const ByteCount rest = length - done;
    // SAFETY: the kernel checks the range and maps what is in the file.
    uffdio_continue request{
        .range = {.start = (start + done).value, .len = rest.value}, .mode = 0, .mapped = 0};
    const int status = ::ioctl(uffd.get(), UFFDIO_CONTINUE, &request);
    return fill_result(status, request.mapped, rest);
  });
}

bool can_poison() {
  const auto fd = open_of_user_mode();
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  // SAFETY: api is a live uffdio_api for the duration of the call.
  return fd && ::ioctl(fd->get(), UFFDIO_API, &api) == 0 &&
         (api.features & UFFD_FEATURE_POISON) != 0;
}

FillResult poison_pages(const UniqueFd& uffd, HostAddress start, ByteCount length) {
  return fill_all(length, [&](ByteCount done) {
    const ByteCount rest = length - done;
    // SAFETY: the kernel checks the range and never overwrites a present page.
    uffdio_poison request{
        .range = {.start = (start + done).value, .len = rest.value}, .mode = 0, .updated = 0};
    const int status = ::ioctl(uffd.get(), UFFDIO_POISON, &request);
    return fill_result(status, request.updated, rest);
  });
}

bool has_process(const UniqueFd& uffd, HostAddress elsewhere) {
  const std::array<std::byte, kPageBytes> page{};
  return copy_pages(uffd, elsewhere, page, Waiters::kLeave).outcome != FillOutcome::kProcessGone;
}

std::string errno_name(int error_number) {
  const char* const name = ::strerrorname_np(error_number);
  return fmt::format("{} {}", name != nullptr ? name : "errno", error_number);
}

std::string errno_text(int error_number) {
  return fmt::format("{} ({})", std::strerror(error_number), errno_name(error_number));
}

void wake_pages(const UniqueFd& uffd, HostAddress start, ByteCount length) {
  uffdio_range range{.start = start.value, .len = length.value};
  // SAFETY: waking changes no memory. It fails only for a range outside any address space.
  CHECK(::ioctl(uffd.get(), UFFDIO_WAKE, &range) == 0 || errno == EINVAL || errno == ESRCH);
}

}  // namespace thaw
