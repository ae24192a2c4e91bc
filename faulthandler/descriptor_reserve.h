#pragma once

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/unique_fd.h"
#include "faulthandler/kept_session.h"

namespace thaw {

/// A process that has no descriptor left loses those that come with a message, and the message may
/// be the one that would free some. So descriptors for one session are held back. Before a message
/// is received they are released, and afterwards held again. One thread.
class DescriptorReserve {
 public:
  /// Holds as many as a session has descriptors, duplicates of `any`; false: there are too few.
  bool refill(const UniqueFd& any) {
    return std::ranges::all_of(spare_, [&any](UniqueFd& spare) {
      if (spare.valid()) return true;
      auto copy = duplicate(any);
      if (copy) spare = *std::move(copy);
      return spare.valid();
    });
  }
  void release() { std::ranges::for_each(spare_, &UniqueFd::reset); }

 private:
  std::array<UniqueFd, kKeptRoles> spare_;
};

}  // namespace thaw
