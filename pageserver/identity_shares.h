#pragma once

#include <cstddef>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

namespace thaw {

/// How something limited is shared out.
struct ShareLimits {
  std::size_t all;   // that there is
  std::size_t sure;  // that an identity may have as long as there is any
  std::size_t most = std::numeric_limits<std::size_t>::max();  // that an identity may have
};

/// What of it is taken.
struct SharesTaken {
  std::size_t by_identity;
  std::size_t by_all;
};

/// Whether an identity may take so much more. What it has then is at most what is left for others:
/// one identity alone gets half, and each always leaves something. Peers of this host that show no
/// certificate have no identity, and no share.
bool may_take(const std::string& identity, std::size_t more, const SharesTaken& taken,
              const ShareLimits& limits);

/// What identities hold of something that is limited. Locks itself.
class IdentityShares {
 public:
  /// An identity's part; gives it back when it goes.
  class Held {
   public:
    Held(Held&& other) noexcept
        : shares_(std::exchange(other.shares_, nullptr)),
          identity_(std::move(other.identity_)),
          amount_(other.amount_) {}
    Held& operator=(Held&&) = delete;
    ~Held() {
      if (shares_ != nullptr) shares_->give_back(identity_, amount_);
    }
    /// False, and nothing changes, where it would be more than it may be.
    bool resize(std::size_t amount, const ShareLimits& limits);

   private:
    friend IdentityShares;
    Held(IdentityShares& shares, std::string identity, std::size_t amount)
        : shares_(&shares), identity_(std::move(identity)), amount_(amount) {}
    IdentityShares* shares_;
    std::string identity_;
    std::size_t amount_;
  };

  IdentityShares() = default;
  IdentityShares(const IdentityShares&) = delete;
  IdentityShares& operator=(const IdentityShares&) = delete;

  /// Nothing where it would be more than the identity may take.
  std::optional<Held> take(const std::string& identity, std::size_t amount,
                           const ShareLimits& limits);
  SharesTaken taken(const std::string& identity = {}) const;

 private:
  void give_back(const std::string& identity, std::size_t amount);
  // Both with the lock held.
  bool add(const std::string& identity, std::size_t amount, const ShareLimits& limits);
  void subtract(const std::string& identity, std::size_t amount);

  mutable std::mutex mutex_;
  std::map<std::string, std::size_t> held_;  // guarded by mutex_; of those that hold something
  std::size_t total_ = 0;                    // guarded by mutex_
};

}  // namespace thaw
