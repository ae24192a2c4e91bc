#pragma once

#include <string>

#include "base/socket.h"
#include "base/unique_fd.h"

namespace thaw::test {

/// A TCP socket that listens on a port of its own.
struct TcpListener {
  explicit TcpListener(const std::string& host = "127.0.0.1");

  UniqueFd socket;
  TcpAddress address;
};

}  // namespace thaw::test
