#include "faulthandler/huge_fills.h"

#include <algorithm>
#include <cstring>

namespace thaw {

Result<HugeFills::Fill*> HugeFills::begin(PageIndex first, Clock::time_point since) {
  const auto free = std::ranges::find(fills_, false, &Fill::active);
  if (free == fills_.end()) {
    waiting_.push_back({first, since});
    return nullptr;
  }
  if (free->buffer.size().value == 0) {
    free->buffer = TRY(Mapping::anonymous({kHugePageBytes}));
  } else {
    std::memset(free->buffer.bytes().data(), 0, kHugePageBytes);
  }
  free->first = first;
  free->since = since;
  free->missing = 0;
  free->active = true;
  return &*free;
}

HugeFills::Fill* HugeFills::find(PageIndex page) {
  const auto holds = [page](const Fill& fill) {
    return fill.active && fill.first <= page && page - fill.first < kHugePages;
  };
  const auto found = std::ranges::find_if(fills_, holds);
  return found == fills_.end() ? nullptr : &*found;
}

Result<HugeFills::Fill*> HugeFills::begin_next() {
  if (waiting_.empty() || std::ranges::all_of(fills_, &Fill::active)) return nullptr;
  const Waiting next = waiting_.front();
  waiting_.pop_front();
  return begin(next.first, next.since);
}

Result<ByteSpan> HugeFills::zeros() {
  if (zeros_.size().value == 0) zeros_ = TRY(Mapping::anonymous({kHugePageBytes}));
  return zeros_.bytes();
}

}  // namespace thaw
