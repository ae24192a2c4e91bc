#pragma once

#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/histogram.h"
#include "base/process_maps.h"
#include "faulthandler/address_space.h"
#include "faulthandler/call_account.h"
#include "faulthandler/event_queue.h"
#include "faulthandler/host_image.h"
#include "faulthandler/loop.h"
#include "faulthandler/memory_shortage.h"
#include "faulthandler/own_thread.h"
#include "faulthandler/vm_memory.h"

namespace thaw {

/// The guest memory of one VM that maps its snapshot's host image. Most of what it touches is there
/// and raises no fault. For what is not, the image is asked, and who waits is let on when the page
/// has come.
///
/// When the VMM gives a page back, its own copy goes and the file's page shows: the snapshot's,
/// where the guest must find zeros. So with the first page given back all of this memory is
/// registered for minor faults too, and a fault on a page that was given back gets zeros of its
/// own. A page that is touched between the reading of the event and that registration is seen as it
/// was in the snapshot, which is why clients of this project register before they give pages back
/// (vmm-client/guest_memory.h). Slow memory is served in turns, as by ServedMemory. On the loop's
/// thread.
class SharedMemory final : public VmMemory, private HostImage::View, private EventQueue::Sink {
 public:
  /// `record` must outlive it.
  SharedMemory(Loop& loop, HostImage& image, Nanoseconds memory_patience, MemoryRecord& record,
               Owner& owner)
      : loop_(loop),
        image_(image),
        memory_patience_(memory_patience),
        record_(record),
        owner_(owner) {}
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  virtual ~SharedMemory();

  /// Has the VMM's maps read.
  void prepare_check(std::function<void()> then) override;
  /// Refuses memory that is not the host image, each region at its place, where the VMM's maps can
  /// be read. Otherwise start() has a page of each region shown, which fails for other memory.
  Result<void> check(const UniqueFd& userfaultfd, RemoveEvents events,
                     const RegionTable& regions) override;
  void connect() override;
  void distrust() override;
  void start(UniqueFd userfaultfd, RegionTable regions) override;
  void adopt(UniqueFd userfaultfd) override;
  void stop() override;
  bool finished() const override {
    return !reading_.active() && !retrying_.active() && !thread_.active();
  }
  bool has_process() override { return has_address_space(userfaultfd_); }
  std::optional<Clock::time_point> waiting_since() const override;
  void stop_waiting(Clock::time_point since, const std::string& reason) override;
  void add_to(SessionReport& report) const override;

 private:
  /// False when the VM had to be given up.
  bool begin(UniqueFd userfaultfd, RegionTable regions);
  void on_events(int result);
  void drain_events();
  /// Whether something is under way that comes before the next event.
  bool is_busy() const { return thread_.active() || parts_look_.active(); }
  /// Has more events read when there are any, unless it is busy.
  void await_events();
  void answer_fault(HostAddress address, Clock::time_point now);
  bool on_removed(PageRange pages) override;
  /// From now on a touch of what is in the file is an event too.
  void begin_minor_faults();
  /// Has what there is of the regions looked for in the VMM's maps; no event is read meanwhile.
  void look_for_parts();
  void on_parts_seen(const ErrandResult& seen);
  /// Registers what there is of the regions for minor faults. `mappings`: where; nullptr: that is
  /// found by attempts.
  Result<void> register_regions(const std::vector<FileRange>* mappings, unsigned most_attempts);
  /// Registers what can be registered of a range, whatever is mapped there.
  Result<void> register_in_halves(AddressRange range, unsigned& attempts_left);
  /// Has a page of each region shown as if the guest had touched it.
  void probe();
  bool is_removed(PageIndex page) const {
    return record_.states()[page.value] == PageState::kRemoved;
  }
  /// Answers who waits for a page since then: with zeros, or with the image's page.
  void let_on(PageIndex page, Clock::time_point since);
  /// Whether fills wait for the next attempt, which comes by timer.
  bool holds_back() const { return shortage_.active() || account_.slow() || removing_; }
  /// Lets the guest see a page of the image, and while minor faults are registered those beside it.
  void show(PageIndex page);
  void show_beside(PageIndex page, const HandoffRegion& region);
  void fill_zeros(PageIndex page);
  /// Makes touching it an error, and nobody waits for it any more.
  void poison(PageIndex page);
  void settle(const FillResult& result, PageIndex page, HostAddress address);
  /// There was no memory to show the page, or for its zeros: that is tried again after a while.
  void hold_back(const FillResult& result, PageIndex page);
  void on_retry_timer();
  /// Whether the page, or zeros for it, are there, and memory for them.
  bool can_let_on(PageIndex page);
  /// False when something is in the way, of all pages.
  bool try_again(PageIndex page);
  /// After attempts.
  void go_on();
  /// Unless it is set.
  void set_retry_timer();

  // Slow memory.
  void note_call(Nanoseconds took);
  /// Has what is held back shown on the thread, as much as may be at once.
  void begin_calls();
  /// On the thread.
  void make_calls();
  void on_calls_made();

  /// What has waited too long cannot be had.
  void lose_patience();
  void give_up(const std::string& reason);

  void on_present(PageRange pages) override;
  void on_spoiled(const std::string& reason) override;
  void on_unservable(PageIndex page, const std::string& reason) override;

  Loop& loop_;
  HostImage& image_;  // there as long as this is attached to it
  const Nanoseconds memory_patience_;
  MemoryRecord& record_;  // of the pages' states, those that were removed alone
  Owner& owner_;
  bool attached_ = false;  // to the image
  bool serving_ = false;
  bool given_up_ = false;

  UniqueFd userfaultfd_;
  RegionTable regions_;
  EventQueue events_{record_};
  std::map<PageIndex, Clock::time_point> waiting_;  // for these pages, since when
  std::vector<PageIndex> wanted_;
  /// Pages for which there was no memory, or that a REMOVE was in the way of, and since when.
  struct HeldBack {
    Clock::time_point since;
    bool told = false;
  };
  std::map<PageIndex, HeldBack> held_back_;
  struct Call {
    PageIndex page;
    HeldBack held;
    HostAddress address;
    bool zeros;
    FillResult result{FillOutcome::kRemoving, {0}};
  };
  bool removing_ = false;  // a REMOVE is in the way of all fills
  Nanoseconds delay_{limits::kDelayedFirst};
  CallAccount account_;
  std::vector<Call> calls_;      // the thread's while it is active
  Nanoseconds longest_call_{0};  // among them
  MemoryShortage shortage_;
  bool has_minor_faults_ = false;
  bool is_proven_ = false;                          // to map the image
  std::optional<std::vector<FileRange>> mappings_;  // of the image; nothing: they are not known
  std::function<void()> then_;                      // when they have been looked for
  unsigned looks_ = 0;                              // at the parts of regions

  SessionReport at_end_;  // what there was to say of the image when it was left
  FaultCounters faults_;
  std::uint64_t removed_pages_ = 0;
  std::uint64_t redundant_fills_ = 0;
  std::uint64_t gone_fills_ = 0;
  std::uint64_t delayed_fills_ = 0;
  std::uint64_t poisoned_pages_ = 0;
  LatencyHistogram latency_;

  ErrandTask handoff_look_{[this](ErrandResult seen) {
    if (seen.done()) mappings_ = std::move(seen.mappings);
    std::exchange(then_, nullptr)();
  }};
  ErrandTask parts_look_{[this](const ErrandResult& seen) { on_parts_seen(seen); }};
  Operation reading_{[this](int result) { on_events(result); }};
  Operation retrying_{[this](int) { on_retry_timer(); }};
  OwnThread thread_{loop_, [this] { make_calls(); }, [this] { on_calls_made(); }};
};

}  // namespace thaw
