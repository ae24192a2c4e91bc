// What a VMM hands over: its regions, and the handoff as it arrives.

#include <filesystem>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/userfaultfd.h"
#include "faulthandler/handoff_receiver.h"
#include "faulthandler/limits.h"
#include "faulthandler/regions.h"
#include "format/farewell.h"
#include "format/limits.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;

SnapshotSpec spec_of(std::uint64_t memory, std::vector<RegionShape> regions = {}) {
  return {.name = "s",
          .memory = {memory},
          .state = {},
          .regions = std::move(regions),
          .labels = {},
          .cpu_vendor = {}};
}
HandoffRegion region(std::uint64_t base, std::uint64_t size, std::uint64_t offset,
                     std::uint64_t page_size = kPageBytes) {
  return {{base}, {size}, {offset}, {page_size}};
}

std::vector<PageRange> ranges_in(const RegionTable& table, HostAddress start, ByteCount length) {
  std::vector<PageRange> ranges;
  table.for_each_range(start, length, [&](PageRange range) { ranges.push_back(range); });
  return ranges;
}

TEST(RegionTable, RefusalsByName) {
  const auto check = [](std::vector<HandoffRegion> regions) {
    return code_of(RegionTable::check(std::move(regions), spec_of(4 * kMiB)));
  };
  EXPECT_EQ(check({}), ErrorCode::kRegionMismatch);
  EXPECT_EQ(check({region(kMiB, 2 * kMiB, 0)}), ErrorCode::kRegionMismatch);
  EXPECT_EQ(check({region(kMiB, 8 * kMiB, 0)}), ErrorCode::kRegionMismatch);
  EXPECT_EQ(check({region(kMiB, 4 * kMiB, 4096)}), ErrorCode::kRegionMismatch);
  EXPECT_EQ(check({region(kMiB, 4 * kMiB, 0, 8192)}), ErrorCode::kRegionMismatch);
  EXPECT_EQ(check({region(~0ull - 4095, 4 * kMiB, 0)}), ErrorCode::kRegionMismatch);
  EXPECT_EQ(check({region(kMiB + 1, 4 * kMiB, 0)}), ErrorCode::kRegionUnaligned);
  EXPECT_EQ(check({region(kMiB, 4 * kMiB - 1, 0)}), ErrorCode::kRegionUnaligned);
  EXPECT_EQ(check({region(kMiB, 3 * kMiB, 0), region(8 * kMiB, 2 * kMiB, 2 * kMiB)}),
            ErrorCode::kRegionOverlap);
  EXPECT_EQ(check({region(kMiB, 2 * kMiB, 0), region(2 * kMiB, 2 * kMiB, 2 * kMiB)}),
            ErrorCode::kRegionOverlap);
  EXPECT_EQ(check({region(kMiB, 4 * kMiB, 0, kHugePageBytes)}), ErrorCode::kRegionUnaligned);
  EXPECT_EQ(
      check({region(2 * kMiB, 3 * kMiB, 0, kHugePageBytes), region(8 * kMiB, kMiB, 3 * kMiB)}),
      ErrorCode::kRegionUnaligned);
  EXPECT_EQ(check({region(kMiB, kMiB, 0), region(4 * kMiB, 3 * kMiB, kMiB, kHugePageBytes)}),
            ErrorCode::kRegionUnaligned);
}

TEST(RegionTable, RecordedLayoutHasToBeMet) {
  const std::vector<RegionShape> recorded{{{kMiB}, {0}, {kPageBytes}},
                                          {{3 * kMiB}, {kMiB}, {kPageBytes}}};
  const SnapshotSpec spec = spec_of(4 * kMiB, recorded);
  EXPECT_TRUE(succeeded(
      RegionTable::check({region(8 * kMiB, 3 * kMiB, kMiB), region(kMiB, kMiB, 0)}, spec)));
  EXPECT_EQ(code_of(RegionTable::check({region(kMiB, 4 * kMiB, 0)}, spec)),
            ErrorCode::kRegionMismatch);
  EXPECT_EQ(code_of(RegionTable::check(
                {region(8 * kMiB, 2 * kMiB, 2 * kMiB), region(kMiB, 2 * kMiB, 0)}, spec)),
            ErrorCode::kRegionMismatch);
}

TEST(RegionTable, RefusalNamesTheSizesOfBothSides) {
  SnapshotSpec spec = spec_of(4096 * kMiB);
  const std::vector<HandoffRegion> two{region(kMiB, 3328 * kMiB, 0),
                                       region(8192 * kMiB, 768 * kMiB, 3328 * kMiB)};
  EXPECT_TRUE(succeeded(RegionTable::check(two, spec)));
  spec.regions = {{{4096 * kMiB}, {0}, {kPageBytes}}};
  EXPECT_EQ(RegionTable::check(two, spec).error().context(),
            "the handoff has 2 regions, 3328 MiB + 768 MiB; the snapshot has 1 region of 4096 MiB");
  spec.regions.clear();
  spec.memory = {2048 * kMiB};
  EXPECT_TRUE(RegionTable::check(two, spec).error().context().starts_with(
      "the handoff has 2 regions, 3328 MiB + 768 MiB; the snapshot has 2048 MiB in any regions: "));
}

TEST(RegionTable, FindsPagesAtTheEdges) {
  const RegionTable table = *RegionTable::check(
      {region(16 * kMiB, kMiB, 0), region(kMiB, 3 * kMiB, kMiB)}, spec_of(4 * kMiB));
  EXPECT_EQ(table.page_at({16 * kMiB}), PageIndex{0});
  EXPECT_EQ(table.page_at({17 * kMiB - 1}), PageIndex{255});
  EXPECT_EQ(table.page_at({17 * kMiB}), std::nullopt);
  EXPECT_EQ(table.page_at({kMiB}), PageIndex{256});
  EXPECT_EQ(table.page_at({kMiB - 1}), std::nullopt);
  ASSERT_NE(table.find({1023}), nullptr);
  EXPECT_EQ(RegionTable::address_in(*table.find({1023}), {1023}),
            HostAddress{4 * kMiB - kPageBytes});
  EXPECT_EQ(table.find({1024}), nullptr);
  EXPECT_EQ(ranges_in(table, {0}, {64 * kMiB}),
            (std::vector<PageRange>{{{0}, {256}}, {{256}, {768}}}));
  EXPECT_EQ(ranges_in(table, {2 * kMiB}, {kPageBytes}), (std::vector<PageRange>{{{512}, {1}}}));
  EXPECT_TRUE(ranges_in(table, {8 * kMiB}, {kMiB}).empty());
}

TEST(RegionTable, FollowsMemoryThatMoves) {
  RegionTable table = *RegionTable::check({region(kMiB, 4 * kMiB, 0)}, spec_of(4 * kMiB));
  EXPECT_TRUE(table.move({2 * kMiB}, {32 * kMiB}, {kMiB}).empty());
  EXPECT_EQ(table.page_at({2 * kMiB}), std::nullopt);
  EXPECT_EQ(table.page_at({32 * kMiB}), PageIndex{256});
  EXPECT_EQ(table.page_at({kMiB}), PageIndex{0});
  EXPECT_EQ(table.page_at({3 * kMiB}), PageIndex{512});
  EXPECT_EQ(RegionTable::address_in(*table.find({300}), {300}),
            HostAddress{32 * kMiB + 44 * kPageBytes});
}

TEST(RegionTable, PiecesTrackWritesAsTheirRegionDoes) {
  HandoffRegion tracked = region(kMiB, 4 * kMiB, 0);
  EXPECT_FALSE(RegionTable::check({tracked}, spec_of(4 * kMiB))->tracks_writes());
  tracked.tracking = WriteTracking::kOn;
  RegionTable table = *RegionTable::check({tracked}, spec_of(4 * kMiB));
  EXPECT_TRUE(table.move({2 * kMiB}, {32 * kMiB}, {kMiB}).empty());
  EXPECT_TRUE(table.tracks_writes());
  for (const std::uint64_t page : {0u, 256u, 512u}) {
    EXPECT_EQ(table.find({page})->tracking, WriteTracking::kOn);
  }
}

TEST(RegionTable, MemoryThatIsMovedOverIsLost) {
  RegionTable table = *RegionTable::check({region(kMiB, 4 * kMiB, 0)}, spec_of(4 * kMiB));
  EXPECT_EQ(table.move({kMiB}, {3 * kMiB}, {kMiB}), (std::vector<PageRange>{{{512}, {256}}}));
  EXPECT_EQ(table.page_at({3 * kMiB}), PageIndex{0});
  EXPECT_EQ(table.find({512}), nullptr);
  EXPECT_EQ(table.find({767}), nullptr);
  EXPECT_NE(table.find({768}), nullptr);
}

TEST(RegionTable, MemoryThatIsNotTheGuestsMayMoveToo) {
  RegionTable table = *RegionTable::check({region(kMiB, 4 * kMiB, 0)}, spec_of(4 * kMiB));
  EXPECT_TRUE(table.move({64 * kMiB}, {128 * kMiB}, {kMiB}).empty());
  EXPECT_EQ(table.find({0})->size, ByteCount{4 * kMiB});
}

TEST(RegionTable, RefusesToBeCutWithoutEnd) {
  constexpr std::uint64_t kSize = 2 * limits::kMaxRegionPieces * kPageBytes;
  RegionTable table = *RegionTable::check({region(kMiB, kSize, 0)}, spec_of(kSize));
  std::optional<ErrorCode> code;
  std::uint64_t moves = 0;
  for (; !code && moves < limits::kMaxRegionPieces; ++moves) {
    table.move({kMiB + 2 * moves * kPageBytes}, {(1ull << 40) + 2 * moves * kPageBytes},
               {kPageBytes});
    code = code_of(table.check_pieces());
  }
  EXPECT_EQ(code, ErrorCode::kLimitExceeded);
  EXPECT_GE(moves, limits::kMaxRegionPieces / 2);
}

class HandoffReceiverTest : public testing::Test {
 protected:
  HandoffReceiverTest() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    vmm_ = UniqueFd(ends[0]);
    handler_ = UniqueFd(ends[1]);
    uffd_ = create_userfaultfd().value();
  }
  void send(std::string_view text, std::vector<int> descriptors = {}) {
    ASSERT_TRUE(succeeded(send_with_descriptors(vmm_, as_bytes(text), descriptors,
                                                Deadline::after(std::chrono::seconds(5)))));
  }
  std::optional<ErrorCode> refusal(std::string_view text, std::vector<int> descriptors) {
    send(text, std::move(descriptors));
    HandoffReceiver receiver;
    return code_of(receiver.receive(handler_));
  }

  const std::string text_ = encode_handoff({region(kMiB, kMiB, 0), region(4 * kMiB, kMiB, kMiB)});
  UniqueFd vmm_;
  UniqueFd handler_;
  UniqueFd uffd_;
};

TEST_F(HandoffReceiverTest, TakesOneMessage) {
  send(text_, {uffd_.get()});
  HandoffReceiver receiver;
  const auto handoff = receiver.receive(handler_);
  ASSERT_TRUE(succeeded(handoff));
  ASSERT_TRUE(handoff->has_value());
  EXPECT_EQ((*handoff)->text, text_);
  EXPECT_TRUE((*handoff)->userfaultfd.valid());
}

TEST_F(HandoffReceiverTest, TakesManySegmentsWithTheDescriptorInAnyOfThem) {
  for (const std::size_t with_descriptor : {std::size_t{0}, text_.size() / 2, text_.size() - 1}) {
    HandoffReceiver receiver;
    for (std::size_t i = 0; i < text_.size(); ++i) {
      send(text_.substr(i, 1),
           i == with_descriptor ? std::vector<int>{uffd_.get()} : std::vector<int>{});
      const auto handoff = receiver.receive(handler_);
      ASSERT_TRUE(succeeded(handoff));
      ASSERT_EQ(handoff->has_value(), i + 1 == text_.size());
    }
  }
}

TEST_F(HandoffReceiverTest, TakesAFarewellWithTheHandoffAndNotInTheMidstOfIt) {
  const std::string farewell(1, static_cast<char>(kFarewell));
  const auto left = [&](const std::string& text) {
    send(text, {uffd_.get()});
    HandoffReceiver receiver;
    return receiver.receive(handler_).value().value().left;
  };
  EXPECT_FALSE(left(text_));
  EXPECT_TRUE(left(text_ + farewell));
  EXPECT_EQ(refusal(text_.substr(0, 9) + farewell, {uffd_.get()}), ErrorCode::kMalformed);
}

TEST_F(HandoffReceiverTest, TakesUserfaultfdAndMemfd) {
  const UniqueFd other(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  send(text_, {uffd_.get(), other.get()});
  HandoffReceiver receiver;
  EXPECT_TRUE(succeeded(receiver.receive(handler_)));
  send(text_, {other.get(), uffd_.get()});
  HandoffReceiver swapped;
  const auto handoff = swapped.receive(handler_).value().value();
  EXPECT_TRUE(succeeded(check_userfaultfd(handoff.userfaultfd)));
}

TEST_F(HandoffReceiverTest, KeepsEachUserfaultfdOfAHandoffThatHasTwo) {
  const UniqueFd second = create_userfaultfd().value();
  send(text_, {uffd_.get(), second.get()});
  HandoffReceiver receiver;
  EXPECT_EQ(code_of(receiver.receive(handler_)), ErrorCode::kSurplusDescriptor);
  EXPECT_EQ(receiver.take_userfaultfds().size(), 2u) << "closing one could show its VM zeros";
}

TEST_F(HandoffReceiverTest, TakesNoPidfdOfAProcessThatItCouldKill) {
  const UniqueFd own = own_pidfd().value();
  send(text_, {uffd_.get(), own.get()});
  HandoffReceiver receiver;
  EXPECT_FALSE(receiver.receive(handler_).value().value().pidfd.valid());
}

TEST_F(HandoffReceiverTest, RefusalsByName) {
  const UniqueFd other(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
  const int wrong = other.get();
  EXPECT_EQ(refusal(text_, {}), ErrorCode::kNoDescriptor);
  EXPECT_EQ(refusal(text_, {wrong}), ErrorCode::kNotUserfaultfd);
  EXPECT_EQ(refusal(text_, {wrong, wrong, wrong}), ErrorCode::kSurplusDescriptor);
  EXPECT_EQ(refusal(text_, std::vector<int>(16, wrong)), ErrorCode::kSurplusDescriptor);
  EXPECT_EQ(refusal("nonsense", {uffd_.get()}), ErrorCode::kMalformed);
}

TEST_F(HandoffReceiverTest, CutOffOrEndlessHandoffIsRefused) {
  HandoffReceiver cut;
  send("[{", {uffd_.get()});
  EXPECT_TRUE(succeeded(cut.receive(handler_)));
  vmm_.reset();
  EXPECT_EQ(code_of(cut.receive(handler_)), ErrorCode::kTruncated);
  EXPECT_EQ(cut.take_userfaultfds().size(), 1u) << "the peer has memory that waits for pages";
}

TEST_F(HandoffReceiverTest, HandoffWithoutEndIsTooLarge) {
  HandoffReceiver receiver;
  const std::string piece(16384, '[');
  std::optional<ErrorCode> code;
  for (std::size_t sent = 0; !code && sent < 2 * limits::kMaxHandoffBytes; sent += piece.size()) {
    send(piece);
    code = code_of(receiver.receive(handler_));
  }
  EXPECT_EQ(code, ErrorCode::kTooLarge);
}

TEST_F(HandoffReceiverTest, LeaksNoDescriptor) {
  const auto count = [] {
    const std::filesystem::directory_iterator list("/proc/self/fd");
    return std::distance(begin(list), end(list));
  };
  const auto before = count();
  for (int i = 0; i < 20; ++i) {
    refusal(text_, {uffd_.get(), uffd_.get(), uffd_.get()});
    refusal("nonsense", {uffd_.get()});
  }
  EXPECT_EQ(count(), before);
}

}  // namespace
}  // namespace thaw::test
