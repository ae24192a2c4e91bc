#pragma once

#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/types.h"

namespace thaw {

/// Snapshots whose pages lie in many runs have page maps of many megabytes, and peers that may push
/// choose how many. So what this host keeps of all snapshots together has a bound, and a session
/// beyond it is refused before it harms those that run. Locks itself.
class IndexBudget {
 public:
  /// What becomes of a part beyond the bound.
  enum class Beyond {
    kRefused,
    kTaken,  // it is there in any case, such as that of a process before this one
  };
  /// A part of the budget; gives it back when it goes.
  class Held {
   public:
    Held(Held&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), bytes_(other.bytes_) {}
    Held& operator=(Held&&) = delete;
    ~Held();

    /// kLimitExceeded where more is refused; then nothing changes.
    Result<void> resize(ByteCount bytes, Beyond beyond);

   private:
    friend IndexBudget;
    explicit Held(IndexBudget& budget) : budget_(&budget) {}
    IndexBudget* budget_;  // nullptr: moved from
    ByteCount bytes_{0};
  };

  explicit IndexBudget(ByteCount most) : most_(most) {}
  IndexBudget(const IndexBudget&) = delete;
  IndexBudget& operator=(const IndexBudget&) = delete;

  /// kLimitExceeded where it is refused.
  Result<Held> take(ByteCount bytes, Beyond beyond);

  ByteCount most() const { return most_; }
  ByteCount held() const;

 private:
  Result<void> exchange(ByteCount before, ByteCount after, Beyond beyond);

  const ByteCount most_;
  mutable std::mutex mutex_;
  ByteCount held_{0};  // guarded by mutex_
};

}  // namespace thaw
