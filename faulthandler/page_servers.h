#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/socket.h"
#include "faulthandler/origin.h"
#include "format/page_client.h"

namespace thaw {

/// The page servers of a fault handler, as threads use them that may wait: one after the other, the
/// one that answered last before the others. Any thread.
class PageServers {
 public:
  explicit PageServers(std::vector<ServerAddress> addresses) : addresses_(std::move(addresses)) {}

  std::vector<ServerAddress> addresses() const {
    const std::lock_guard lock(mutex_);
    return addresses_;
  }
  /// From now on these are the servers.
  void set(std::vector<ServerAddress> addresses) {
    const std::lock_guard lock(mutex_);
    addresses_ = std::move(addresses);
  }

  /// Connects to one server after the other until `ask` has got from it what it wants. A server
  /// that is away, silent, damaged, without what is asked for, or not the one to ask is passed
  /// over. What the first of them said is the error; but that one is away if that may be why nobody
  /// has it. kStopped soon after a stop was requested.
  Result<void> ask(const std::string& name_space,
                   const std::function<Result<void>(PageClient&)>& ask,
                   const std::stop_token& stop = {});
  /// Tells all of them that keep the origin's store. It is enough that one of them takes it; else
  /// what the last of them said, kWrongStore of one that keeps another.
  Result<void> tell_all(const Origin& origin,
                        const std::function<Result<void>(PageClient&)>& tell) const;

 private:
  mutable std::mutex mutex_;
  std::vector<ServerAddress> addresses_;  // guarded by mutex_
  std::atomic<std::size_t> last_ = 0;     // that answered
};

}  // namespace thaw
