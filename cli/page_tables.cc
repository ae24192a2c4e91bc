#include "cli/page_tables.h"

#include <algorithm>
#include <array>

#include "base/bytes.h"

namespace thaw {

namespace {

constexpr std::uint64_t k4GiB = std::uint64_t{4} << 30;
/// Less than this lies below the devices as a whole. QEMU's q35 is the first to split it.
constexpr std::uint64_t kFirstSplit = 0xb000'0000;

// An entry of a page table: Intel's manual, volume 3, 4.5.
constexpr std::uint64_t kPresent = 1u << 0;
constexpr std::uint64_t kIsLarge = 1u << 7;          // above level 1
constexpr std::uint64_t kLargeAttribute = 1u << 12;  // of a large page: no bit of its address
constexpr std::uint64_t kAddress = 0x000f'ffff'ffff'f000;
constexpr std::size_t kEntries = kPageBytes / 8;
constexpr unsigned kLargestPageLevel = 3;  // 1 GiB

/// What an entry of a table at this level maps: 4 KiB at level 1, and 512 times as much at each
/// further one.
constexpr std::uint64_t bytes_at(unsigned level) { return kPageBytes << (9 * (level - 1)); }

class Walk {
 public:
  Walk(const PhysicalLayout& layout, const PageReader& read)
      : layout_(layout), read_(read), marks_(pages_for(layout.memory).value) {}

  Result<void> visit_table(std::uint64_t address, unsigned level) {
    const auto page = layout_.page_at(address);
    if (!page || !mark(*page, kTable << level)) return {};
    mark(*page, kReached);
    std::array<std::byte, kPageBytes> table;
    TRY(read_(*page, table));
    for (std::size_t i = 0; i < kEntries; ++i) {
      const auto entry = load_le<std::uint64_t>(table.data() + i * 8);
      if ((entry & kPresent) != 0) TRY(visit_entry(entry, level));
    }
    return {};
  }

  ColdMap unreached() const {
    ColdMap cold;
    for (std::size_t i = 0; i < marks_.size(); ++i) {
      if ((marks_[i] & kReached) != 0) continue;
      if (cold.empty() || (cold.back().first + cold.back().count).value != i) {
        cold.push_back({{i}, {0}});
      }
      cold.back().count += PageCount{1};
    }
    return cold;
  }

 private:
  // Marks of a page. kTable and kMapped are shifted by the level at which it was visited.
  static constexpr unsigned kReached = 1u << 0;
  static constexpr unsigned kTable = 1u << 0;   // levels 1 to 5
  static constexpr unsigned kMapped = 1u << 4;  // levels 2 and 3: a large page begins here

  /// False when it was marked already.
  bool mark(PageIndex page, unsigned what) {
    std::uint8_t& marks = marks_[page.value];
    if ((marks & what) != 0) return false;
    marks |= static_cast<std::uint8_t>(what);
    return true;
  }

  Result<void> visit_entry(std::uint64_t entry, unsigned level) {
    const std::uint64_t address = entry & kAddress;
    if (level == 1) {
      if (const auto page = layout_.page_at(address)) mark(*page, kReached);
      return {};
    }
    if ((entry & kIsLarge) == 0) return visit_table(address, level - 1);
    if (level <= kLargestPageLevel) visit_large_page(address & ~kLargeAttribute, level);
    return {};
  }

  void visit_large_page(std::uint64_t address, unsigned level) {
    const std::uint64_t size = bytes_at(level);
    if (address % size != 0) return;
    // Memory begins at multiples of its size: without its first page, nothing of it is there.
    const auto first = layout_.page_at(address);
    if (!first || !mark(*first, kMapped << level)) return;
    for (std::uint64_t offset = 0; offset < size; offset += kPageBytes) {
      const auto page = layout_.page_at(address + offset);
      if (!page) return;
      mark(*page, kReached);
    }
  }

  const PhysicalLayout& layout_;
  const PageReader& read_;
  std::vector<std::uint8_t> marks_;  // by page of memory
};

}  // namespace

std::optional<PageIndex> PhysicalLayout::page_at(std::uint64_t address) const {
  if (address < below_4g.value) return page_of({address});
  if (address < k4GiB || address - k4GiB >= (memory - below_4g).value) return std::nullopt;
  return page_of({address - k4GiB + below_4g.value});
}

Result<PhysicalLayout> physical_layout(const SnapshotSpec& spec, ByteCount low_memory) {
  ByteCount low = low_memory;
  if (low.value == 0) low = spec.regions.size() > 1 ? spec.regions.front().size : spec.memory;
  const bool is_said = low_memory.value != 0 || spec.regions.size() > 1;
  if (!is_said && low.value >= kFirstSplit) {
    return fail(ErrorCode::kInvalidArgument,
                "how much of {} bytes lies below 4 GiB depends on the VMM, and is to be said",
                low.value);
  }
  if (low.value > std::min(k4GiB, spec.memory.value) || low.value % kPageBytes != 0) {
    return fail(ErrorCode::kInvalidArgument, "{} of {} bytes of memory do not lie below 4 GiB",
                low.value, spec.memory.value);
  }
  return PhysicalLayout{low, spec.memory};
}

Result<ColdMap> find_cold_pages(const PhysicalLayout& layout, const Paging& paging,
                                const PageReader& read) {
  Walk walk(layout, read);
  for (const std::uint64_t cr3 : paging.cr3s) {
    const std::uint64_t root = cr3 & kAddress;
    if (!layout.page_at(root)) {
      return fail(ErrorCode::kInvalidArgument, "CR3 {:#x} points to no guest memory", cr3);
    }
    TRY(walk.visit_table(root, paging.levels));
  }
  return walk.unreached();
}

}  // namespace thaw
