#include "faulthandler/memory_record.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/check.h"
#include "base/file.h"
#include "base/memory_file.h"
#include "faulthandler/limits.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr std::array<char, 8> kMagic{'T', 'H', 'A', 'W', 'M', 'R', 'E', 'C'};

bool is_known(PageState state) { return state <= PageState::kRemoved; }

}  // namespace

/// The file begins with this; the request follows, and from the next page on the states.
struct MemoryRecord::Head {
  struct KeptRegion {
    std::uint64_t base;
    std::uint64_t size;
    std::uint64_t offset;
    std::uint32_t page_size;
    std::uint32_t tracks_writes;
  };
  struct KeptRegions {
    std::uint64_t batch;  // of the journal, after which they were these
    std::uint64_t count;
    std::array<KeptRegion, limits::kMaxRegionPieces> regions;
  };

  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t request_bytes;
  std::uint64_t pages;
  std::uint32_t current;  // of `regions`
  std::uint32_t detached;
  std::uint64_t outages;
  std::uint64_t outage_ns;
  std::array<KeptRegions, 2> regions;
  EventJournal journal;

  static ByteCount states_offset(std::uint64_t request_bytes) {
    return bytes_of(pages_for({sizeof(Head) + request_bytes}));
  }
};

MemoryRecord::Head& MemoryRecord::head() const {
  // SAFETY: the mapping is page-aligned, at least as large as a Head, and holds nothing else there.
  return *reinterpret_cast<Head*>(mapping_.bytes().data());
}

Result<MemoryRecord> MemoryRecord::create(std::string_view request, PageCount pages) {
  CHECK(request.size() <= limits::kMaxControlBytes && pages.value <= limits::kMaxImagePages);
  const ByteCount size = Head::states_offset(request.size()) + ByteCount{pages.value};
  UniqueFd file = TRY(create_memory_file("thaw-record", size));
  Mapping mapping = TRY(Mapping::shared(file, size));
  MemoryRecord record(std::move(file), std::move(mapping));
  Head& head = record.head();
  head.version = kRecordVersion;
  head.request_bytes = static_cast<std::uint32_t>(request.size());
  head.pages = pages.value;
  std::ranges::copy(as_bytes(request), record.mapping_.bytes().begin() + sizeof(Head));
  head.magic = kMagic;
  return record;
}

Result<MemoryRecord> MemoryRecord::look_at(UniqueFd file) {
  const ByteCount size = TRY(file_size(file));
  if (size.value < sizeof(Head)) return fail(ErrorCode::kTruncated, "no record of served memory");
  Mapping mapping = TRY(Mapping::shared(file, size));
  MemoryRecord record(std::move(file), std::move(mapping));
  const Head& head = record.head();
  if (head.magic != kMagic) return fail(ErrorCode::kBadMagic, "no record of served memory");
  if (head.version != kRecordVersion) {
    return fail(ErrorCode::kBadVersion, "a record of version {}", head.version);
  }
  if (head.request_bytes > limits::kMaxControlBytes || head.pages > limits::kMaxImagePages ||
      size != Head::states_offset(head.request_bytes) + ByteCount{head.pages} || head.current > 1 ||
      head.regions[head.current].count > limits::kMaxRegionPieces) {
    return fail(ErrorCode::kMalformed, "a record of served memory that contradicts itself");
  }
  return record;
}

Result<MemoryRecord> MemoryRecord::open(UniqueFd file) {
  MemoryRecord record = TRY(look_at(std::move(file)));
  for (PageState& state : record.states()) {
    if (!is_known(state)) return fail(ErrorCode::kMalformed, "a page in no known state");
    // Who brought it is dead; if it is there already, bringing it again does no harm.
    if (state != PageState::kPresent && state != PageState::kRemoved) state = PageState::kMissing;
  }
  return record;
}

std::string_view MemoryRecord::request() const {
  return as_text(mapping_.bytes().subspan(sizeof(Head), head().request_bytes));
}

std::span<PageState> MemoryRecord::states() const {
  const MutableByteSpan bytes =
      mapping_.bytes().subspan(Head::states_offset(head().request_bytes).value);
  // SAFETY: a PageState is a byte, and the mapping has one for each page.
  return {reinterpret_cast<PageState*>(bytes.data()), head().pages};
}

EventJournal& MemoryRecord::journal() const { return head().journal; }

void MemoryRecord::keep(std::span<const HandoffRegion> regions) {
  CHECK(regions.size() <= limits::kMaxRegionPieces);
  Head& kept = head();
  const std::uint32_t next = 1 - kept.current;
  Head::KeptRegions& room = kept.regions[next];
  room.batch = kept.journal.batch;
  room.count = regions.size();
  std::ranges::transform(regions, room.regions.begin(), [](const HandoffRegion& region) {
    return Head::KeptRegion{region.base.value, region.size.value, region.offset.value,
                            static_cast<std::uint32_t>(region.page_size.value),
                            region.tracking == WriteTracking::kOn ? 1u : 0u};
  });
  // They count from here on, all at once.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  kept.current = next;
}

std::vector<HandoffRegion> MemoryRecord::regions() const {
  const Head::KeptRegions& kept = head().regions[head().current];
  std::vector<HandoffRegion> regions;
  for (const Head::KeptRegion& region : std::span(kept.regions).first(kept.count)) {
    regions.push_back({{region.base},
                       {region.size},
                       {region.offset},
                       {region.page_size},
                       region.tracks_writes != 0 ? WriteTracking::kOn : WriteTracking::kOff});
  }
  return regions;
}

bool MemoryRecord::regions_are_of_batch() const {
  return head().regions[head().current].batch == head().journal.batch;
}

void MemoryRecord::note_outage(Nanoseconds time, OutageCause cause) {
  if (cause == OutageCause::kDeath) ++head().outages;
  head().outage_ns += static_cast<std::uint64_t>(time.count());
}
MemoryRecord::Outages MemoryRecord::outages() const {
  return {head().outages, Nanoseconds(head().outage_ns)};
}

void MemoryRecord::set_detached() { head().detached = 1; }
bool MemoryRecord::detached() const { return head().detached != 0; }

}  // namespace thaw
