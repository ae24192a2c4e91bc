#pragma once

#include <bitset>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/userfaultfd.h"
#include "faulthandler/copy_gate.h"
#include "faulthandler/memory_room.h"
#include "faulthandler/worker_pool.h"
#include "format/pack.h"
#include "format/working_set.h"

namespace thaw {

/// One piece of a prefetch on its way into the guest: a pack, a batch of chunks, or zero pages. The
/// loop says what is to be done, a worker does it, and the loop looks at what came of it.
class PrefetchJob final : public WorkerPool::Job {
 public:
  /// Whose job it is.
  class Owner {
   public:
    virtual void on_job_done(PrefetchJob& job) = 0;

   protected:
    ~Owner() = default;
  };
  enum class Content { kPack, kChunks, kZeros };

  /// Neighbours that go in with one call.
  struct Run {
    PageIndex first;
    PageCount count;
    HostAddress address;
    WriteTracking tracking = WriteTracking::kOff;
    std::size_t place = 0;  // of the first one in the plain pages
    // What came of it: pages from the first on that are present now, how many of them this job
    // filled, and why it ended there.
    PageCount present;
    PageCount filled;
    FillOutcome outcome = FillOutcome::kRemoving;
    int error_number = 0;
  };

  PrefetchJob(Owner& owner, Content content) : owner_(owner), content_(content) {}
  virtual ~PrefetchJob() = default;

  Content content() const { return content_; }

  // For the loop, while no worker has it.

  std::size_t order = 0;                   // among its owner's
  std::optional<PackId> pack;              // which, if it is one
  bool is_rest = false;                    // not of the working set
  std::vector<PackPage> pages;             // ascending; none for zeros
  std::vector<PageRange> zeros;            // ascending
  const PageHashes* hashes = nullptr;      // that they are checked by; nullptr: none
  ByteSpan sealed;                         // to be decoded first
  std::optional<std::size_t> kept_buffer;  // of the connection, where `sealed` lies
  std::unique_ptr<std::byte[]> plain;      // the pages, when they are decoded
  Result<void> decoded;
  bool ready = false;  // to be put in
  // Where the runs go; none while there is no VM.
  std::vector<Run> runs;
  const UniqueFd* userfaultfd = nullptr;
  CopyGate* gate = nullptr;
  MemoryRoom* room = nullptr;
  CopyGate::Epoch decided = 0;
  bool no_room = false;  // what is left was not put in: there is too little memory
  unsigned attempts = 0;
  bool in_pool = false;  // a worker may have it
  /// Which of `pages` this job alone is to bring: those are asked for elsewhere when it does not.
  std::bitset<limits::kMaxPackPages> own;
  std::optional<Clock::time_point> awaited_since;  // by a vCPU

 private:
  void work(WorkerPool::Tools& tools) override;
  void on_done() override { owner_.on_job_done(*this); }
  Result<void> decode(WorkerPool::Tools& tools);
  /// Whether a favour may take memory for one more run.
  bool has_room();
  void note_spent(const Run& run);
  FillResult fill(const Run& run);
  void put_in(Run& run);

  Owner& owner_;
  const Content content_;
};

}  // namespace thaw
