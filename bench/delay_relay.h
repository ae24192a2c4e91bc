#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/error.h"

namespace thaw::bench {

/// A TCP relay that holds back each byte for half of the delay that it adds to a round trip. On the
/// host of the thread that makes it; ends its connections when it is destroyed.
class DelayRelay {
 public:
  /// Listens on `host` for connections to `server`, both as for resolve_tcp().
  static Result<std::unique_ptr<DelayRelay>> start(const std::string& host,
                                                   const std::string& server, Nanoseconds delay);
  virtual ~DelayRelay() = default;
  virtual const std::string& address() const = 0;
};

}  // namespace thaw::bench
