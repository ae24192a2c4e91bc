#pragma once

#include <cstdint>
#include <vector>

#include "base/types.h"
#include "format/control.h"
#include "format/page_map.h"

namespace thaw {

/// What is known of one page of guest memory.
enum class PageState : std::uint8_t {
  kMissing,  // as the kernel sees it at the start
  kWanted,   // a vCPU waits, its chunk is asked for or about to be
  kPresent,  // was filled
  kRemoved,  // the guest gave it back: zero at every later fault, never the snapshot's content
};

/// What each page of a session is and what a fault on it needs: the rules, without system calls.
///
/// kRemoved is for good. A REMOVE is delivered before the pages go, so a zero page that is put in
/// right after may be taken away once more and fault again; only the kernel knows. One thread.
class FaultCore {
 public:
  /// `map` must outlive the core. Pages from `memory` on are not guest memory.
  FaultCore(const PageMap& map, PageCount memory)
      : map_(map), states_(memory.value, PageState::kMissing) {}

  enum class Need {
    kFetch,  // ask for its chunk
    kZero,   // fill with zeros
    kWake,   // it is there: let the vCPU look again
    kWait,   // already asked for
  };
  /// A vCPU faulted. REQUIRES: page is guest memory.
  Need on_fault(PageIndex page);
  /// The guest gave pages back (REMOVE, UNMAP).
  void on_remove(PageIndex first, PageCount count);
  /// Whether bytes that have arrived for the page may still enter the guest; else it gets zeros.
  bool takes_content(PageIndex page) const { return state(page) != PageState::kRemoved; }
  /// The page was filled, or found to be present.
  void on_filled(PageIndex page);

  PageState state(PageIndex page) const { return states_[page.value]; }
  ChunkId chunk_of(PageIndex page) const { return map_.chunk_of(page); }
  const FaultCounters& faults() const { return faults_; }
  std::uint64_t present_pages() const { return present_pages_; }
  std::uint64_t removed_pages() const { return removed_pages_; }

 private:
  const PageMap& map_;
  std::vector<PageState> states_;
  FaultCounters faults_;
  std::uint64_t present_pages_ = 0;
  std::uint64_t removed_pages_ = 0;
};

}  // namespace thaw
