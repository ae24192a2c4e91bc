#pragma once

#include <memory>

#include "base/error.h"
#include "base/http.h"
#include "base/unique_fd.h"

namespace thaw {

/// Shows pages to every client that connects to a listening socket.
///
/// A client may connect and stay silent, so no client has a thread. One thread polls up to
/// limits::kHttpConnections connections. When one more comes, one is closed: one that has not asked
/// before one that waits for its page, of the network that has most connections, and the oldest of
/// these. So who floods the port keeps no other host out. A client has limits::kHttpExchange to
/// ask, and again as long to take the reply. Pages that may wait for other threads are made on a
/// second thread, one after the other.
class HttpPort {
 public:
  /// The listener must not block. kLimitExceeded when no thread can be started.
  static Result<std::unique_ptr<HttpPort>> open(UniqueFd listener, HttpPages pages);
  HttpPort(const HttpPort&) = delete;
  HttpPort& operator=(const HttpPort&) = delete;
  /// Takes as long as the page that is being made.
  ~HttpPort();

 private:
  struct Parts;
  explicit HttpPort(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

}  // namespace thaw
