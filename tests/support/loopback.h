#pragma once

#include "base/socket.h"
#include "base/unique_fd.h"

namespace thaw::test {

/// A TCP socket that listens on a loopback port of its own.
struct LoopbackListener {
  LoopbackListener();

  UniqueFd socket;
  TcpAddress address;
};

}  // namespace thaw::test
