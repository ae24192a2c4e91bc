#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/types.h"
#include "tests/sim/schedule.h"

namespace thaw::sim {

/// What a page holds, as a number: equal pages have equal numbers.
using Content = std::uint64_t;
inline constexpr Content kZeroContent = 0;
Content content_of(ByteSpan page);

/// The address space of a simulated VMM, and beside each page what its guest may find there. The
/// kernel's part changes it by what the kernel does, the guest looks. One thread.
class GuestMemory {
 public:
  struct Page {
    PageIndex index;                  // of guest memory
    bool registered = false;          // with the userfaultfd
    std::optional<Content> content;   // nothing: missing
    Content expected = kZeroContent;  // what it holds, or must be filled with
    bool minor = false;               // a fault tells of what is in the file behind it
    unsigned removals = 0;            // under way: it may be zero by now
    bool moves = false;               // the call that moves it has not returned
  };

  GuestMemory(Schedule& schedule, std::vector<Content> snapshot)
      : schedule_(schedule), snapshot_(std::move(snapshot)), places_(snapshot_.size()) {}

  /// Maps a page of the snapshot.
  void map(HostAddress address, PageIndex page);
  /// Nothing is mapped there any more.
  void unmap(HostAddress address);
  /// The page is at another address from now on. REQUIRES: nothing is mapped there.
  void move(HostAddress from, HostAddress to);
  /// The process has exited.
  void end() { ended_ = true; }
  bool ended() const { return ended_; }

  /// nullptr: nothing is mapped there.
  Page* find(HostAddress address);
  /// nothing: it is mapped nowhere any more.
  std::optional<HostAddress> address_of(PageIndex page) const { return places_[page.value]; }
  PageCount page_count() const { return {places_.size()}; }
  const std::map<std::uint64_t, Page>& pages() const { return pages_; }
  std::map<std::uint64_t, Page>& pages() { return pages_; }

  /// A missing page is filled. What must never be there is a violation.
  void fill(Page& page, Content content, const char* by);
  /// The guest reads a page that is there.
  void read(Page& page);
  void write(Page& page, Content content);
  /// The pages' content goes, at the end of madvise.
  static void zap(Page& page);

 private:
  std::string name_of(Content content) const;

  Schedule& schedule_;
  const std::vector<Content> snapshot_;
  std::map<std::uint64_t, Page> pages_;  // by address
  std::vector<std::optional<HostAddress>> places_;
  bool ended_ = false;
};

}  // namespace thaw::sim
