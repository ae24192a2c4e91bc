#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "faulthandler/event_journal.h"
#include "faulthandler/page_state.h"
#include "format/handoff.h"

namespace thaw {

/// Why there was no handler for a while.
enum class OutageCause { kDeath, kUpgrade };

/// Of what records hold, and of all else that a supervisor keeps. A program takes over the VMs of
/// another only if both have the same.
inline constexpr std::uint32_t kRecordVersion = 1;

/// What must be known of memory that is being served by whoever goes on after this process: what it
/// is, the state of each page, where its regions lie, and the events that were read. A memory file,
/// which the supervisor holds on to. Written on the loop's thread as things happen; a process that
/// is killed leaves it as it was at that moment.
class MemoryRecord {
 public:
  /// All pages are missing. `request` is kept as it is: what the memory was prepared for.
  static Result<MemoryRecord> create(std::string_view request, PageCount pages);
  /// That of another process, which is dead. Pages that were on their way are missing. kBadVersion,
  /// kMalformed.
  static Result<MemoryRecord> open(UniqueFd file);
  /// The same of one that lives, perhaps: what it says is looked at, and nothing changes.
  static Result<MemoryRecord> look_at(UniqueFd file);

  const UniqueFd& file() const { return file_; }
  std::string_view request() const;
  std::span<PageState> states() const;
  EventJournal& journal() const;

  /// From now on, or after the changes that the journal's batch brings, the regions are these.
  /// REQUIRES: at most limits::kMaxRegionPieces.
  void keep(std::span<const HandoffRegion> regions);
  /// Those kept last; none: serving has not begun.
  std::vector<HandoffRegion> regions() const;
  /// Whether they have been through the journal's batch.
  bool regions_are_of_batch() const;

  /// Processes that died while they served it, which an upgrade is not; and how long none did,
  /// upgrades included.
  struct Outages {
    std::uint64_t count = 0;
    Nanoseconds time{0};
  };
  void note_outage(Nanoseconds time, OutageCause cause);
  Outages outages() const;

  /// Every page is there or was removed, and nothing is registered any more.
  void set_detached();
  bool detached() const;

 private:
  struct Head;
  MemoryRecord(UniqueFd file, Mapping mapping)
      : file_(std::move(file)), mapping_(std::move(mapping)) {}
  Head& head() const;

  UniqueFd file_;
  Mapping mapping_;
};

}  // namespace thaw
