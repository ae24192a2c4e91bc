#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/types.h"
#include "format/cold_map.h"
#include "format/manifest.h"

namespace thaw {

/// Where guest memory lies in the guest's physical addresses: its first part from 0 on, the rest
/// from 4 GiB on without a gap.
struct PhysicalLayout {
  ByteCount below_4g;
  ByteCount memory;

  /// The page of the image that holds this address; nothing when there is no memory.
  std::optional<PageIndex> page_at(std::uint64_t address) const;
};

/// The layout with `low_memory` below 4 GiB. 0 means: the first of several regions is what lies
/// there, one region alone is. kInvalidArgument when that is more than 4 GiB or than there is, or
/// when it is not said and VMMs differ: one region of 2.75 GiB or more.
Result<PhysicalLayout> physical_layout(const SnapshotSpec& spec, ByteCount low_memory);

/// The paging of an x86-64 guest.
struct Paging {
  std::vector<std::uint64_t> cr3s;  // of all vCPUs or address spaces
  unsigned levels = 4;              // 5 with LA57
};

using PageReader = std::function<Result<void>(PageIndex, std::span<std::byte, kPageBytes>)>;

/// The pages of memory that are neither mapped by a page table nor one. An entry that no CPU would
/// follow (not present, reserved bits) and memory that is not there are passed over. What `read`
/// gives may be hostile: each page is read at most once a level. kInvalidArgument when a CR3
/// points to no memory.
Result<ColdMap> find_cold_pages(const PhysicalLayout& layout, const Paging& paging,
                                const PageReader& read);

}  // namespace thaw
