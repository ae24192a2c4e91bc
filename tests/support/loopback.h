#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/socket.h"
#include "base/unique_fd.h"

namespace thaw::test {

/// Of this end of the connection, or of what listens.
TcpAddress address_of(const UniqueFd& socket);

/// A TCP socket that listens on a port of its own.
struct TcpListener {
  explicit TcpListener(const std::string& host = "127.0.0.1");

  UniqueFd socket;
  TcpAddress address;
};

/// Serves connections, each on a thread of its own, until it is destroyed.
class LoopbackServer {
 public:
  /// Ends soon after stopping().
  using Serve = std::function<void(UniqueFd client)>;
  explicit LoopbackServer(Serve serve);
  LoopbackServer(const LoopbackServer&) = delete;
  LoopbackServer& operator=(const LoopbackServer&) = delete;
  ~LoopbackServer();

  const std::string& address() const { return address_; }
  /// Whether it is being destroyed. Any thread.
  bool stopping() const { return stopping_; }

 private:
  void accept_all();

  const Serve serve_;
  TcpListener listener_;
  const std::string address_;
  std::atomic<bool> stopping_ = false;
  std::vector<std::jthread> connections_;
  std::jthread acceptor_;
};

}  // namespace thaw::test
