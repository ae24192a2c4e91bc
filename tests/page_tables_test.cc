// Which pages the page tables of an x86-64 guest reach.

#include "cli/page_tables.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr std::uint64_t kPresent = 1;
constexpr std::uint64_t kLarge = 1u << 7;
constexpr std::uint64_t k2MiB = 2u << 20;
constexpr std::uint64_t k1GiB = 1u << 30;
constexpr std::uint64_t k4GiB = 4 * k1GiB;

/// Guest memory that is zero but for its page tables.
class PageTablesTest : public testing::Test {
 protected:
  using Table = std::array<std::uint64_t, 512>;

  /// An entry of the table in this page of the image.
  void set(std::uint64_t table, std::size_t entry, std::uint64_t value) {
    tables_[table].at(entry) = value;
  }
  /// Tables in the pages 1 to `levels`, each the first entry of the one before it.
  void chain(unsigned levels) {
    for (unsigned i = 1; i < levels; ++i) set(i, 0, (i + 1) * kPageBytes | kPresent);
  }
  Result<ColdMap> walk(const Paging& paging) {
    return find_cold_pages(layout_, paging,
                           [this](PageIndex page, std::span<std::byte, kPageBytes> to) {
                             ++reads_[page.value];
                             const auto table = tables_.find(page.value);
                             std::ranges::fill(to, std::byte{0});
                             if (table != tables_.end())
                               std::memcpy(to.data(), table->second.data(), to.size());
                             return Result<void>();
                           });
  }
  /// The pages that a walk from page 1 reaches, as ranges.
  ColdMap reached(unsigned levels = 4) {
    const auto cold = walk({{kPageBytes}, levels});
    EXPECT_TRUE(succeeded(cold));
    ColdMap reached;
    PageIndex next;
    for (const PageRange& range : *cold) {
      if (range.first > next) reached.push_back({next, range.first - next});
      next = range.first + range.count;
    }
    const PageIndex end{pages_for(layout_.memory).value};
    if (next < end) reached.push_back({next, end - next});
    return reached;
  }
  void lay_out(std::uint64_t below_4g, std::uint64_t memory) { layout_ = {{below_4g}, {memory}}; }

  PhysicalLayout layout_{{1u << 30}, {1u << 30}};
  std::map<std::uint64_t, Table> tables_;       // by page
  std::map<std::uint64_t, std::size_t> reads_;  // of each page
};

TEST_F(PageTablesTest, MappedPagesAndTheTablesAreReached) {
  chain(4);
  set(4, 7, 100 * kPageBytes | kPresent);
  set(4, 8, (std::uint64_t{1} << 63 | 103 * kPageBytes) | kPresent | 0xfe);
  set(4, 9, 200 * kPageBytes);  // not present
  EXPECT_EQ(reached(), (ColdMap{{{1}, {4}}, {{100}, {1}}, {{103}, {1}}}));
}

TEST_F(PageTablesTest, PagesOf2MiBAnd1GiBAreReachedAsAWhole) {
  lay_out(3 * k1GiB, 3 * k1GiB);
  chain(3);
  set(3, 9, 6 * k2MiB | 1u << 12 | kLarge | kPresent);
  set(2, 5, 2 * k1GiB | kLarge | kPresent);
  EXPECT_EQ(reached(), (ColdMap{{{1}, {3}}, {{3072}, {512}}, {{524288}, {262144}}}));
}

TEST_F(PageTablesTest, FiveLevelsAreWalked) {
  chain(5);
  set(5, 0, 100 * kPageBytes | kPresent);
  EXPECT_EQ(reached(5), (ColdMap{{{1}, {5}}, {{100}, {1}}}));
  // With four, the fifth is a mapped page.
  EXPECT_EQ(reached(4), (ColdMap{{{1}, {5}}}));
}

TEST_F(PageTablesTest, MemoryAbove4GiBFollowsThatBelowIt) {
  lay_out(3 * k1GiB, 3 * k1GiB + 4 * k2MiB);
  chain(4);
  const std::uint64_t above = 3 * k1GiB / kPageBytes;
  set(4, 0, (k4GiB + 5 * kPageBytes) | kPresent);
  set(4, 1, (k4GiB - kPageBytes) | kPresent);  // in the hole
  set(4, 2, (k4GiB + 4 * k2MiB) | kPresent);   // behind the memory
  set(4, 3, 0x000f'ffff'ffff'f000 | kPresent);
  set(3, 2, (k4GiB + 3 * k2MiB) | kLarge | kPresent);
  set(3, 3, (k4GiB + 4 * k2MiB) | kLarge | kPresent);
  set(3, 4, (k4GiB - k2MiB) | kLarge | kPresent);
  EXPECT_EQ(reached(), (ColdMap{{{1}, {4}}, {{above + 5}, {1}}, {{above + 1536}, {512}}}));
  // As far as there is memory.
  set(2, 1, k4GiB | kLarge | kPresent);
  EXPECT_EQ(reached(), (ColdMap{{{1}, {4}}, {{above}, {2048}}}));
}

TEST_F(PageTablesTest, SeveralRootsAreUnited) {
  chain(4);
  set(4, 0, 100 * kPageBytes | kPresent);
  set(9, 3, 2 * kPageBytes | kPresent);  // shares what is below
  set(9, 4, 10 * kPageBytes | kPresent);
  const auto cold = walk({{kPageBytes | 0xfff, std::uint64_t{1} << 63 | 9 * kPageBytes}, 4});
  ASSERT_TRUE(succeeded(cold));
  const std::uint64_t end = pages_for(layout_.memory).value;
  EXPECT_EQ(*cold, (ColdMap{{{0}, {1}}, {{5}, {4}}, {{11}, {89}}, {{101}, {end - 101}}}));
  EXPECT_EQ(reads_[2], 1u);
}

TEST_F(PageTablesTest, EntriesThatNoCpuFollowsReachNothing) {
  chain(4);
  set(1, 1, 2 * kPageBytes | kLarge | kPresent);  // no pages of 512 GiB
  set(2, 1, (k1GiB / 2) | kLarge | kPresent);     // reserved bits of the address
  set(3, 1, (k2MiB + 2 * kPageBytes) | kLarge | kPresent);
  EXPECT_EQ(reached(), (ColdMap{{{1}, {4}}}));
}

TEST_F(PageTablesTest, TableThatLeadsToItselfIsReadOnceALevel) {
  for (std::size_t i = 0; i < 512; ++i) set(1, i, kPageBytes | kPresent);
  EXPECT_EQ(reached(5), (ColdMap{{{1}, {1}}}));
  EXPECT_EQ(reads_[1], 5u);
}

TEST_F(PageTablesTest, TablesFullOfAliasesTakeNoLonger) {
  // Without marks this would be 512^3 tables, or 512^2 pages of 1 GiB.
  lay_out(2 * k1GiB, 2 * k1GiB);
  for (std::size_t i = 0; i < 512; ++i) {
    set(1, i, (2 + i % 4) * kPageBytes | kPresent);
    for (std::uint64_t table = 2; table < 6; ++table) {
      set(table, i, i % 2 == 0 ? (2 + i % 4) * kPageBytes | kPresent : k1GiB | kLarge | kPresent);
    }
  }
  const ColdMap all = reached();
  EXPECT_EQ(all.back(), (PageRange{{262144}, {262144}}));
  for (const auto& [page, reads] : reads_) EXPECT_LE(reads, 4u) << page;
}

TEST_F(PageTablesTest, RandomTablesAreReadAtMostOnceALevel) {
  auto generator = seeded_generator();
  lay_out(64 * kPageBytes, 96 * kPageBytes);
  for (std::uint64_t table = 0; table < 96; ++table) {
    for (std::size_t i = 0; i < 512; ++i) {
      std::uint64_t address = pick(generator, 80) * kPageBytes;
      if (pick(generator, 4) == 0) address += k4GiB;
      set(table, i, address | (generator() & 0xfff) | (generator() << 52));
    }
  }
  const auto cold = walk({{kPageBytes, k4GiB + 3 * kPageBytes}, 5});
  ASSERT_TRUE(succeeded(cold));
  for (const auto& [page, reads] : reads_) EXPECT_LE(reads, 5u) << page;
}

TEST_F(PageTablesTest, RootOutsideMemoryAndFailedReadsAreErrors) {
  EXPECT_EQ(code_of(walk({{k1GiB}, 4})), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(walk({{kPageBytes, 0x000f'ffff'ffff'f000}, 4})), ErrorCode::kInvalidArgument);
  const auto broken = [](PageIndex, std::span<std::byte, kPageBytes>) -> Result<void> {
    return fail(ErrorCode::kTruncated, "no more of it");
  };
  EXPECT_EQ(code_of(find_cold_pages(layout_, {{kPageBytes}, 4}, broken)), ErrorCode::kTruncated);
}

TEST(PhysicalLayout, FirstOfSeveralRegionsLiesBelow4GiB) {
  SnapshotSpec spec;
  spec.memory = {6 * k1GiB};
  EXPECT_EQ(code_of(physical_layout(spec, {})), ErrorCode::kInvalidArgument);
  EXPECT_EQ(physical_layout(spec, {2 * k1GiB})->below_4g, ByteCount{2 * k1GiB});
  EXPECT_EQ(code_of(physical_layout(spec, {5 * k1GiB})), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(physical_layout(spec, {4097})), ErrorCode::kInvalidArgument);
  spec.regions = {{{3 * k1GiB}, {0}, {kPageBytes}}, {{3 * k1GiB}, {3 * k1GiB}, {kPageBytes}}};
  EXPECT_EQ(physical_layout(spec, {})->below_4g, ByteCount{3 * k1GiB});
  spec.regions.clear();
  spec.memory = {2 * k1GiB};
  EXPECT_EQ(physical_layout(spec, {})->below_4g, spec.memory);
  EXPECT_EQ(code_of(physical_layout(spec, {3 * k1GiB})), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace thaw::test
