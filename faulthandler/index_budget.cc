#include "faulthandler/index_budget.h"

namespace thaw {

IndexBudget::Held::~Held() {
  if (budget_ == nullptr) return;
  const std::lock_guard lock(budget_->mutex_);
  budget_->held_ = budget_->held_ - bytes_;
}

Result<void> IndexBudget::Held::resize(ByteCount bytes, Beyond beyond) {
  TRY(budget_->exchange(bytes_, bytes, beyond));
  bytes_ = bytes;
  return {};
}

Result<IndexBudget::Held> IndexBudget::take(ByteCount bytes, Beyond beyond) {
  Held held(*this);
  TRY(held.resize(bytes, beyond));
  return held;
}

Result<void> IndexBudget::exchange(ByteCount before, ByteCount after, Beyond beyond) {
  const std::lock_guard lock(mutex_);
  const ByteCount others = held_ - before;
  const bool refusable = beyond == Beyond::kRefused && after > before;
  if (refusable && !within(others.value, after.value, most_.value)) {
    return fail(ErrorCode::kLimitExceeded,
                "its page map takes {} MiB of memory; page maps of this host's snapshots have {} "
                "of {} MiB (--index-mib of the fault handler)",
                after.value >> 20, others.value >> 20, most_.value >> 20);
  }
  held_ = others + after;
  return {};
}

ByteCount IndexBudget::held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

}  // namespace thaw
