#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "base/bytes.h"
#include "tests/sim/machine.h"

namespace thaw::sim {

/// How bad a network is. Chances are of a thousand.
struct NetworkFaults {
  Nanoseconds latency{50'000};  // most, one way
  std::uint64_t bytes_per_ms = 1'000'000;
  unsigned refused = 0;     // connection attempts
  unsigned unanswered = 0;  // connection attempts
  unsigned cut = 0;         // connections, after a while, with what is under way
  unsigned silent = 0;      // connections, after a while: nothing arrives any more
  unsigned stalled = 0;     // connections: nothing arrives for a while
};

class Connection;

/// The network between the handler and its page server. One thread.
class Network {
 public:
  /// Who answers at the other end.
  class Listener {
   public:
    /// Whether the attempt is accepted.
    virtual bool accepts() const = 0;
    virtual void on_connection(const std::shared_ptr<Connection>& connection) = 0;

   protected:
    ~Listener() = default;
  };

  Network(Machine& machine, NetworkFaults faults) : machine_(machine), faults_(faults) {}

  Machine& machine() { return machine_; }
  const NetworkFaults& faults() const { return faults_; }
  /// From now on it is good, and what stood still goes on or ends.
  void heal();
  bool is_well() const { return well_; }
  void listen(Listener& listener) { listener_ = &listener; }
  Listener* listener() { return listener_; }
  /// A socket that is not connected yet.
  std::shared_ptr<Connection> make_socket();

 private:
  Machine& machine_;
  NetworkFaults faults_;
  bool well_ = false;
  Listener* listener_ = nullptr;
  std::deque<std::weak_ptr<Connection>> connections_;
};

/// A TCP connection: the descriptor of the handler's end, and beside it the server's end. Bytes
/// arrive in order, in pieces of any size, later or never.
class Connection final : public File, public std::enable_shared_from_this<Connection> {
 public:
  explicit Connection(Network& network) : network_(network) {}

  // The handler's end.
  short ready() const override;
  void on_death() override { shut_down(); }
  void begin_connect() override;
  std::optional<int> connected() override;
  std::optional<int> receive(MutableByteSpan to) override;
  std::optional<int> send(ByteSpan from) override;
  void shut_down();

  // The server's end.
  struct Server {
    std::function<void(ByteSpan)> on_data;
    std::function<void()> on_end;
  };
  void serve(Server server) { server_ = std::move(server); }
  void reply(Bytes bytes);

  /// Both ends find it broken; what is under way is lost.
  void cut(int error);
  bool is_silent() const { return silent_; }

 private:
  enum class State { kNew, kConnecting, kConnected, kEnded };
  struct Direction {
    Clock::time_point last;  // arrival of what was sent last
    std::uint64_t under_way = 0;
  };
  void deliver(Direction& direction, Bytes bytes, void (Connection::*arrive)(ByteSpan));
  void arrive_at_handler(ByteSpan bytes);
  void arrive_at_server(ByteSpan bytes);
  void draw_fate();
  void end(int error);

  Network& network_;
  State state_ = State::kNew;
  int error_ = 0;  // why it ended; 0: the other end closed it
  bool silent_ = false;
  Clock::time_point stalled_until_;
  Direction to_server_;
  Direction to_handler_;
  Bytes arrived_;  // and not received yet
  Server server_;
};

}  // namespace thaw::sim
