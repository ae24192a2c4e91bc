#include "pageserver/identity_shares.h"

#include <algorithm>

namespace thaw {

bool may_take(const std::string& identity, std::size_t more, const SharesTaken& taken,
              const ShareLimits& limits) {
  const std::size_t free = limits.all - std::min(limits.all, taken.by_all);
  if (more > free) return false;
  if (identity.empty() || taken.by_identity + more <= limits.sure) return true;
  return taken.by_identity + more <= std::min(free, limits.most);
}

std::optional<IdentityShares::Held> IdentityShares::take(const std::string& identity,
                                                         std::size_t amount,
                                                         const ShareLimits& limits) {
  const std::lock_guard lock(mutex_);
  if (!add(identity, amount, limits)) return std::nullopt;
  return Held(*this, identity, amount);
}

bool IdentityShares::Held::resize(std::size_t amount, const ShareLimits& limits) {
  const std::lock_guard lock(shares_->mutex_);
  if (amount > amount_) {
    if (!shares_->add(identity_, amount - amount_, limits)) return false;
  } else {
    shares_->subtract(identity_, amount_ - amount);
  }
  amount_ = amount;
  return true;
}

SharesTaken IdentityShares::taken(const std::string& identity) const {
  const std::lock_guard lock(mutex_);
  const auto at = held_.find(identity);
  return {.by_identity = at == held_.end() ? 0 : at->second, .by_all = total_};
}

bool IdentityShares::add(const std::string& identity, std::size_t amount,
                         const ShareLimits& limits) {
  const auto at = held_.find(identity);
  const SharesTaken taken{.by_identity = at == held_.end() ? 0 : at->second, .by_all = total_};
  if (!may_take(identity, amount, taken, limits)) return false;
  held_[identity] += amount;
  total_ += amount;
  return true;
}

void IdentityShares::give_back(const std::string& identity, std::size_t amount) {
  const std::lock_guard lock(mutex_);
  subtract(identity, amount);
}

void IdentityShares::subtract(const std::string& identity, std::size_t amount) {
  if (amount == 0) return;
  const auto at = held_.find(identity);
  at->second -= amount;
  total_ -= amount;
  if (at->second == 0) held_.erase(at);
}

}  // namespace thaw
