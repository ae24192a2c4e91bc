// What userfaultfd does at its edges, one test for each, against the real kernel.

#include "tests/support/semantics.h"

#include <csignal>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace thaw::test {
namespace {

using namespace std::chrono_literals;

INSTANTIATE_TEST_SUITE_P(Loops, SemanticsTest, both_loops(), loop_name);

TEST_P(SemanticsTest, CopyThatMeetsAnUnreadRemoveIsDelayedAndGoesThrough) {
  ServedGuest& guest = start(16);
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(3)); });
  const auto request = server_.next_request();
  std::optional<GuestThread> balloon;
  {
    const LoopThread::Hold hold(loop_);
    server_.reply(request);  // is there first, so that its copy comes before the REMOVE is read
    balloon.emplace([&] { guest.give_back(5, 1); });
    balloon->wait_until_blocked();
  }
  vcpu.join();
  balloon->join();
  EXPECT_GE(guest.report().delayed_fills, 1u);
  EXPECT_TRUE(guest.has_zeros(5));
}

TEST_P(SemanticsTest, ZerosThatARemoveHoldsUpAllComeAlthoughNobodyAsksAgain) {
  constexpr std::size_t kWanted = 3 * limits::kMaxDelayedFills;
  PageMap map;
  map.append_zero({kWanted + 1});
  ServedGuest& guest = start({.map = std::move(map)});
  std::vector<PageIndex> pages;
  for (std::size_t i = 1; i <= kWanted; ++i) pages.push_back({i});
  std::optional<GuestThread> balloon;
  loop_.run([&] {
    balloon.emplace([&] { guest.give_back(0, 1); });
    balloon->wait_until_blocked();
    guest.served().demand(pages);  // as for a host image, in which no vCPU faults
  });
  balloon->join();
  EXPECT_GE(guest.report().delayed_fills, kWanted);
  const Deadline deadline = Deadline::after(kPatience);
  for (std::size_t i = 1; i <= kWanted;) {
    ASSERT_FALSE(deadline.passed()) << "page " << i << " does not come";
    if (guest.is_present(i)) ++i;
  }
  EXPECT_EQ(guest.report().waiting_pages, 0u);
}

TEST_P(SemanticsTest, PageRemovedBetweenRequestAndReplyIsZero) {
  ServedGuest& guest = start(16);
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_zeros(3)); });
  const auto request = server_.next_request();
  guest.give_back(3, 1);  // returns although the page is in flight
  server_.reply(request);
  vcpu.join();
  EXPECT_EQ(guest.report().removed_pages, 1u);
}

TEST_P(SemanticsTest, RemoveInTheQueueGoesBeforeTheFaultInFrontOfIt) {
  ServedGuest& guest = start(16);
  std::optional<GuestThread> vcpu;
  std::optional<GuestThread> balloon;
  {
    const LoopThread::Hold hold(loop_);
    vcpu.emplace([&] { EXPECT_TRUE(guest.has_zeros(3)); });
    vcpu->wait_until_blocked();
    balloon.emplace([&] { guest.give_back(3, 1); });
    balloon->wait_until_blocked();
  }
  vcpu->join();
  balloon->join();
  serve(7);  // the next request there is: none was made for page 3
}

TEST_P(SemanticsTest, RunThatMeetsAPresentPageGoesOnBehindIt) {
  ServedGuest& guest = start_around();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(0)); });
  const auto request = server_.next_request();
  ASSERT_GE(request.optional.size(), 5u);
  const ChunkId met = request.optional[request.optional.size() / 2];
  const std::size_t page = met.value - kFirst.value;
  const PlainPage content = content_of(met);
  ASSERT_EQ(copy_pages(guest.userfaultfd(), guest.address(page), content).outcome,
            FillOutcome::kFilled);
  server_.reply(request);
  vcpu.join();
  EXPECT_EQ(guest.report().redundant_fills, 1u);
  for (const ChunkId rider : request.optional) {
    EXPECT_TRUE(guest.is_present(rider.value - kFirst.value));
    EXPECT_TRUE(guest.has_content(rider.value - kFirst.value));
  }
}

TEST_P(SemanticsTest, PageThatIsPresentAlreadyIsLeftAsItIs) {
  ServedGuest& guest = start(16);
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_zeros(3)); });
  const auto request = server_.next_request();
  ASSERT_EQ(zero_pages(guest.userfaultfd(), guest.address(3), {kPageBytes}).outcome,
            FillOutcome::kFilled);
  server_.reply(request);
  vcpu.join();
  serve(4);
  EXPECT_EQ(guest.report().redundant_fills, 1u);
  EXPECT_TRUE(guest.has_zeros(3));
}

TEST_P(SemanticsTest, UnmappedPagesAreGoneAndOthersAreServed) {
  ServedGuest& guest = start_around();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(0)); });
  const auto request = server_.next_request();
  ASSERT_EQ(::munmap(guest.page(4), 4 * kPageBytes), 0);  // unannounced
  server_.reply(request);
  vcpu.join();
  serve(9);
  EXPECT_GE(guest.report().gone_fills, 1u);
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(SemanticsTest, AnnouncedUnmapIsFollowed) {
  ServedGuest& guest = start_around(UFFD_FEATURE_EVENT_UNMAP);
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(0)); });
  const auto request = server_.next_request();
  ASSERT_EQ(::munmap(guest.page(4), 4 * kPageBytes), 0);
  server_.reply(request);
  vcpu.join();
  serve(9);
  EXPECT_EQ(guest.report().gone_fills, 0u);
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(SemanticsTest, NoPageRidesAcrossTheEndOfItsRegion) {
  ServedGuest& guest = start({.map = content_pages(64), .around = 64, .second_region = 6});
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(5)); });
  const auto request = server_.next_request();
  EXPECT_FALSE(request.optional.empty());
  for (const ChunkId rider : request.optional) EXPECT_LT(rider.value, chunk(6).value);
  server_.reply(request);
  vcpu.join();
  serve(6);
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(SemanticsTest, RiderThatIsRemovedOnItsWayIsZero) {
  ServedGuest& guest = start_around();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(0)); });
  const auto request = server_.next_request();
  const std::size_t page = request.optional.back().value - kFirst.value;
  guest.give_back(page, 1);
  server_.reply(request);
  vcpu.join();
  EXPECT_TRUE(guest.has_zeros(page));
}

TEST_P(SemanticsTest, RiderThatAVcpuWaitsForAndThatIsRemovedIsZeroAtOnce) {
  ServedGuest& guest = start_around();
  GuestThread first([&] { EXPECT_TRUE(guest.has_content(0)); });
  const auto request = server_.next_request();
  const std::size_t page = request.optional.back().value - kFirst.value;
  GuestThread second([&] { EXPECT_TRUE(guest.has_zeros(page)); });
  second.wait_until_blocked();
  loop_.run([] {});  // its fault has been read
  guest.give_back(page, 1);
  second.join();  // before any reply
  server_.reply(request);
}

TEST_P(SemanticsTest, HoleInTheFileBehindTheMemoryIsZeroAtTheNextFault) {
  const UniqueFd file(static_cast<int>(::memfd_create("guest", MFD_CLOEXEC)));
  ASSERT_EQ(::ftruncate(file.get(), 16 * kPageBytes), 0);
  void* const at =
      ::mmap(nullptr, 16 * kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  guest_ =
      std::make_unique<ServedGuest>(loop_, *link_, GuestOptions{.map = content_pages(16)},
                                    MutableByteSpan(static_cast<std::byte*>(at), 16 * kPageBytes));
  guest_->attach();
  server_.accept();
  serve(3);
  ASSERT_EQ(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * kPageBytes,
                        kPageBytes),
            0);
  EXPECT_TRUE(guest_->has_zeros(3));
}

TEST_P(SemanticsTest, VmmThatMakesItsUserfaultfdBlockHoldsUpNobody) {
  ServedGuest& guest = start(16);
  ServedGuest other(loop_, *link_, {.map = content_pages(16)});
  other.attach();
  serve(1);
  ASSERT_EQ(::fcntl(guest.userfaultfd().get(), F_SETFL, 0), 0);
  GuestThread stuck([&] { EXPECT_TRUE(guest.has_content(3)); });
  stuck.wait_until_blocked();
  GuestThread vcpu([&] { EXPECT_TRUE(other.has_content(5)); });
  auto request = server_.next_request();
  if (request.required != std::vector<ChunkId>{chunk(5)}) {
    server_.reply(request);  // the other one's, read before the flag was seen
    request = server_.next_request();
  }
  server_.reply(request);
  vcpu.join();
  const PlainPage content = content_of(chunk(3));
  copy_pages(guest.userfaultfd(), guest.address(3), content);
}

TEST_P(SemanticsTest, RiderThatIsLeftOutWhileAVcpuWaitsIsAskedForAgain) {
  ServedGuest& guest = start_around();
  GuestThread first([&] { EXPECT_TRUE(guest.has_content(0)); });
  const auto request = server_.next_request();
  const ChunkId rider = request.optional.back();
  const std::size_t page = rider.value - kFirst.value;
  GuestThread second([&] { EXPECT_TRUE(guest.has_content(page)); });
  second.wait_until_blocked();
  loop_.run([] {});  // its fault has been read
  server_.reply(request, 0);
  const auto again = server_.next_request();
  EXPECT_EQ(again.required, std::vector<ChunkId>{rider});
  server_.reply(again);
}

TEST_P(SemanticsTest, DamagedRiderNeverEntersTheGuest) {
  ServedGuest& guest = start_around();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(0)); });
  const auto request = server_.next_request();
  const ChunkId rider = request.optional.back();
  server_.set_tamper([&](ChunkId id, MutableByteSpan bytes) {
    if (id == rider) bytes.back() ^= std::byte{1};
  });
  server_.reply(request);
  vcpu.join();
  server_.set_tamper({});
  EXPECT_FALSE(guest.is_present(rider.value - kFirst.value));
  serve(rider.value - kFirst.value);
  EXPECT_EQ(guest.report().damaged_chunks, 1u);
}

TEST_P(SemanticsTest, ThirtyTwoVcpusOnOnePageAreOneRequest) {
  ServedGuest& guest = start(16);
  std::vector<std::unique_ptr<GuestThread>> vcpus;
  vcpus.reserve(32);
  for (int i = 0; i < 32; ++i) {
    vcpus.push_back(std::make_unique<GuestThread>([&] { EXPECT_TRUE(guest.has_content(3)); }));
  }
  for (const auto& vcpu : vcpus) vcpu->wait_until_blocked();
  const auto request = server_.next_request();
  EXPECT_EQ(request.required, std::vector<ChunkId>{chunk(3)});
  server_.reply(request);
  for (const auto& vcpu : vcpus) vcpu->join();
  serve(4);  // the next request there is
}

TEST_P(SemanticsTest, ThirtyTwoVcpusOnAllPagesAskForEachOnce) {
  constexpr std::size_t kPages = 512;
  ServedGuest& guest = start(kPages);
  std::vector<std::unique_ptr<GuestThread>> vcpus;
  vcpus.reserve(32);
  for (std::size_t i = 0; i < 32; ++i) {
    vcpus.push_back(std::make_unique<GuestThread>([&guest, i] {
      for (std::size_t page = 0; page < kPages; ++page) {
        EXPECT_TRUE(guest.has_content((page * 7 + i * 16) % kPages));
      }
    }));
  }
  std::vector<int> asked(kPages);
  for (std::size_t told = 0; told < kPages;) {
    const auto request = server_.next_request();
    for (const ChunkId id : request.required) ++asked[id.value - kFirst.value];
    told += request.required.size();
    server_.reply(request);
  }
  for (const auto& vcpu : vcpus) vcpu->join();
  EXPECT_EQ(asked, std::vector<int>(kPages, 1));
}

TEST_P(SemanticsTest, EventThatSomebodyElseHasReadIsRaisedAgainByAWake) {
  ServedGuest& guest = start(16);
  std::optional<GuestThread> vcpu;
  {
    const LoopThread::Hold hold(loop_);
    vcpu.emplace([&] { EXPECT_TRUE(guest.has_content(3)); });
    vcpu->wait_until_blocked();
    std::vector<MemoryEvent> stolen;
    ASSERT_EQ(read_events(guest.userfaultfd(), stolen).value(), 1u);
  }
  loop_.run([] {});  // it found nothing to read, which is no error
  EXPECT_EQ(guest.given_up(), "");
  wake_pages(guest.userfaultfd(), guest.address(0), {16 * kPageBytes});
  const auto request = server_.next_request();
  server_.reply(request);
}

TEST_P(SemanticsTest, MovedMemoryIsServedWhereItIs) {
  ServedGuest& guest = start_around(UFFD_FEATURE_EVENT_REMAP);
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(0)); });
  const auto request = server_.next_request();
  // Pages that are riding already go somewhere else.
  void* const moved = ::mremap(guest.page(4), 4 * kPageBytes, 4 * kPageBytes,
                               MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  ASSERT_NE(moved, MAP_FAILED);
  server_.reply(request);
  vcpu.join();
  for (const ChunkId rider : request.optional) {
    const std::size_t page = rider.value - kFirst.value;
    const auto* const at =
        page < 4 ? guest.page(page) : static_cast<std::byte*>(moved) + (page - 4) * kPageBytes;
    const PlainPage content = content_of(rider);
    EXPECT_TRUE(std::equal(content.begin(), content.end(), at)) << page;
  }
  serve(9);
  ::munmap(moved, 4 * kPageBytes);
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(SemanticsTest, FaultThatIsReadBesideTheMoveOfItsPageEndsNobody) {
  ServedGuest& guest = start({.map = content_pages(16), .features = UFFD_FEATURE_EVENT_REMAP});
  auto* const to = static_cast<std::byte*>(
      ::mmap(nullptr, kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(to, MAP_FAILED);
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd reader(pipe[0]);
  const UniqueFd writer(pipe[1]);
  std::optional<GuestThread> toucher;
  std::optional<GuestThread> mover;
  {
    const LoopThread::Hold hold(loop_);
    // The kernel touches it, and finds nothing there when it is woken.
    toucher.emplace([&] {
      EXPECT_EQ(::write(writer.get(), guest.page(4), 1), -1);
      EXPECT_EQ(errno, EFAULT);
    });
    toucher->wait_until_blocked();
    mover.emplace([&] {
      EXPECT_EQ(::mremap(guest.page(4), kPageBytes, kPageBytes, MREMAP_MAYMOVE | MREMAP_FIXED, to),
                to);
    });
    mover->wait_until_blocked();
  }
  mover->join();
  toucher->join();
  EXPECT_EQ(guest.given_up(), "");

  GuestThread vcpu([&] {
    const PlainPage content = content_of(chunk(4));
    EXPECT_TRUE(std::equal(content.begin(), content.end(), to));
  });
  server_.reply(server_.next_request());
  vcpu.join();
  ::munmap(to, kPageBytes);
}

TEST_P(SemanticsTest, PagesLostInMoreMovesThanAreFollowedAreGoneAllTheSame) {
  constexpr std::size_t kPages = 2 * limits::kMaxRegionPieces;
  ServedGuest& guest = start({.map = content_pages(kPages), .features = UFFD_FEATURE_EVENT_REMAP});
  auto* const elsewhere = static_cast<std::byte*>(
      ::mmap(nullptr, kPages * kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(elsewhere, MAP_FAILED);
  const auto move_page = [&](std::size_t index, std::byte* to) {
    ASSERT_EQ(
        ::mremap(guest.page(index), kPageBytes, kPageBytes, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
  };
  // Each cuts a region in two and lies between them: the one after the last makes too many.
  const std::size_t moves = (limits::kMaxRegionPieces - 1) / 2;
  for (std::size_t i = 0; i < moves; ++i) move_page(2 * i + 1, elsewhere + i * kPageBytes);
  EXPECT_EQ(guest.given_up(), "");
  EXPECT_EQ(guest.report().removed_pages, 0u);

  move_page(2 * moves + 1, guest.page(kPages - 1));
  EXPECT_TRUE(guest.given_up().starts_with("limit_exceeded")) << guest.given_up();
  EXPECT_EQ(guest.report().removed_pages, 1u);
  ::munmap(elsewhere, kPages * kPageBytes);
}

TEST_P(SemanticsTest, PageThatCannotBeHadKeepsTheGuestWaiting) {
  ServedGuest& guest = start(16);
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(3)); });
  for (int i = 0; i < 3; ++i) server_.refuse(server_.next_request(), ErrorCode::kNotFound);
  vcpu.wait_until_blocked();
  EXPECT_FALSE(vcpu.ended());
  EXPECT_FALSE(guest.is_present(3));
  EXPECT_EQ(guest.report().waiting_pages, 1u);
  server_.reply(server_.next_request());  // which is made again after a while
}

TEST_P(SemanticsTest, ServerThatCameBackWithAnotherStoreIsAskedForNothing) {
  ServedGuest& guest = start(16);
  serve(3);
  server_.set_store(store_of(2));
  server_.hang_up();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(5)); });
  vcpu.wait_until_blocked();
  for (unsigned i = 0; i < limits::kMaxPageAttempts; ++i) server_.accept_and_be_left();
  server_.set_store(store_of(1));
  server_.accept();
  EXPECT_TRUE(guest.unservable().starts_with("wrong_store")) << guest.unservable();
  EXPECT_FALSE(guest.is_present(5));
  EXPECT_EQ(guest.report().waiting_pages, 1u);

  server_.reply(server_.next_request());  // which is made again after a while
  vcpu.join();
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(SemanticsTest, ServerWithAnotherStoreAtFirstIsWaitedFor) {
  server_.set_store(store_of(2));
  guest_ = std::make_unique<ServedGuest>(loop_, *link_, GuestOptions{.map = content_pages(16)});
  guest_->attach();
  server_.accept_and_be_left();
  server_.set_store(store_of(1));
  server_.accept();
  serve(3);
  EXPECT_EQ(guest_->unservable(), "");
}

TEST_P(SemanticsTest, BalloonOf200MiBIsZeroWhenItIsTouchedAgain) {
  constexpr std::size_t kPages = (200u << 20) / kPageBytes;
  ServedGuest& guest = start(kPages);
  serve(17);
  guest.give_back(0, kPages);
  std::size_t wrong = 0;
  for (std::size_t page = 0; page < kPages; ++page) {
    if (*guest.page(page) != std::byte{0}) ++wrong;
  }
  EXPECT_EQ(wrong, 0u);
  EXPECT_TRUE(guest.has_zeros(17));
  EXPECT_EQ(guest.report().removed_pages, kPages);
}

TEST_P(SemanticsTest, NoSessionTakesAllTheRoomForRequests) {
  ServedGuest& greedy = start(2048);
  ServedGuest other(loop_, *link_, {.map = content_pages(16)});
  other.attach();
  // More faults at once than one batch takes, again and again, without any answer.
  std::vector<std::unique_ptr<GuestThread>> vcpus;
  vcpus.reserve(32);
  for (std::size_t i = 0; i < 32; ++i) {
    vcpus.push_back(
        std::make_unique<GuestThread>([&greedy, i] { EXPECT_TRUE(greedy.has_content(i * 64)); }));
    vcpus.back()->wait_until_blocked();
    loop_.run([] {});
  }
  GuestThread vcpu([&] { EXPECT_TRUE(other.has_content(5)); });
  std::vector<ScriptedServer::Request> requests;
  while (requests.empty() || requests.back().required != std::vector<ChunkId>{chunk(5)}) {
    requests.push_back(server_.next_request());
    ASSERT_LE(requests.size(), limits::kMaxBatchesPerSession + 1);
  }
  server_.reply(requests.back());
  vcpu.join();
  requests.pop_back();
  for (const auto& request : requests) server_.reply(request);
  std::size_t told = 0;
  for (const auto& request : requests) told += request.required.size();
  while (told < 32) {
    const auto request = server_.next_request();
    told += request.required.size();
    server_.reply(request);
  }
}

TEST_P(SemanticsTest, ProcessThatIsGoneIsNoError) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    const Mapping memory = Mapping::anonymous(bytes_of({16})).value();
    const UniqueFd uffd = create_userfaultfd().value();
    const HostAddress base = memory.address();
    if (!register_missing(uffd, base, memory.size())) ::_exit(1);
    const int fd = uffd.get();
    if (!send_with_descriptors(theirs, std::as_bytes(std::span(&base, 1)), {&fd, 1},
                               Deadline::after(kPatience))) {
      ::_exit(1);
    }
    ::_exit(std::to_integer<int>(memory.bytes()[3 * kPageBytes]));
  }
  HostAddress base;
  std::optional<Received> received;
  while (!received) {
    received = receive_with_descriptors(ours, std::as_writable_bytes(std::span(&base, 1))).value();
  }
  class Owner final : public ServedMemory::Owner {
   public:
    void give_up(const std::string& reason) override { reason_ = reason; }
    void stop_vm(const std::string& reason) override { reason_ = reason; }
    Unservable on_unservable(PageIndex, const std::string&) override { return Unservable::kWaits; }
    void on_faults() override {}
    void on_window_end(std::vector<Touch>) override {}
    void on_detached() override {}
    std::string reason_;
  } owner;
  MemoryRecord record = MemoryRecord::create("", {16}).value();
  SnapshotImage image;
  image.manifest.spec.memory = bytes_of({16});
  image.map = content_pages(16);
  std::unique_ptr<ServedMemory> served;
  loop_.run([&] {
    served = std::make_unique<ServedMemory>(
        loop_.loop(), *link_,
        ServeOptions{.image = std::make_shared<const SnapshotImage>(std::move(image)),
                     .prefetch = {},
                     .plan = {},
                     .window = {}},
        record, owner);
    served->connect();
    served->start(
        std::move(received->descriptors.at(0)),
        RegionTable::check({{base, bytes_of({16}), {0}, {kPageBytes}}}, {.name = {},
                                                                         .memory = bytes_of({16}),
                                                                         .state = {},
                                                                         .regions = {},
                                                                         .labels = {},
                                                                         .cpu_vendor = {}})
            .value());
  });
  server_.accept();
  const auto request = server_.next_request();
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  server_.reply(request);
  SessionReport report;
  const Deadline deadline = Deadline::after(kPatience);
  while (report.bytes_received == 0 && !deadline.passed()) {
    loop_.run([&] { served->add_to(report); });
  }
  EXPECT_EQ(owner.reason_, "");
  EXPECT_EQ(report.present_pages, 0u);
  loop_.run([&] { served->stop(); });
  for (bool finished = false; !finished;) loop_.run([&] { finished = served->finished(); });
  loop_.run([&] { served.reset(); });
}

}  // namespace
}  // namespace thaw::test
