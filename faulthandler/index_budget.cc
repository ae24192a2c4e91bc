#include "faulthandler/index_budget.h"

namespace thaw {

IndexBudget::Held::~Held() {
  if (budget_ == nullptr) return;
  const std::lock_guard lock(budget_->mutex_);
  budget_->held_ = {budget_->held_.value - bytes_.value};
}

Result<IndexBudget::Held> IndexBudget::take(ByteCount bytes, Beyond beyond) {
  const std::lock_guard lock(mutex_);
  if (beyond == Beyond::kRefused && !within(held_.value, bytes.value, most_.value)) {
    return fail(ErrorCode::kLimitExceeded,
                "its page map takes {} MiB of memory; page maps of this host's snapshots have {} "
                "of {} MiB (--index-mib of the fault handler)",
                bytes.value >> 20, held_.value >> 20, most_.value >> 20);
  }
  held_ += bytes;
  return Held(*this, bytes);
}

ByteCount IndexBudget::held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

}  // namespace thaw
