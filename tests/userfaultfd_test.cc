#include "base/userfaultfd.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <optional>
#include <thread>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mapping.h"
#include "base/pagemap.h"
#include "base/socket.h"
#include "tests/support/test_support.h"

namespace {

/// What the kernel is taken for: one before Linux 6.10, and a VMM that makes its userfaultfd block
/// whenever it is to be read.
thread_local bool is_old_kernel = false;
thread_local bool is_made_to_block = false;

}  // namespace

// The linker has what base/ calls by these names come here.
extern "C" {
ssize_t __real_preadv2(int fd, const iovec* to, int count, off_t offset, int flags);
ssize_t __wrap_preadv2(int fd, const iovec* to, int count, off_t offset, int flags) {
  if (!is_old_kernel) return __real_preadv2(fd, to, count, offset, flags);
  errno = EOPNOTSUPP;
  return -1;
}
ssize_t __real_read(int fd, void* to, size_t size);
ssize_t __wrap_read(int fd, void* to, size_t size) {
  if (is_made_to_block) ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  return __real_read(fd, to, size);
}
}

namespace thaw {
namespace {

using test::code_of;
using test::succeeded;

/// Each test has eight pages that are registered and missing, or is skipped where the kernel
/// gives this user no userfaultfd.
class Userfaultfd : public testing::Test {
 protected:
  static constexpr PageCount kPages{8};

  void SetUp() override {
    auto created = create_userfaultfd();
    if (!created) GTEST_SKIP() << created.error().message();
    uffd_ = std::move(*created);
    memory_ = Mapping::anonymous(bytes_of(kPages)).value();
    ASSERT_TRUE(succeeded(register_missing(uffd_, memory_.address(), memory_.size())));
  }

  HostAddress page(std::uint64_t index) const {
    return memory_.address() + bytes_of(PageCount{index});
  }
  /// Reads the first byte of a page as a guest would.
  std::byte touch(std::uint64_t index) const {
    return std::atomic_ref(memory_.bytes()[index * kPageBytes]).load();
  }
  /// Waits for events and reads them.
  std::vector<MemoryEvent> next_events() const {
    wait_for_event();
    std::vector<MemoryEvent> events;
    EXPECT_TRUE(succeeded(read_events(uffd_, events)));
    return events;
  }
  void wait_for_event() const {
    pollfd request{.fd = uffd_.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&request, 1, 10'000), 1) << "no event within 10 s";
  }

  /// The same eight pages anew, on a userfaultfd that tracks writes.
  void track_writes() {
    uffd_ = create_userfaultfd(WriteTracking::kOn).value();
    memory_ = Mapping::anonymous(bytes_of(kPages)).value();
    ASSERT_TRUE(
        succeeded(register_missing(uffd_, memory_.address(), memory_.size(), WriteTracking::kOn)));
  }
  FillOutcome copy_tracked(std::uint64_t index, ByteSpan content) const {
    return copy_pages(uffd_, page(index), content, Waiters::kWake, WriteTracking::kOn).outcome;
  }

  UniqueFd uffd_;
  Mapping memory_;
  const Bytes full_page_ = Bytes(kPageBytes, std::byte{0x5a});
};

HostAddress fault_address(const std::vector<MemoryEvent>& events) {
  EXPECT_EQ(events.size(), 1u);
  const auto* const fault = events.empty() ? nullptr : std::get_if<FaultEvent>(&events.front());
  EXPECT_NE(fault, nullptr);
  return fault != nullptr ? fault->address : HostAddress{};
}

TEST_F(Userfaultfd, IsReadWithoutWaitingByAnOldKernelToo) {
  is_old_kernel = true;
  std::vector<MemoryEvent> events;
  EXPECT_EQ(read_events(uffd_, events).value(), 0u);
  std::byte value{1};
  {
    const std::jthread guest([&] { value = touch(1); });
    events = next_events();
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(zero_pages(uffd_, page(1), {kPageBytes}).outcome, FillOutcome::kFilled);
  }
  is_made_to_block = true;
  EXPECT_EQ(code_of(read_events(uffd_, events)), ErrorCode::kProtocol);
  is_old_kernel = is_made_to_block = false;
  EXPECT_EQ(value, std::byte{0});
}

TEST_F(Userfaultfd, CopyResolvesAFault) {
  std::byte seen{};
  std::jthread guest([&] { seen = touch(3); });
  EXPECT_EQ(fault_address(next_events()), page(3));
  const FillResult filled = copy_pages(uffd_, page(3), full_page_);
  guest.join();
  EXPECT_EQ(filled.outcome, FillOutcome::kFilled);
  EXPECT_EQ(filled.done, ByteCount{kPageBytes});
  EXPECT_EQ(seen, std::byte{0x5a});
}

TEST_F(Userfaultfd, ZeroResolvesAFault) {
  std::byte seen{1};
  std::jthread guest([&] { seen = touch(0); });
  EXPECT_EQ(fault_address(next_events()), page(0));
  const FillResult filled = zero_pages(uffd_, page(0), bytes_of(kPages));
  guest.join();
  EXPECT_EQ(filled.outcome, FillOutcome::kFilled);
  EXPECT_EQ(filled.done, bytes_of(kPages));
  EXPECT_EQ(seen, std::byte{0});
}

TEST_F(Userfaultfd, WakeRaisesAnUnresolvedFaultAgain) {
  std::jthread guest([&] { touch(1); });
  EXPECT_EQ(fault_address(next_events()), page(1));
  wake_pages(uffd_, page(0), bytes_of(kPages));
  EXPECT_EQ(fault_address(next_events()), page(1));
  EXPECT_EQ(zero_pages(uffd_, page(1), {kPageBytes}).outcome, FillOutcome::kFilled);
}

TEST_F(Userfaultfd, PresentPageIsNeverOverwritten) {
  ASSERT_EQ(copy_pages(uffd_, page(2), full_page_).outcome, FillOutcome::kFilled);
  const FillResult copied = copy_pages(uffd_, page(2), Bytes(kPageBytes, std::byte{1}));
  const FillResult zeroed = zero_pages(uffd_, page(2), {kPageBytes});
  EXPECT_EQ(copied.outcome, FillOutcome::kExists);
  EXPECT_EQ(copied.done, ByteCount{0});
  EXPECT_EQ(zeroed.outcome, FillOutcome::kExists);
  EXPECT_EQ(touch(2), std::byte{0x5a});
}

TEST_F(Userfaultfd, PartialFillStopsAtAPresentPageAndSaysWhere) {
  ASSERT_EQ(copy_pages(uffd_, page(2), full_page_).outcome, FillOutcome::kFilled);
  const FillResult copied = copy_pages(uffd_, page(0), Bytes(4 * kPageBytes, std::byte{1}));
  EXPECT_EQ(copied.outcome, FillOutcome::kExists);
  EXPECT_EQ(copied.done, bytes_of(PageCount{2}));
  EXPECT_EQ(touch(1), std::byte{1});
  EXPECT_EQ(touch(2), std::byte{0x5a});

  ASSERT_EQ(copy_pages(uffd_, page(6), full_page_).outcome, FillOutcome::kFilled);
  const FillResult zeroed = zero_pages(uffd_, page(3), bytes_of(PageCount{5}));
  EXPECT_EQ(zeroed.outcome, FillOutcome::kExists);
  EXPECT_EQ(zeroed.done, bytes_of(PageCount{3}));
}

TEST_F(Userfaultfd, PendingRemoveHoldsFillsBackUntilItIsRead) {
  ASSERT_EQ(copy_pages(uffd_, page(4), full_page_).outcome, FillOutcome::kFilled);
  std::jthread guest([&] {
    EXPECT_EQ(::madvise(memory_.bytes().data() + 4 * kPageBytes, kPageBytes, MADV_DONTNEED), 0);
  });
  wait_for_event();
  EXPECT_EQ(copy_pages(uffd_, page(0), full_page_).outcome, FillOutcome::kRemoving);
  EXPECT_EQ(zero_pages(uffd_, page(0), {kPageBytes}).outcome, FillOutcome::kRemoving);

  const auto events = next_events();
  ASSERT_EQ(events.size(), 1u);
  const auto* const removed = std::get_if<RemoveEvent>(&events.front());
  ASSERT_NE(removed, nullptr);
  EXPECT_EQ(removed->start, page(4));
  EXPECT_EQ(removed->length, ByteCount{kPageBytes});
  guest.join();
  EXPECT_EQ(copy_pages(uffd_, page(0), full_page_).outcome, FillOutcome::kFilled);
  EXPECT_EQ(zero_pages(uffd_, page(4), {kPageBytes}).outcome, FillOutcome::kFilled)
      << "the removed page is missing again";
}

TEST_F(Userfaultfd, UnmappedRangeIsGone) {
  const HostAddress at = memory_.address();
  {
    const Mapping unmapped = std::move(memory_);
  }
  EXPECT_EQ(copy_pages(uffd_, at, full_page_).outcome, FillOutcome::kRangeGone);
  EXPECT_EQ(zero_pages(uffd_, at, {kPageBytes}).outcome, FillOutcome::kRangeGone);
  wake_pages(uffd_, at, {kPageBytes});
}

TEST_F(Userfaultfd, UnalignedRequestFailsWithItsErrno) {
  const FillResult result = copy_pages(uffd_, page(0) + ByteCount{1}, full_page_);
  EXPECT_EQ(result.outcome, FillOutcome::kFailed);
  EXPECT_EQ(result.error_number, EINVAL);
  EXPECT_EQ(code_of(register_missing(uffd_, page(0) + ByteCount{1}, {kPageBytes})),
            ErrorCode::kInvalidArgument);
}

TEST_F(Userfaultfd, EmptyQueueReadsNoEvents) {
  std::vector<MemoryEvent> events;
  EXPECT_EQ(read_events(uffd_, events).value(), 0u);
  EXPECT_TRUE(events.empty());
}

TEST_F(Userfaultfd, ExitedProcessIsGone) {
  int sockets[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
  const UniqueFd ours(sockets[0]);
  UniqueFd theirs(sockets[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto uffd = create_userfaultfd();
    const auto memory = Mapping::anonymous({kPageBytes});
    if (!uffd || !memory) ::_exit(1);
    const std::uint64_t address = memory->address().value;
    const int sent[] = {uffd->get()};
    const bool done = register_missing(*uffd, memory->address(), memory->size()).has_value() &&
                      send_with_descriptors(theirs, std::as_bytes(std::span(&address, 1)), sent,
                                            Deadline::after(std::chrono::seconds(10)))
                          .has_value();
    ::_exit(done ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  std::uint64_t address = 0;
  auto received = receive_with_descriptors(ours, std::as_writable_bytes(std::span(&address, 1)));
  ASSERT_TRUE(succeeded(received));
  ASSERT_EQ(received->value().descriptors.size(), 1u);

  const UniqueFd& uffd = received->value().descriptors.front();
  EXPECT_TRUE(succeeded(check_userfaultfd(uffd)));
  EXPECT_EQ(copy_pages(uffd, {address}, full_page_).outcome, FillOutcome::kProcessGone);
  EXPECT_EQ(zero_pages(uffd, {address}, {kPageBytes}).outcome, FillOutcome::kProcessGone);
  wake_pages(uffd, {address}, {kPageBytes});
}

TEST_F(Userfaultfd, ChecksTellWhichEventsAreReported) {
  EXPECT_TRUE(succeeded(check_userfaultfd(uffd_)));
  EXPECT_EQ(remove_events_of(uffd_).value(), RemoveEvents::kReported);
  const UniqueFd plain(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  const UniqueFd forking(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  ASSERT_TRUE(plain.valid() && forking.valid());
  EXPECT_EQ(code_of(check_userfaultfd(plain)), ErrorCode::kNotUserfaultfd) << "before UFFDIO_API";
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  // SAFETY: api is live for the call.
  ASSERT_EQ(::ioctl(plain.get(), UFFDIO_API, &api), 0);
  EXPECT_TRUE(succeeded(check_userfaultfd(plain)));
  EXPECT_EQ(remove_events_of(plain).value(), RemoveEvents::kNone);
  api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK, .ioctls = 0};
  // SAFETY: as above.
  ASSERT_EQ(::ioctl(forking.get(), UFFDIO_API, &api), 0);
  EXPECT_EQ(code_of(remove_events_of(forking)), ErrorCode::kUnsupported);
}

TEST(CheckUserfaultfd, RefusesOtherDescriptors) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  EXPECT_EQ(code_of(check_userfaultfd(read_end)), ErrorCode::kNotUserfaultfd);
  EXPECT_EQ(code_of(check_userfaultfd(write_end)), ErrorCode::kNotUserfaultfd);
  EXPECT_EQ(code_of(check_userfaultfd(UniqueFd())), ErrorCode::kNotUserfaultfd);
}

TEST_F(Userfaultfd, WritesAreFoundWhereTheyAreTracked) {
  track_writes();
  ASSERT_EQ(copy_tracked(0, Bytes(4 * kPageBytes, std::byte{7})), FillOutcome::kFilled);
  ASSERT_EQ(zero_pages(uffd_, page(4), bytes_of(PageCount{2})).outcome, FillOutcome::kFilled);
  EXPECT_EQ(touch(0), std::byte{7});
  EXPECT_EQ(touch(4), std::byte{0});
  EXPECT_EQ(written_pages(page(0), bytes_of(kPages)).value(), std::vector<bool>(kPages.value));

  memory_.bytes()[2 * kPageBytes] = std::byte{1};
  memory_.bytes()[5 * kPageBytes] = std::byte{1};

  const auto written = written_pages(page(0), bytes_of(kPages)).value();
  EXPECT_EQ(written, (std::vector<bool>{false, false, true, false, false, true, false, false}));
  EXPECT_EQ(written_pages(page(5), {kPageBytes}).value(), std::vector<bool>{true});
}

TEST_F(Userfaultfd, ManyWritesAreFoundAllOfThem) {
  constexpr PageCount kMany{5000};  // more ranges than the kernel is asked for at a time
  const UniqueFd uffd = create_userfaultfd(WriteTracking::kOn).value();
  const Mapping memory = Mapping::anonymous(bytes_of(kMany)).value();
  ASSERT_TRUE(
      succeeded(register_missing(uffd, memory.address(), memory.size(), WriteTracking::kOn)));
  const Bytes content(memory.size().value, std::byte{1});
  ASSERT_EQ(copy_pages(uffd, memory.address(), content, Waiters::kWake, WriteTracking::kOn).outcome,
            FillOutcome::kFilled);
  std::vector<bool> expected(kMany.value);
  for (std::size_t page = 1; page < kMany.value; page += 3) {
    memory.bytes()[page * kPageBytes] = std::byte{2};
    expected[page] = true;
  }
  EXPECT_EQ(written_pages(memory.address(), memory.size()).value(), expected);
}

TEST_F(Userfaultfd, PageThatWasFilledUntrackedCountsAsWritten) {
  track_writes();
  ASSERT_EQ(copy_pages(uffd_, page(1), full_page_).outcome, FillOutcome::kFilled);
  EXPECT_TRUE(written_pages(page(0), bytes_of(kPages)).value()[1]);
}

TEST_F(Userfaultfd, UntrackedMemoryIsRefusedByName) {
  EXPECT_EQ(code_of(written_pages(page(0), bytes_of(kPages))), ErrorCode::kPermission);
  const FillResult copied =
      copy_pages(uffd_, page(0), full_page_, Waiters::kWake, WriteTracking::kOn);
  EXPECT_EQ(copied.outcome, FillOutcome::kFailed);
  EXPECT_EQ(copied.error_number, EINVAL);
}

}  // namespace
}  // namespace thaw
