#pragma once

#include <vector>

#include "base/error.h"
#include "base/userfaultfd.h"
#include "faulthandler/memory_record.h"
#include "faulthandler/regions.h"

namespace thaw {

/// The events of one VM's userfaultfd, a bounded number at a time: all changes to the memory take
/// effect before the first fault is answered, since the kernel's order between the two is not
/// causal. One thread.
class EventQueue {
 public:
  /// What must be known of memory that was given back.
  class Sink {
   public:
    /// The pages are gone (REMOVE, UNMAP). True when somebody waits for one of them, who is then
    /// woken to look again.
    virtual bool on_removed(PageRange pages) = 0;

   protected:
    ~Sink() = default;
  };

  /// Events are read to the record's journal, and what they change is recorded. It must outlive
  /// this.
  explicit EventQueue(MemoryRecord& record);

  /// Reads what is queued. What was read before an error has happened all the same.
  Result<void> read(const UniqueFd& userfaultfd);
  /// Goes on where another process has ended: applies the changes that it has read and may not have
  /// applied, and wakes everybody, so that the faults that it has read are raised again. What
  /// apply_changes() says.
  Result<void> take_over(const UniqueFd& userfaultfd, RegionTable& regions, Sink& sink);
  /// Whether anything but faults was read.
  bool has_changes() const;
  /// Applies what was read to the regions, and tells the sink. kLimitExceeded when the VMM
  /// has moved its memory into too many pieces.
  Result<void> apply_changes(const UniqueFd& userfaultfd, RegionTable& regions, Sink& sink);
  /// Calls `visit(address)` for each fault that was read.
  template <typename Visit>
  void for_each_fault(Visit visit) const {
    for (const MemoryEvent& event : events_) {
      if (const auto* const fault = std::get_if<FaultEvent>(&event)) visit(fault->address);
    }
  }

 private:
  void apply_removed(const UniqueFd& userfaultfd, const RegionTable& regions, Sink& sink);
  void begin_batch();
  static Result<void> apply(const RemapEvent& moved, const UniqueFd& userfaultfd,
                            RegionTable& regions, Sink& sink);

  MemoryRecord& record_;
  EventJournal& journal_;
  std::size_t used_ = 0;  // events in the journal
  std::vector<MemoryEvent> events_;
  std::vector<RemoveEvent> removed_;  // among them, and not applied yet
};

}  // namespace thaw
