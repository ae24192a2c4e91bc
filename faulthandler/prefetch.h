#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "faulthandler/chunk_source.h"
#include "faulthandler/copy_gate.h"
#include "faulthandler/fault_core.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"
#include "faulthandler/page_opener.h"
#include "faulthandler/plain_buffers.h"
#include "faulthandler/prefetch_job.h"
#include "faulthandler/prefetch_link.h"
#include "faulthandler/prefetch_set.h"
#include "faulthandler/regions.h"
#include "format/cold_map.h"
#include "format/control.h"

namespace thaw {

/// What a loop's sessions share for prefetching.
struct PrefetchService {
  PrefetchLink& link;
  WorkerPool& workers;
  PlainBuffers& buffers;
};

/// How a session comes to pages. What is passed must outlive it.
struct PageOrigins {
  PageOpener& opener;
  const PageHashes* hashes;  // that pages are checked by; nullptr: none
  const ChunkSource* local;  // asked before the page server; nullptr: none
};

/// What is to be brought to a session before its guest asks.
struct PrefetchPlan {
  std::shared_ptr<const PrefetchSet> set;  // nullptr: there is none
  std::uint64_t hydrate_bytes_per_s = 0;   // the rest of memory after the set; 0: never
  std::shared_ptr<const ColdMap> cold{};   // of the rest, what comes last; nullptr: nothing
  ZeroPages rest_zeros = ZeroPages::kToo;  // whether those of the rest are brought
};

/// Streams the working set into one VM's memory, and then, if that is wanted, the rest of it. Packs
/// are received and decompressed from begin() on, within bounds, and put in from attach() on: in
/// the set's order, zero pages of a class before its packs; but a pack of which the guest has just
/// asked for a page comes sooner, for the guest is where that one is. A demand goes its own way;
/// one for a page that is on its way here hurries that piece. On the loop's thread.
class Prefetch final : private PrefetchJob::Owner, private PrefetchLink::Sink {
 public:
  class Owner {
   public:
    /// Somebody waits for pages that will not be brought after all.
    virtual void want_on_demand(std::span<const PageIndex> pages) = 0;
    /// Pages are present.
    virtual void on_prefetched(PageRange pages) = 0;
    /// Putting pages in failed for a reason that no fill should have.
    virtual void on_prefetch_failed(int error_number) = 0;
    /// It stands still for want of memory.
    virtual void on_prefetch_starved() = 0;
    /// Every page is present or was removed.
    virtual void on_complete() = 0;

   protected:
    ~Owner() = default;
  };

  /// `core` and `room` are those of the session.
  Prefetch(Loop& loop, PrefetchService service, PrefetchPlan plan, PageOrigins origins,
           FaultCore& core, MemoryRoom& room, Owner& owner);
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;
  virtual ~Prefetch() = default;

  /// Begins to receive. Nothing is put in yet.
  void begin();
  /// Begins to put pages in. What is passed must stay until finished().
  void attach(const UniqueFd& userfaultfd, const RegionTable& regions);
  /// A vCPU has come to wait for a page that is on its way.
  void hurry(PageIndex page);
  /// A page is being fetched on demand: what goes with it is wanted next.
  void prefer(PageIndex page);
  /// Ends it at once; nothing is put in any more. May be destroyed once finished().
  void stop();
  bool finished() const;
  /// The session's room for favours was looked at.
  void on_room_seen();

  /// To be held while events of the VM are read and take effect: keeps copies away meanwhile. None
  /// is needed when no copy can be under way.
  std::optional<CopyGate::Reading> reading();

  /// Whether a worker may be putting pages in, for whom reading() would wait.
  bool may_be_copying() const { return in_pool_ > 0 && userfaultfd_ != nullptr; }

  /// Pages that were put in, and how many more may have been that are not counted yet.
  std::uint64_t filled_pages() const { return filled_pages_; }
  PageCount filling() const;

  PrefetchSummary summary() const;
  std::uint64_t damaged() const { return damaged_; }

 private:
  // Asking.
  void on_room() override { ask_more(); }
  void ask_more();
  bool may_take_buffer();
  /// False when there is nothing to ask for, or no room.
  bool ask_for_pack();
  /// A job for those of the pages that are at hand on this host, ready to be issued; nullptr: none
  /// is.
  PrefetchJob* add_local_job(const std::vector<PackPage>& pages, std::size_t order);
  /// Takes the next pack of which enough is missing.
  std::optional<std::size_t> take_pack();
  bool all_taken() const { return sooner_ == 0 && next_pack_ == packs_.size(); }
  /// Has the job bring those of its pages that nobody brings yet.
  void claim(PrefetchJob& job);
  /// They are as if the job had never been. Returns those that somebody waits for.
  std::vector<PageIndex> release(PrefetchJob& job);
  /// What brings the page; nullptr: nothing.
  PrefetchJob* job_of(PageIndex page);
  /// Has pages that somebody has been waiting for too long brought on demand as well.
  void on_late_timer();
  PrefetchJob& add_job(PrefetchJob::Content content, std::size_t order);

  // Receiving.
  void on_prefetched(PrefetchJob& job, ByteSpan sealed) override;
  void on_refused(PrefetchJob& job, const Error& error) override;
  void on_lost(PrefetchJob& job) override;

  // Putting in.
  PrefetchJob& add_zeros(std::vector<PageRange> ranges, std::size_t order);
  void plan_runs(PrefetchJob& job);
  void add_run(PrefetchJob& job, PageIndex page, std::size_t place, std::size_t most);
  /// Has a worker do what is left of the job, or ends it.
  void issue(PrefetchJob& job);
  void on_job_done(PrefetchJob& job) override;
  void settle(PrefetchJob& job, const PrefetchJob::Run& run);
  /// Ends it. What it was to bring and has not is left to demand.
  void drop(PrefetchJob& job);
  /// Gives up what has not been asked for.
  void give_up(const std::string& reason);
  /// There is too little memory for this job: it is as if it had not been asked for, and nothing is
  /// until there is room.
  void starve(PrefetchJob& job);
  void on_pause_end();
  void check_done();

  // The rest of memory.
  /// Says whether to go on asking.
  bool ask_for_rest();
  /// Whether it is not this page's turn: those that are cold come after all others.
  bool comes_in_another_turn(PageIndex page);
  void end_sweep();
  /// A batch of it could not be had. What is wrong with it concerns few of its pages.
  void note_rest_failure(const Error& error);
  void note_rest_success();
  /// Looks for something to ask for again after a while.
  void pause(Nanoseconds duration);

  Loop& loop_;
  PrefetchService service_;
  PrefetchPlan plan_;
  const PageOrigins origins_;
  FaultCore& core_;
  MemoryRoom& room_;
  Owner& owner_;
  const UniqueFd* userfaultfd_ = nullptr;  // nullptr: no VM yet
  const RegionTable* regions_ = nullptr;
  CopyGate gate_;

  PrefetchState state_ = PrefetchState::kNone;
  bool announced_ = false;  // to the link
  bool stopped_ = false;
  bool starved_ = false;  // waits until there is room
  enum class PackTurn : std::uint8_t { kInOrder, kSooner, kTaken };
  std::vector<PackTurn> packs_;
  std::size_t next_pack_ = 0;  // those before it have been taken, or are to be had sooner
  std::size_t sooner_ = 0;     // packs that are
  std::vector<std::unique_ptr<PrefetchJob>> jobs_;
  std::size_t buffers_taken_ = 0;
  std::size_t in_pool_ = 0;

  PageIndex rest_;                                  // the next page that hydration looks at
  bool cold_turn_ = false;                          // it brings the cold ones
  std::size_t next_cold_ = 0;                       // range of them that does not end before rest_
  std::size_t rest_batch_ = limits::kMaxPackPages;  // pages it asks for at a time
  Nanoseconds sweep_pause_{limits::kSweepFirst};    // before it looks again at what is left
  Clock::time_point rest_due_;
  bool complete_ = false;
  Operation pacing_{[this](int) { on_pause_end(); }};
  Operation lateness_{[this](int) { on_late_timer(); }};

  PrefetchSummary summary_;
  std::uint64_t filled_pages_ = 0;
  std::uint64_t damaged_ = 0;
};

}  // namespace thaw
