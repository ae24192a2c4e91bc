#pragma once

#include <string>

#include "base/unique_fd.h"

namespace thaw::test {

/// The socket of a service manager, for $NOTIFY_SOCKET of the programs that a test starts.
class NotifySocket {
 public:
  explicit NotifySocket(const std::string& path);

  const UniqueFd& socket() const { return socket_; }
  /// Waits for this message, and drops others. False when it does not come.
  bool hears(const std::string& message);
  /// Drops what has come.
  void drain();

 private:
  UniqueFd socket_;
};

}  // namespace thaw::test
