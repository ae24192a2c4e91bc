#include "faulthandler/copy_gate.h"

namespace thaw {

CopyGate::Epoch CopyGate::epoch() const {
  const std::lock_guard lock(mutex_);
  return epoch_;
}

bool CopyGate::enter(Epoch decided) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !reading_; });
  if (epoch_ != decided) return false;
  ++copying_;
  return true;
}

void CopyGate::leave() {
  const std::lock_guard lock(mutex_);
  --copying_;
  if (reading_ && copying_ == 0) changed_.notify_all();
}

CopyGate::Reading::Reading(CopyGate& gate) : gate_(gate) {
  std::unique_lock lock(gate_.mutex_);
  gate_.reading_ = true;
  gate_.changed_.wait(lock, [this] { return gate_.copying_ == 0; });
}

CopyGate::Reading::~Reading() {
  const std::lock_guard lock(gate_.mutex_);
  gate_.reading_ = false;
  if (changed_) ++gate_.epoch_;
  gate_.changed_.notify_all();
}

}  // namespace thaw
