#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "base/types.h"
#include "faulthandler/around_window.h"
#include "faulthandler/limits.h"
#include "faulthandler/page_state.h"
#include "format/control.h"
#include "format/page_map.h"

namespace thaw {

/// Whether pages that are zero in the snapshot are meant.
enum class ZeroPages : std::uint8_t { kToo, kNot };

/// What each page of a session is and what a fault on it needs: the rules, without system calls.
///
/// kRemoved is for good. A REMOVE is delivered before the pages go, so a zero page that is put in
/// right after may be taken away once more and fault again; only the kernel knows. One thread.
class FaultCore {
 public:
  /// `map` and `states` must outlive the core, which goes on from those: they are of the pages of
  /// guest memory. `around` is the largest fault-around window in pages, a power of two.
  FaultCore(const PageMap& map, std::span<PageState> states, std::uint32_t around);

  enum class Need {
    kFetch,  // ask for its chunk
    kZero,   // fill with zeros
    kWake,   // it is there: let the vCPU look again
    kWait,   // already asked for
    kHurry,  // on its way, and this is the first who waits for it
  };
  /// A vCPU faulted on pages that are filled as one: a page of 4 KiB or the 512 of a huge page.
  /// kZero when all of them are zero. REQUIRES: they are guest memory.
  Need on_fault(PageRange unit);
  /// The guest gave pages back (REMOVE, UNMAP). True when a vCPU waits for one of them.
  bool on_remove(PageIndex first, PageCount count);
  /// Whether bytes that have arrived for the page may still enter the guest; else it gets zeros.
  bool takes_content(PageIndex page) const { return state(page) != PageState::kRemoved; }
  /// The page was filled, or found to be present.
  void on_filled(PageIndex page);

  /// There is no memory for the pages any more, unannounced. If there is again, a fault on one of
  /// them asks anew.
  void on_gone(PageRange unit);

  /// The pages that ride along with a demanded one: its missing neighbours in the same run of chunk
  /// ids, within the window and `region`, without a gap but for one that is left out. Marks them
  /// and hands each to `ride`, at most `most` of them.
  template <typename Ride>
  void around(PageIndex page, PageRange region, std::size_t most, Ride ride) {
    const PageRange near = neighbourhood(page, region);
    for (std::uint64_t i = near.first.value; most > 0 && i < near.first.value + near.count.value;
         ++i) {
      if (states_[i] != PageState::kMissing) continue;
      states_[i] = PageState::kComing;
      ride(PageIndex{i});
      --most;
    }
  }
  /// The page is on its way in a pack, if it was missing.
  void on_coming(PageIndex page);
  bool is_missing(PageIndex page) const {
    return state(page) == PageState::kMissing || state(page) == PageState::kProbe;
  }
  /// On its way, whether somebody waits for it or not.
  bool is_awaited(PageIndex page) const {
    return state(page) == PageState::kComing || state(page) == PageState::kWanted;
  }
  /// Whether every page is present or was removed. Looks at each.
  bool all_accounted(ZeroPages zeros) const;
  /// The page that was coming did not. True when a vCPU waits for it by now: ask for it again.
  bool on_left_out(PageIndex page);

  /// The missing zero pages around one that is filled with zeros, itself included, when a page
  /// beside it was filled before: the next ones will be asked for soon. Within `region`.
  PageRange zeros_around(PageIndex page, PageRange region) const;

  PageCount page_count() const { return {states_.size()}; }
  PageState state(PageIndex page) const { return states_[page.value]; }
  ChunkId chunk_of(PageIndex page) const { return run_of(page).chunk_of(page); }
  const FaultCounters& faults() const { return faults_; }
  const AroundWindow& window() const { return window_; }
  std::uint64_t present_pages() const { return present_pages_; }
  /// Guest memory that is not there: those pages that were given back may be wanted again.
  ByteCount missing() const { return bytes_of(page_count() - PageCount{present_pages_}); }
  std::uint64_t removed_pages() const { return removed_pages_; }

 private:
  /// The run that holds the page: more often than not the one that was found last.
  const PageMap::Run& run_of(PageIndex page) const {
    if (page < run_.first || page >= run_.end()) run_ = map_.whole_run(page);
    return run_;
  }
  /// The pages around `page` in the same run, region and block of `block` pages that are missing
  /// one beside the other, itself included.
  PageRange missing_around(PageIndex page, PageRange region, std::uint64_t block) const;
  PageRange neighbourhood(PageIndex page, PageRange region);
  void leave_one_out(PageIndex page, PageRange from);
  /// A page that was left out, and what became of it.
  struct Probe {
    enum class Fate : std::uint8_t { kOpen, kAskedFor, kWithdrawn };
    PageIndex page;
    Fate fate = Fate::kOpen;
  };
  /// The page is about to be in another state.
  void leave_state(PageIndex page, Probe::Fate fate);

  const PageMap& map_;
  mutable PageMap::Run run_{};  // that was found last
  const std::span<PageState> states_;
  AroundWindow window_;
  std::array<Probe, limits::kMaxProbes> probes_{};  // a ring of the last that were left out
  std::uint64_t probe_count_ = 0;                   // that were ever put into it
  std::uint64_t draws_ = 0;                         // of pages to leave out
  FaultCounters faults_;
  std::uint64_t present_pages_ = 0;
  std::uint64_t removed_pages_ = 0;
};

}  // namespace thaw
