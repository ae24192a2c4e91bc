#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/histogram.h"
#include "base/userfaultfd.h"
#include "base/vcpu_activity.h"
#include "faulthandler/address_space.h"
#include "faulthandler/call_account.h"
#include "faulthandler/chunk_source.h"
#include "faulthandler/demand_link.h"
#include "faulthandler/errands.h"
#include "faulthandler/event_queue.h"
#include "faulthandler/fault_core.h"
#include "faulthandler/huge_fills.h"
#include "faulthandler/loop.h"
#include "faulthandler/memory_record.h"
#include "faulthandler/memory_room.h"
#include "faulthandler/memory_shortage.h"
#include "faulthandler/own_thread.h"
#include "faulthandler/page_opener.h"
#include "faulthandler/prefetch.h"
#include "faulthandler/recorder.h"
#include "faulthandler/regions.h"
#include "faulthandler/snapshot_source.h"
#include "faulthandler/vm_memory.h"
#include "format/chunk.h"
#include "format/control.h"

namespace thaw {

/// What happens in the window after a restore, beside answering faults.
enum class WindowUse {
  kNone,
  kRecord,  // faults are noted, and answered alone: nothing is prefetched, no neighbours come
  kTrace,   // faults and prefetched pages are noted
};

struct ServeOptions {
  std::shared_ptr<const SnapshotImage> image;
  /// Of a host image: where it has a chunk.
  std::shared_ptr<const ChunkPlaces> places = nullptr;
  const ChunkSource* local = nullptr;       // asked before the page server; nullptr: none
  std::uint32_t around = 1;                 // largest fault-around window, a power of two; 1: none
  std::optional<PrefetchService> prefetch;  // nothing: nothing is prefetched
  /// How long a page that is here waits for memory before it cannot be had.
  Nanoseconds memory_patience{limits::kMemoryPatience};
  PrefetchPlan plan;
  Recorder::Window window;
  WindowUse window_use = WindowUse::kNone;
};

/// The guest memory of one VM while it is served: reads its faults, asks for its pages and fills
/// them. A page enters the guest only here and in a PrefetchJob: as a PageOpener has opened it, or
/// as zeros where the snapshot has zeros or the guest gave the page back. On the loop's
/// thread.
///
/// A VM on whose memory system calls take long is served in turns: its events are read and its
/// fills decided here, the calls are made on a thread of its own, and no event is read meanwhile.
/// So what was decided is as right as if it had been done at once. It gets no favours then.
///
/// A fault that is answered without a surprise allocates nothing, takes no lock and logs nothing.
class ServedMemory final : public VmMemory,
                           public ChunkSink,
                           private EventQueue::Sink,
                           private Prefetch::Owner {
 public:
  using Owner = VmMemory::Owner;

  /// `record` must outlive it.
  ServedMemory(Loop& loop, DemandLink& link, ServeOptions options, MemoryRecord& record,
               Owner& owner);
  ServedMemory(const ServedMemory&) = delete;
  ServedMemory& operator=(const ServedMemory&) = delete;
  virtual ~ServedMemory() { link_.forget(*this); }

  void connect() override;
  void distrust() override;
  void start(UniqueFd userfaultfd, RegionTable regions) override;
  void adopt(UniqueFd userfaultfd) override;
  void stop() override;
  bool finished() const override;
  bool has_process() override { return has_address_space(userfaultfd_); }
  std::optional<Clock::time_point> waiting_since() const override;
  void stop_waiting(Clock::time_point since, const std::string& reason) override;
  void add_to(SessionReport& report) const override;

  // For memory that is filled on behalf of VMs which map it elsewhere.

  PageState state(PageIndex page) const { return core_.state(page); }
  /// As if a fault on each of the pages had been read.
  void demand(std::span<const PageIndex> pages);
  /// Pages that were put in here, and how many more may have been that are not counted yet.
  std::uint64_t filled_pages() const;
  PageCount filling() const;

 private:
  struct DelayedFill {
    WantedPage wanted;
    std::unique_ptr<PlainPage> content;
  };
  /// A fill as the kernel is asked for it.
  struct Call {
    WantedPage wanted;
    PageRange unit;
    HostAddress address;
    WriteTracking tracking = WriteTracking::kOff;
    ByteSpan from{};                            // empty: zeros
    HugeFills::Fill* huge = nullptr;            // which it ends
    std::unique_ptr<PlainPage> kept = nullptr;  // where `from` is, if nowhere else
    FillResult result{FillOutcome::kRemoving, {0}};
  };

  /// No more events are read: what a VMM that is left waiting still does costs nothing.
  void give_up(const std::string& reason);

  /// Has more events read when there are any.
  void await_events();
  /// Whether events may be read at once: no call is under way, and no wait for one begins.
  bool may_read() const;

  // Slow memory.
  /// A call on the memory, or a wait for one, took so long.
  void note_call(Nanoseconds took);
  void become_slow();
  void look_if_quiet();
  /// Has the fills that wait made on the thread, as many as may be at once.
  void begin_calls();
  /// On the thread.
  void make_calls();
  void on_calls_made();

  /// Of guest memory, one in each of some regions.
  std::vector<HostAddress> some_addresses() const;
  void on_backing_seen(BackingFile file);
  /// False when the memory had to be given up.
  bool begin(UniqueFd userfaultfd, RegionTable regions);

  // Reading.
  void on_events(int result);
  void drain_events();
  bool on_removed(PageRange pages) override { return core_.on_remove(pages.first, pages.count); }
  void answer_faults();
  void answer_fault(HostAddress address, Clock::time_point now);
  void answer_fault(PageIndex page, Clock::time_point now);

  // Asking.
  void want(PageIndex page, Clock::time_point since);
  void want_huge(HugeFills::Fill& fill);
  void ask_for_wanted();
  Result<void> on_chunk(const WantedPage& wanted, ByteSpan chunk) override;
  Result<void> on_rider(const Rider& rider, ByteSpan chunk) override;
  void on_refused(const WantedPage& wanted, const Error& error, Refusal refusal) override;
  void on_left_out(const Rider& rider) override;
  void on_batch_end() override;
  void on_room() override;
  /// The pages that may come along with the demanded ones.
  void choose_riders(std::span<const WantedPage> pages);
  void unservable(const WantedPage& wanted, const std::string& reason);
  /// The pages that somebody waits for and that no server has brought yet.
  std::vector<WantedPage> waiting_pages() const;
  /// The next of the wanted pages for one request.
  std::span<const WantedPage> next_wanted() const;
  /// Asks for it again after a while, of all servers.
  void set_aside(const WantedPage& wanted);
  void on_stuck_timer();

  // Prefetch and the window after the restore.
  void want_on_demand(std::span<const PageIndex> pages) override;
  void on_prefetched(PageRange pages) override;
  void on_prefetch_failed(int error_number) override;
  void on_prefetch_starved() override;
  void on_complete() override;
  bool records() const { return options_.window_use == WindowUse::kRecord && recorder_.running(); }
  void begin_prefetch();
  /// Looks at the window again after so long at most.
  void await_window_end(Nanoseconds most);
  void on_window_timer();
  /// The guest's vCPUs were looked at: `activity_` says what was seen.
  void on_guest_seen();
  void end_window();

  // Filling.
  /// Puts the page in: `content`, or zeros when that is nothing or the page was removed since.
  void fill(const WantedPage& wanted, std::optional<PageSpan> content);
  void fill_zeros(const WantedPage& wanted, const HandoffRegion& region);
  /// For a fault on a page that is known to be present. Usually somebody else has just had it
  /// filled; but a VMM may punch a hole into the file behind its memory, which no event tells.
  void fill_again(const WantedPage& wanted, const HandoffRegion& region);
  /// Makes touching it an error.
  void poison(const WantedPage& wanted);
  /// The content of a page of the snapshot, if this host has it.
  std::optional<PageSpan> find_locally(PageIndex page);
  /// Puts the page in, and its neighbours, if their content is at hand on this host.
  bool fill_locally(PageIndex page, const HandoffRegion& region, Clock::time_point since);
  /// Where the next page of the run is to be decoded to. Puts the run in if this one does not
  /// continue it.
  MutablePageSpan next_in_run(PageIndex page);
  /// What puts the page in: `content`, or zeros. Nothing when its memory is gone, which is noted.
  std::optional<Call> call_for(const WantedPage& wanted, std::optional<PageSpan> content);
  std::optional<Call> call_for(HugeFills::Fill& fill);
  /// What makes a page or a huge page zero: hugetlbfs has no zero page. Nothing when there are no
  /// zeros for it: then the VM is given up.
  std::optional<Call> zeros_for(const WantedPage& wanted, const HandoffRegion& region,
                                PageRange unit);
  static FillResult make(const UniqueFd& userfaultfd, const Call& call);
  /// What becomes of it.
  void finish(const Call& call, const FillResult& result);
  /// Puts in the run.
  void fill_run();
  void fill_huge(HugeFills::Fill& fill);
  /// It is in, or never will be. The next one begins.
  void end_huge(HugeFills::Fill& fill);
  /// Puts in neighbours. REQUIRES: they are in the region.
  FillResult copy_in(const HandoffRegion& region, PageIndex first, ByteSpan content);
  FillResult make_now(const Call& call);
  /// Whether the guest gets nothing that it has not asked for.
  bool gets_no_favours() const { return shortage_.active() || account_.slow(); }
  /// What becomes of a fill that no REMOVE held up.
  void settle(const FillResult& result, HostAddress address, PageRange unit,
              Clock::time_point since);
  void note_filled(PageRange pages);
  void delay(const WantedPage& wanted, std::optional<PageSpan> content);
  bool has_delayed() const { return !delayed_.empty() || !delayed_zeros_.empty(); }

  // Too little memory.
  /// Whether fills wait for the next attempt, which comes by timer.
  bool holds_back() const { return account_.slow() || (shortage_.active() && !attempts_); }
  void note_shortage(const FillResult& result);
  void end_shortage();
  std::string shortage_text() const;
  void tell_of_shortage();
  void on_room_seen();
  /// Pages that are here and have no memory to go to.
  std::vector<WantedPage> waiting_for_memory();
  /// What has waited too long cannot be had.
  void lose_patience();
  void retry_delayed();
  void on_retry_timer();
  /// After attempts.
  void go_on();
  void retry_later();
  /// What every fill does with an outcome that is none of its own business.
  void note_failure(const FillResult& result, PageRange unit);
  PageRange unit_of(PageIndex page, const HandoffRegion& region) const;

  Loop& loop_;
  DemandLink& link_;
  const ServeOptions options_;
  MemoryRecord& record_;
  Owner& owner_;
  bool serving_ = false;
  bool given_up_ = false;

  UniqueFd userfaultfd_;
  RegionTable regions_;
  FaultCore core_;
  PageOpener opener_;
  PlainPage plain_;
  HugeFills huge_;
  EventQueue events_{record_};
  std::vector<WantedPage> wanted_;  // to be asked for, from next_wanted_ on; each page once
  std::size_t next_wanted_ = 0;
  std::uint64_t asked_ = 0;  // pages with the link
  std::vector<Rider> riders_;
  std::unique_ptr<std::array<PlainPage, limits::kMaxBatchRiders>> run_;  // neighbours, decoded
  PageRange run_pages_{};
  std::vector<DelayedFill> delayed_;
  std::map<PageIndex, Clock::time_point> delayed_zeros_;  // wanted since when
  Nanoseconds delay_{limits::kDelayedFirst};
  std::vector<WantedPage> stuck_;  // unservable, and the guest waits
  MemoryShortage shortage_;
  bool attempts_ = false;  // to put in what waits for memory
  std::optional<Clock::time_point> told_of_shortage_;
  std::optional<Clock::time_point> told_of_starving_;
  std::set<PageIndex> unservable_;  // of those, that have waited too long, which was said

  CallAccount account_;
  std::vector<Call> calls_;      // the thread's while it is active
  Nanoseconds longest_call_{0};  // among them
  OwnThread thread_{loop_, [this] { make_calls(); }, [this] { on_calls_made(); }};

  Recorder recorder_;
  Clock::time_point begun_;  // to serve
  bool guest_has_run_ = false;
  Nanoseconds look_pause_{limits::kVcpuLookFirst};
  VcpuActivity activity_ = VcpuActivity::kUnknown;
  ErrandTask guest_look_{[this](const ErrandResult& seen) {
    activity_ = seen.vcpus;
    on_guest_seen();
  }};
  bool prefetch_waits_ = false;  // until it is known what is behind the memory
  ErrandTask backing_look_{[this](ErrandResult seen) { on_backing_seen(std::move(seen.backing)); }};
  MemoryRoom room_{[this] { on_room_seen(); }};
  std::unique_ptr<Prefetch> prefetch_;  // nullptr: none

  LatencyHistogram latency_;
  std::uint64_t filled_pages_ = 0;
  std::uint64_t local_pages_ = 0;
  std::uint64_t around_pages_ = 0;
  std::uint64_t redundant_fills_ = 0;
  std::uint64_t gone_fills_ = 0;
  std::uint64_t delayed_fills_ = 0;
  std::uint64_t damaged_chunks_ = 0;
  std::uint64_t bytes_received_ = 0;
  std::uint64_t poisoned_pages_ = 0;

  Operation reading_{[this](int result) { on_events(result); }};
  Operation retrying_{[this](int) { on_retry_timer(); }};
  Operation unsticking_{[this](int) { on_stuck_timer(); }};
  Operation windowing_{[this](int) { on_window_timer(); }};
};

}  // namespace thaw
