// What prefetch does to a guest: the kernel, worker threads, and a page server that answers when
// the test says so.

#include <algorithm>
#include <numeric>
#include <random>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "tests/support/prefetching.h"

namespace thaw {
namespace {

using test::content_pages;
using test::GuestThread;
using test::kFirst;
using test::pick;
using test::PrefetchingTest;
using test::seeded_generator;
using test::ServedGuest;

/// 64 pages: content, but for the last 16.
PageMap map_with_zeros() {
  PageMap map = content_pages(48);
  map.append_zero({16});
  return map;
}

TEST_P(PrefetchingTest, PacksThatCameBeforeTheVmAreThereWithoutAFault) {
  const std::vector<std::uint64_t> pages{9, 3, 40, 2, 20, 21, 22, 50, 51, 55, 1};
  ServedGuest& guest = start_with(pages, {.map = map_with_zeros()}, Attach::kLater);
  EXPECT_EQ(serve_pack(), 0u);
  EXPECT_EQ(serve_pack(), 1u);
  wait_until([&] { return guest.report().prefetch.packs == 2; });
  EXPECT_FALSE(guest.is_present(9)) << "there is no VM yet";

  guest.attach();
  wait_for_present(pages);
  wait_for_state(PrefetchState::kDone);
  for (const std::uint64_t page : pages) EXPECT_TRUE(guest.has_content(page)) << page;
  EXPECT_FALSE(guest.is_present(0));
  const SessionReport report = guest.report();
  EXPECT_EQ(report.faults.total, 0u);
  EXPECT_EQ(report.prefetch.prefetched_pages, pages.size());
  EXPECT_EQ(report.prefetch.set_pages, pages.size());
  EXPECT_EQ(report.prefetch.late_pages, 0u);
  EXPECT_GT(report.prefetch.bytes, 0u);
}

TEST_P(PrefetchingTest, PageOnItsWayIsNotAskedForAgainAndWakesWhoWaits) {
  ServedGuest& guest = start_with({0, 1, 2, 3}, {.map = content_pages(64)});
  const auto request = packs_.next_pack_request();
  const auto start = Clock::now();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(2)); });
  GuestThread another([&] { EXPECT_TRUE(guest.has_content(2)); });
  vcpu.wait_until_blocked();
  another.wait_until_blocked();
  const bool is_demanded = server_.has_request();
  EXPECT_TRUE(!is_demanded || Clock::now() - start >= limits::kLatePatience);

  packs_.reply(request, set_->packs()[0].pages);
  vcpu.join();
  another.join();
  const SessionReport report = guest.report();
  EXPECT_EQ(report.prefetch.late_pages, 1u);
  EXPECT_EQ(report.prefetch.prefetched_pages, 3u);
  EXPECT_EQ(report.faults.fetched, 0u);
}

TEST_P(PrefetchingTest, DemandGoesItsOwnWay) {
  start_with({0, 1, 2, 3}, {.map = content_pages(64)});
  const auto request = packs_.next_pack_request();
  serve(30);
  packs_.reply(request, set_->packs()[0].pages);
  wait_for_present({0, 1, 2, 3});
}

TEST_P(PrefetchingTest, OnePieceIsOnTheWayWhileADemandWaits) {
  std::vector<std::uint64_t> pages;
  for (std::uint64_t i = 0; i < 40; ++i) pages.push_back(i);
  ServedGuest& guest = start_with(pages, {.map = content_pages(64)});
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(60)); });
  const auto demand = server_.next_request();
  // What was asked for before the demand came.
  while (packs_.has_request()) serve_pack();
  std::size_t served = 0;
  for (; packs_.has_request(); ++served) {
    const auto request = packs_.next_pack_request();
    EXPECT_FALSE(packs_.has_request()) << "one at a time";
    packs_.reply(request, set_->packs().at(request.pack.number).pages);
  }
  server_.reply(demand);
  vcpu.join();
  wait_for_state(PrefetchState::kDone);
}

TEST_P(PrefetchingTest, PackThatTheGuestHasComeToIsAskedForBeforeItsTurn) {
  constexpr std::size_t kBefore = limits::kMaxSessionPlainBuffers;  // asked for before the VM comes
  constexpr std::size_t kFar = kBefore + 30;
  std::vector<std::uint64_t> pages((kFar + 10) * kPackPages);
  std::iota(pages.begin(), pages.end(), 0);
  ServedGuest& guest = start_with(pages, {.map = content_pages(pages.size())}, Attach::kLater);
  std::vector<test::ScriptedServer::PackRequest> asked;
  while (asked.size() < kBefore) asked.push_back(packs_.next_pack_request());
  guest.attach();
  serve(kFar * kPackPages);
  // Of a session that has its VM fewer are under way at a time.
  for (std::size_t i = 0; i <= kBefore - limits::kMaxServingPlainBuffers; ++i) {
    packs_.reply(asked[i], set_->packs()[i].pages);
  }
  EXPECT_EQ(packs_.next_pack_request().pack.number, kFar);
  packs_.reply(asked.back(), set_->packs()[kBefore - 1].pages);
  EXPECT_EQ(packs_.next_pack_request().pack.number, kBefore);
}

TEST_P(PrefetchingTest, PageThatIsLongInComingIsFetchedOnDemandAsWell) {
  ServedGuest& guest = start_with({0, 1, 2, 3}, {.map = content_pages(64)});
  const auto request = packs_.next_pack_request();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(2)); });
  const auto demand = server_.next_request();  // though the pack is not lost
  EXPECT_EQ(demand.required, std::vector{test::chunk(2)});
  server_.reply(demand);
  vcpu.join();
  packs_.reply(request, set_->packs()[0].pages);
  wait_for_present({0, 1, 3});
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(PrefetchingTest, PageThatDemandHasTakenOverIsNotAskedForAgainWithItsPack) {
  ServedGuest& guest = start_with({0, 1, 2, 3}, {.map = content_pages(64)});
  EXPECT_EQ(packs_.next_pack_request().pack.number, 0u);
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(2)); });
  const auto demand = server_.next_request();
  packs_.hang_up();
  packs_.accept(message::Role::kPrefetch);
  EXPECT_EQ(serve_pack(), 0u);
  vcpu.join();  // the pack was quicker
  EXPECT_FALSE(server_.has_request());
  server_.reply(demand);
  serve(60);
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(PrefetchingTest, RemovedPageIsNeverBroughtBack) {
  ServedGuest& guest = start_with({0, 1, 2, 3}, {.map = content_pages(64)});
  const auto request = packs_.next_pack_request();
  guest.give_back(1, 2);
  packs_.reply(request, set_->packs()[0].pages);
  wait_for_present({0, 3});
  wait_for_state(PrefetchState::kDone);
  EXPECT_FALSE(guest.is_present(1));
  EXPECT_TRUE(guest.has_zeros(1));
  EXPECT_TRUE(guest.has_zeros(2));
}

TEST_P(PrefetchingTest, PagesGivenBackBesideCopiesAreZeroAfterwards) {
  constexpr std::uint64_t kPages = 4096;
  auto generator = seeded_generator();
  std::vector<std::uint64_t> pages(kPages);
  for (std::uint64_t i = 0; i < kPages; ++i) pages[i] = i;
  ServedGuest& guest = start_with(pages, {.map = content_pages(kPages)});
  std::vector<bool> removed(kPages);
  GuestThread balloon([&] {
    for (int i = 0; i < 400; ++i) {
      const std::uint64_t first = pick(generator, kPages - 8);
      const std::uint64_t count = 1 + pick(generator, 8);
      guest.give_back(first, count);
      std::fill_n(removed.begin() + static_cast<std::ptrdiff_t>(first), count, true);
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  });
  while (guest.report().prefetch.state == PrefetchState::kStreaming) {
    while (packs_.has_request()) serve_pack();
  }
  balloon.join();
  // What prefetch left out comes on demand.
  GuestThread vcpu([&] {
    for (std::uint64_t page = 0; page < kPages; ++page) {
      ASSERT_TRUE(removed[page] ? guest.has_zeros(page) : guest.has_content(page)) << page;
    }
  });
  while (!vcpu.ended()) {
    if (server_.has_request()) server_.reply(server_.next_request());
  }
  vcpu.join();
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(PrefetchingTest, DamagedPackIsLeftToDemand) {
  ServedGuest& guest = start_with({0, 1, 2, 3, 4, 5, 6, 7}, {.map = content_pages(64)});
  std::vector<PackId> told;
  loop_.run([&] {
    link_->on_damage([&](const Damage& damage) {
      EXPECT_TRUE(damage.chunks.empty());
      told.insert(told.end(), damage.packs.begin(), damage.packs.end());
    });
  });
  packs_.set_tamper([](ChunkId first, MutableByteSpan pack) {
    if (first == test::chunk(0)) pack.back() ^= std::byte{1};
  });
  const auto request = packs_.next_pack_request();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(2)); });
  vcpu.wait_until_blocked();
  packs_.reply(request, set_->packs()[0].pages);
  const auto demand = server_.next_request();
  EXPECT_EQ(demand.required, std::vector{test::chunk(2)});
  server_.reply(demand);
  vcpu.join();
  EXPECT_EQ(serve_pack(), 1u);
  wait_for_present({4, 5, 6, 7});
  EXPECT_FALSE(guest.is_present(0));
  EXPECT_EQ(guest.report().damaged_chunks, 1u);
  loop_.run([&] {
    EXPECT_EQ(told, (std::vector{PackId{set_->snapshot(), set_->generation(), 0}}));
    link_->on_damage({});
  });
}

TEST_P(PrefetchingTest, PackOfOtherPagesIsRefused) {
  ServedGuest& guest = start_with({0, 1, 2, 3, 4, 5, 6, 7}, {.map = content_pages(64)});
  const auto first = packs_.next_pack_request();
  packs_.reply(first, set_->packs()[1].pages);
  EXPECT_EQ(serve_pack(), 1u);
  wait_for_present({4, 5, 6, 7});
  wait_for_state(PrefetchState::kDone);
  EXPECT_FALSE(guest.is_present(0));
  EXPECT_EQ(guest.report().damaged_chunks, 1u);
}

TEST_P(PrefetchingTest, EmptyReplyBringsNothing) {
  ServedGuest& guest =
      start_with({0, 1, 2, 3, 4, 5, 6, 7}, {.map = content_pages(64)}, Attach::kLater);
  packs_.reply_empty(packs_.next_pack_request());
  guest.attach();
  packs_.reply_empty(packs_.next_pack_request());
  wait_for_state(PrefetchState::kDone);
  EXPECT_EQ(guest.report().damaged_chunks, 2u);
  for (std::size_t page = 0; page < 8; ++page) EXPECT_FALSE(guest.is_present(page)) << page;
}

TEST_P(PrefetchingTest, PackAnsweredWithAnotherKindOfMessageIsAskedForAgain) {
  ServedGuest& guest = start_with({0, 1, 2, 3}, {.map = content_pages(64)});
  packs_.reply_with_another_kind(packs_.next_pack_request());
  packs_.accept(message::Role::kPrefetch);
  EXPECT_EQ(serve_pack(), 0u);
  wait_for_present({0, 1, 2, 3});
  wait_for_state(PrefetchState::kDone);
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(PrefetchingTest, SetThatIsNotThereAnyMoreIsLeftToDemand) {
  ServedGuest& guest = start_with({0, 1, 2, 3, 4, 5, 6, 7}, {.map = content_pages(64)});
  const auto request = packs_.next_pack_request();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(1)); });
  vcpu.wait_until_blocked();
  packs_.refuse(request, ErrorCode::kNotFound);
  server_.reply(server_.next_request());
  vcpu.join();
  EXPECT_EQ(guest.report().prefetch.state, PrefetchState::kStopped);
  serve(30);
}

TEST_P(PrefetchingTest, PackLostWithTheConnectionIsAskedForAgain) {
  ServedGuest& guest = start_with({0, 1, 2, 3}, {.map = content_pages(64)});
  EXPECT_EQ(packs_.next_pack_request().pack.number, 0u);
  packs_.hang_up();
  packs_.accept(message::Role::kPrefetch);
  EXPECT_EQ(serve_pack(), 0u);
  wait_for_present({0, 1, 2, 3});
  EXPECT_EQ(guest.given_up(), "");
}

TEST_P(PrefetchingTest, ServerWithAnotherStoreIsAskedForNoPack) {
  ServedGuest& guest = start_with({0, 1, 2, 3}, {.map = content_pages(64)});
  EXPECT_EQ(packs_.next_pack_request().pack.number, 0u);
  packs_.set_store(test::store_of(2));
  packs_.hang_up();
  for (int i = 0; i < 4; ++i) packs_.accept_and_be_left(message::Role::kPrefetch);
  EXPECT_FALSE(guest.is_present(0));
  packs_.set_store(test::store_of(1));
  packs_.accept(message::Role::kPrefetch);
  EXPECT_EQ(serve_pack(), 0u);
  wait_for_present({0, 1, 2, 3});
  EXPECT_EQ(guest.given_up(), "");
}

/// A file system in memory that holds so many bytes.
class SmallMemory {
 public:
  explicit SmallMemory(std::size_t bytes) : mounted_(mount(bytes, 0)) {}
  SmallMemory(const SmallMemory&) = delete;
  ~SmallMemory() {
    if (mounted_) ::umount2(directory_.path("").c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool resize(std::size_t bytes) { return mount(bytes, MS_REMOUNT); }
  /// A mapping of a new file in it.
  MutableByteSpan map(std::size_t bytes) {
    const UniqueFd file(
        ::open(directory_.path("file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    void* const at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    EXPECT_NE(at, MAP_FAILED);
    return {static_cast<std::byte*>(at), bytes};
  }

 private:
  bool mount(std::size_t bytes, unsigned long flags) {
    const std::string size = fmt::format("size={}", bytes);
    return ::mount("tmpfs", directory_.path("").c_str(), "tmpfs", flags, size.c_str()) == 0;
  }

  test::ScratchDirectory directory_;
  const bool mounted_;
};

/// A guest whose memory has room for fewer pages than it has.
class ShortOfMemoryTest : public PrefetchingTest {
 protected:
  static constexpr std::size_t kPages = 64;
  static constexpr std::size_t kRoom = 2 * kPackPages;

  void SetUp() override {
    if (!memory_.mounted()) GTEST_SKIP() << "needs the right to mount";
  }
  void start_in_it(PrefetchPlan plan) {
    const bool prefetches = plan.set != nullptr || plan.hydrate_bytes_per_s > 0;
    test::GuestOptions options{.map = map_};
    options.memory_patience = memory_patience_;
    options.prefetch.emplace(*prefetch_link_, *workers_, buffers_);
    options.plan = std::move(plan);
    guest_ = std::make_unique<ServedGuest>(loop_, *link_, std::move(options),
                                           memory_.map(kPages * kPageBytes));
    server_.accept();
    if (prefetches) packs_.accept(message::Role::kPrefetch);
    guest_->attach();
  }
  void make_room() { ASSERT_TRUE(memory_.resize(kPages * kPageBytes)); }

  PageMap map_ = content_pages(kPages);
  Nanoseconds memory_patience_{limits::kMemoryPatience};
  SmallMemory memory_{kRoom * kPageBytes};
};

INSTANTIATE_TEST_SUITE_P(Loops, ShortOfMemoryTest, test::both_loops(), test::loop_name);

TEST_P(ShortOfMemoryTest, WorkingSetIsGivenUpAndNotTheVm) {
  std::vector<std::uint64_t> pages(4 * kPackPages);
  std::iota(pages.begin(), pages.end(), std::uint64_t{0});
  set_ = set_of(pages, content_pages(kPages));
  start_in_it({.set = set_});
  const auto serve_until = [&](PrefetchState state) {
    wait_until([&] {
      if (packs_.has_request()) serve_pack();
      return guest_->report().prefetch.state == state;
    });
  };
  serve_until(PrefetchState::kShortOfMemory);
  wait_until([&] { return guest_->report().short_of == "the tmpfs behind guest memory"; });
  EXPECT_EQ(guest_->given_up(), "");
  make_room();
  serve_until(PrefetchState::kDone);
  wait_for_present(pages);
}

TEST_P(ShortOfMemoryTest, RestOfMemoryIsGivenUpAndNotTheVm) {
  start_in_it({.set = {}, .hydrate_bytes_per_s = 1u << 30});
  packs_.reply(packs_.next_request());
  wait_for_state(PrefetchState::kShortOfMemory);
  EXPECT_EQ(guest_->given_up(), "");
  make_room();
  wait_until([&] {
    if (packs_.has_request()) packs_.reply(packs_.next_request());
    return guest_->detached();
  });
  EXPECT_EQ(guest_->report().prefetch.hydrated_pages, kPages);
}

TEST_P(ShortOfMemoryTest, DemandedPagesWaitForMemoryAndNotTheVmForItsEnd) {
  start_in_it({});
  for (std::size_t page = 0; page < kRoom; ++page) serve(page);
  GuestThread vcpu([&] { EXPECT_TRUE(guest_->has_content(kRoom)); });
  server_.reply(server_.next_request(), 0);
  wait_until([&] { return guest_->report().memory_waiting_pages == 1; });
  GuestThread other([&] { EXPECT_TRUE(guest_->has_content(kRoom + 1)); });
  server_.reply(server_.next_request(), 0);
  wait_until([&] { return guest_->report().memory_waiting_pages == 2; });
  wait_until([&] { return !guest_->report().short_of.empty(); });
  EXPECT_EQ(guest_->unservable(), "");
  EXPECT_FALSE(vcpu.ended());
  make_room();
  vcpu.join();
  other.join();
  EXPECT_EQ(guest_->report().memory_waiting_pages, 0u);
  EXPECT_EQ(guest_->given_up(), "");
}

TEST_P(ShortOfMemoryTest, ZerosWaitForMemoryToo) {
  map_ = {};
  map_.append_chunks(kFirst, {kRoom});
  map_.append_zero({kPages - kRoom});
  start_in_it({});
  for (std::size_t page = 0; page < kRoom; ++page) serve(page);
  GuestThread vcpu([&] { EXPECT_TRUE(guest_->has_zeros(kRoom + 3)); });
  wait_until([&] { return guest_->report().memory_waiting_pages == 1; });
  make_room();
  vcpu.join();
}

TEST_P(ShortOfMemoryTest, PageThatHasWaitedTooLongCannotBeHad) {
  memory_patience_ = std::chrono::milliseconds(1);
  start_in_it({});
  for (std::size_t page = 0; page < kRoom; ++page) serve(page);
  GuestThread vcpu([&] { EXPECT_TRUE(guest_->has_content(kRoom)); });
  server_.reply(server_.next_request(), 0);
  wait_until([&] { return !guest_->unservable().empty(); });
  EXPECT_TRUE(guest_->unservable().starts_with("no memory")) << guest_->unservable();
  EXPECT_TRUE(guest_->unservable().ends_with("(ENOMEM 12)")) << guest_->unservable();
  make_room();  // it was let wait
  vcpu.join();
}

TEST_P(PrefetchingTest, GuestWhosePackIsLostWithTheConnectionIsServedOnDemand) {
  ServedGuest& guest = start_with({0, 1, 2, 3}, {.map = content_pages(64)});
  EXPECT_EQ(packs_.next_pack_request().pack.number, 0u);
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(1)); });
  vcpu.wait_until_blocked();
  packs_.hang_up();
  server_.reply(server_.next_request());
  vcpu.join();
}

TEST_P(PrefetchingTest, SessionMayEndAtAnyPoint) {
  auto generator = seeded_generator();
  std::vector<std::uint64_t> pages;
  for (std::uint64_t i = 0; i < 64; ++i) pages.push_back(i);
  ServedGuest& guest = start_with(pages, {.map = content_pages(64)});
  for (std::uint64_t i = pick(generator, 8); i > 0; --i) serve_pack();
  guest.end_session();
  while (packs_.has_request()) serve_pack();  // nobody waits for them any more
}

TEST_P(PrefetchingTest, RestOfMemoryFollowsAndThenTheGuestNeedsNobody) {
  ServedGuest& guest =
      start_with({0, 1, 2, 3},
                 {.map = map_with_zeros(), .plan = {.set = {}, .hydrate_bytes_per_s = 1u << 30}});
  guest.give_back(10, 2);
  serve_pack();
  packs_.reply(packs_.next_request());
  wait_until([&] { return guest.detached(); });
  EXPECT_EQ(guest.report().prefetch.hydrated_pages, 64u - 4 - 2);

  guest.end_session();
  for (std::size_t page = 0; page < 64; ++page) {
    EXPECT_TRUE(page == 10 || page == 11 ? guest.has_zeros(page) : guest.has_content(page)) << page;
  }
  guest.give_back(20, 1);
  EXPECT_TRUE(guest.has_zeros(20));
}

TEST_P(PrefetchingTest, ColdPagesComeAfterAllOthers) {
  const ColdMap cold{{{8}, {10}}, {{30}, {10}}};
  ServedGuest& guest = start_with({}, {.map = content_pages(40),
                                       .plan = {.set = {},
                                                .hydrate_bytes_per_s = 1u << 30,
                                                .cold = std::make_shared<const ColdMap>(cold)}});
  std::vector<ChunkId> asked;
  while (asked.size() < 40) {
    const auto request = packs_.next_request();
    asked.insert(asked.end(), request.required.begin(), request.required.end());
    packs_.reply(request);
  }
  std::vector<ChunkId> expected;
  for (const auto& [first, count] : {std::pair(0, 8), {18, 12}, {8, 10}, {30, 10}}) {
    for (int i = 0; i < count; ++i)
      expected.push_back(test::chunk(static_cast<std::size_t>(first + i)));
  }
  EXPECT_EQ(asked, expected);
  wait_until([&] { return guest.detached(); });
  for (std::size_t page = 0; page < 40; ++page) EXPECT_TRUE(guest.has_content(page)) << page;
}

TEST_P(PrefetchingTest, ChunkThatCannotBeHadKeepsBackNothingElse) {
  constexpr std::size_t kBad = 17;
  ServedGuest& guest = start_with(
      {}, {.map = content_pages(40), .plan = {.set = {}, .hydrate_bytes_per_s = 1u << 30}});
  std::vector<std::size_t> sizes;
  const auto all_others = [&] {
    for (std::size_t page = 0; page < 40; ++page) {
      if (page != kBad && !guest.is_present(page)) return false;
    }
    return true;
  };
  wait_until([&] {
    if (!packs_.has_request()) return all_others();
    const auto request = packs_.next_request();
    sizes.push_back(request.required.size());
    if (std::ranges::find(request.required, test::chunk(kBad)) == request.required.end()) {
      packs_.reply(request);
    } else {
      packs_.refuse(request, ErrorCode::kCorrupt);
    }
    return all_others();
  });
  EXPECT_EQ(sizes.front(), 40u);
  EXPECT_FALSE(guest.detached());
  // It is asked for again, alone and less and less often, and then the guest needs nobody.
  constexpr std::size_t kAgain = 4;
  packs_.refuse(packs_.next_request(), ErrorCode::kCorrupt);
  auto last = packs_.next_request();  // by now all else is settled
  const auto start = Clock::now();
  for (std::size_t i = 0; i < kAgain; ++i) {
    packs_.refuse(last, ErrorCode::kCorrupt);
    last = packs_.next_request();
  }
  EXPECT_EQ(last.required, std::vector{test::chunk(kBad)});
  EXPECT_GE(Clock::now() - start, limits::kSweepFirst * kAgain) << "less than half of it";
  packs_.reply(last);
  wait_until([&] { return guest.detached(); });
  EXPECT_TRUE(guest.has_content(kBad));
}

TEST_P(PrefetchingTest, NobodyWaitsInMemoryThatIsComplete) {
  ServedGuest& guest = start_with(
      {}, {.map = content_pages(100), .plan = {.set = {}, .hydrate_bytes_per_s = 1u << 30}});
  const auto first = packs_.next_request();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_zeros(90)); });
  static_cast<void>(server_.next_request());  // which stays without a reply
  guest.give_back(90, 1);
  vcpu.join();
  packs_.reply(first);
  packs_.reply(packs_.next_request());
  wait_until([&] { return guest.detached(); });
  EXPECT_EQ(guest.report().waiting_pages, 0u);
}

TEST_P(PrefetchingTest, VcpuThatWaitsForTheRestIsWokenByIt) {
  const auto start = Clock::now();
  // More than one request brings: a guest whose memory is complete is said goodbye to.
  ServedGuest& guest = start_with(
      {}, {.map = content_pages(100), .plan = {.set = {}, .hydrate_bytes_per_s = 1u << 30}});
  const auto request = packs_.next_request();
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(7)); });
  vcpu.wait_until_blocked();
  packs_.reply(request);
  vcpu.join();
  const bool is_demanded = server_.has_request();
  EXPECT_TRUE(!is_demanded || Clock::now() - start >= limits::kLatePatience);
}

TEST_P(PrefetchingTest, RecordingBeginsWithTheFirstTouch) {
  constexpr std::chrono::milliseconds kIdle(50);
  ServedGuest& guest =
      start_with({}, {.map = content_pages(64),
                      .window = {.idle = kIdle, .most = std::chrono::milliseconds(100)},
                      .window_use = WindowUse::kRecord});
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_FALSE(guest.touches().has_value()) << "the guest has not begun";
  serve(7);
  wait_until([&] { return guest.touches().has_value(); });
  ASSERT_EQ(guest.touches()->size(), 1u);
  EXPECT_EQ(guest.touches()->front().us, 0u);
}

TEST_P(PrefetchingTest, RecordingHasFirstTouchesInTheirOrderAndNothingElseComes) {
  ServedGuest& guest =
      start_with({}, {.map = map_with_zeros(),
                      .around = 64,
                      .window = {.idle = std::chrono::milliseconds(500), .most = test::kPatience},
                      .window_use = WindowUse::kRecord});
  const std::vector<std::size_t> order{7, 3, 52, 53, 8, 30};
  for (const std::size_t page : order) {
    GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(page)); });
    if (page < 48) {
      const auto request = server_.next_request();
      EXPECT_TRUE(request.optional.empty()) << "no riders";
      server_.reply(request);
    }
  }
  EXPECT_FALSE(guest.is_present(54)) << "no zeros around";
  wait_until([&] { return guest.touches().has_value(); });
  const auto touches = *guest.touches();
  ASSERT_EQ(touches.size(), order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(touches[i].page, PageIndex{order[i]});
    EXPECT_EQ(touches[i].kind, TouchKind::kDemand);
    EXPECT_GE(touches[i].us, touches[i == 0 ? 0 : i - 1].us);
  }
  // When the window is over neighbours come along again.
  GuestThread vcpu([&] { EXPECT_TRUE(guest.has_content(20)); });
  const auto request = server_.next_request();
  EXPECT_FALSE(request.optional.empty());
  server_.reply(request);
}

TEST_P(PrefetchingTest, RecordingOfAVmThatDiesEarlyIsNotLost) {
  ServedGuest& guest = start_with({}, {.map = content_pages(64),
                                       .window = {.idle = test::kPatience, .most = test::kPatience},
                                       .window_use = WindowUse::kRecord});
  serve(7);
  EXPECT_FALSE(guest.touches().has_value());
  guest.end_session();
  ASSERT_TRUE(guest.touches().has_value());
  ASSERT_EQ(guest.touches()->size(), 1u);
  EXPECT_EQ(guest.touches()->front().page, PageIndex{7});
}

TEST_P(PrefetchingTest, TraceHasWhatWasBroughtAsWell) {
  ServedGuest& guest =
      start_with({0, 1, 2, 3}, {.map = content_pages(64),
                                .window = {.idle = test::kPatience, .most = test::kPatience},
                                .window_use = WindowUse::kTrace});
  serve_pack();
  wait_for_state(PrefetchState::kDone);
  serve(9);
  guest.end_session();
  const auto touches = *guest.touches();
  ASSERT_EQ(touches.size(), 5u);
  EXPECT_EQ(std::ranges::count(touches, TouchKind::kPrefetch, &Touch::kind), 4);
  EXPECT_EQ(touches.back().page, PageIndex{9});
}

INSTANTIATE_TEST_SUITE_P(Loops, PrefetchingTest, test::both_loops(), test::loop_name);

}  // namespace
}  // namespace thaw
