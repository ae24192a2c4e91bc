#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "base/bytes.h"
#include "base/unique_fd.h"
#include "tests/support/loopback.h"

namespace thaw::test {

/// A TCP relay in front of a server that sees, changes or cuts what passes.
class Relay {
 public:
  enum class Way { kToServer, kToClient };
  /// Called with each piece that goes `way`, of which `before` bytes have passed on this
  /// connection; may change it, and cuts the connection by returning false. On two threads of
  /// each connection, one for each way.
  using Tamper = std::function<bool(Way way, std::size_t before, MutableByteSpan piece)>;

  Relay(std::string server, Tamper tamper);

  const std::string& address() const { return clients_.address(); }

 private:
  void connect(UniqueFd client);
  void pass(Way way, const UniqueFd& from, const UniqueFd& to);

  const std::string server_;
  const Tamper tamper_;
  LoopbackServer clients_;  // the last member: its threads use the others
};

}  // namespace thaw::test
