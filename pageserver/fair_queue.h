#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace thaw {

/// Whom work is done for: a certificate's identity, or the network of a peer without one.
struct Tenant {
  std::string identity;
  std::string name_space;
  friend auto operator<=>(const Tenant&, const Tenant&) = default;
};

/// Work of many tenants waits for few threads. In order of arrival, one tenant's flood would make
/// all others wait.
///
/// The next work is of the identity that has used the least time, and of the namespace of it that
/// has used the least. Time not used is not saved: an identity that was idle begins level with the
/// one that was served last. An identity has at most `most_running` pieces of work running. Within
/// a tenant, work keeps its order.
///
/// Pure: the caller brings the time. One thread at a time.
template <typename Work>
class FairQueue {
 public:
  struct Turn {
    Tenant tenant;
    Work work;
  };

  /// REQUIRES: most_running > 0.
  explicit FairQueue(std::size_t most_running) : most_running_(most_running) {
    CHECK(most_running > 0);
  }

  void push(const Tenant& tenant, Work work) {
    Identity& identity = identities_[tenant.identity];
    if (identity.waiting == 0 && identity.running == 0) {
      identity.used = std::max(identity.used, served_);
    }
    Namespace& in = identity.namespaces[tenant.name_space];
    if (in.works.empty()) in.used = std::max(in.used, identity.served);
    in.works.push_back(std::move(work));
    ++identity.waiting;
  }

  /// Nothing where nothing waits that may run now. The work runs until finished().
  std::optional<Turn> take() {
    auto next = identities_.end();
    for (auto at = identities_.begin(); at != identities_.end(); ++at) {
      const Identity& one = at->second;
      if (one.waiting == 0 || one.running == most_running_) continue;
      if (next == identities_.end() || one.order() < next->second.order()) next = at;
    }
    if (next == identities_.end()) return std::nullopt;
    Identity& identity = next->second;
    const auto in = std::ranges::min_element(identity.namespaces, {}, [](const auto& one) {
      return std::pair(one.second.works.empty(), one.second.used);
    });
    served_ = std::max(served_, identity.used);
    identity.served = std::max(identity.served, in->second.used);
    Turn turn{{next->first, in->first}, std::move(in->second.works.front())};
    in->second.works.pop_front();
    --identity.waiting;
    ++identity.running;
    return turn;
  }

  /// REQUIRES: take() gave work of this tenant, which has not finished yet.
  void finished(const Tenant& tenant, Nanoseconds took) {
    Identity& identity = identities_.at(tenant.identity);
    CHECK(identity.running > 0);
    --identity.running;
    took = std::max(took, kLeast);
    identity.used += took;
    identity.namespaces.at(tenant.name_space).used += took;
    forget_idle();
  }

 private:
  /// What any work counts, so that equals take turns.
  static constexpr Nanoseconds kLeast{1000};

  struct Namespace {
    Nanoseconds used{0};
    std::deque<Work> works;
  };
  struct Identity {
    Nanoseconds used{0};
    Nanoseconds served{0};  // what the namespace had used that was served last
    std::size_t waiting = 0;
    std::size_t running = 0;
    std::map<std::string, Namespace> namespaces;

    bool idle() const { return waiting == 0 && running == 0; }
    auto order() const { return std::pair(used, running); }
  };

  /// An idle identity is forgotten once others have used as much: it would begin level with them.
  void forget_idle() {
    const bool all_idle =
        std::ranges::all_of(identities_, [](const auto& one) { return one.second.idle(); });
    std::erase_if(identities_, [&](const auto& one) {
      return one.second.idle() && (all_idle || one.second.used <= served_);
    });
  }

  const std::size_t most_running_;
  Nanoseconds served_{0};  // what the identity had used that was served last
  std::map<std::string, Identity> identities_;
};

}  // namespace thaw
