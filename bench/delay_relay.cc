#include "bench/delay_relay.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/socket.h"
#include "tests/support/loopback.h"
#include "tests/support/programs.h"

namespace thaw::bench {

namespace {

constexpr std::size_t kPieceBytes = 64u << 10;
constexpr std::size_t kMostPieces = 256;  // under way in one direction
constexpr unsigned long kTimerSlackNs = 1000;

/// What is under way in one direction.
class Pipe {
 public:
  /// Empty: the end. False when nobody takes any more.
  bool put(Bytes piece, Clock::time_point due) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return broken_ || pieces_.size() < kMostPieces; });
    if (broken_) return false;
    pieces_.push_back({std::move(piece), due});
    changed_.notify_all();
    return true;
  }
  Bytes take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !pieces_.empty(); });
    Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    changed_.notify_all();
    lock.unlock();
    std::this_thread::sleep_until(piece.due);
    return std::move(piece.bytes);
  }
  void break_off() {
    const std::lock_guard lock(mutex_);
    broken_ = true;
    changed_.notify_all();
  }

 private:
  struct Piece {
    Bytes bytes;
    Clock::time_point due;
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;  // guarded by mutex_
  bool broken_ = false;       // guarded by mutex_
};

/// Passes what comes from one socket to the other, late, until either ends.
void pass(const UniqueFd& from, const UniqueFd& to, Nanoseconds delay) {
  Pipe pipe;
  std::jthread sender([&] {
    ::prctl(PR_SET_TIMERSLACK, kTimerSlackNs);
    while (true) {
      const Bytes piece = pipe.take();
      if (piece.empty() || !send_all(to, piece, Deadline::after(test::kPatience))) break;
    }
    pipe.break_off();
    shut_down(from);
    shut_down(to);
  });
  while (true) {
    Bytes piece(kPieceBytes);
    const auto n = receive_resting(from, piece);
    piece.resize(n ? *n : 0);
    const bool ended = piece.empty();
    if (!pipe.put(std::move(piece), Clock::now() + delay) || ended) return;
  }
}

class ThreadedRelay final : public DelayRelay {
 public:
  ThreadedRelay(const std::string& host, const TcpAddress& server, Nanoseconds one_way)
      : listener_(host),
        address_(listener_.address.text()),
        server_(server),
        one_way_(one_way),
        acceptor_([this] { serve(); }) {}
  ~ThreadedRelay() override {
    shut_down(listener_.socket);
    acceptor_.join();
    for (const auto& connection : connections_) shut_down(connection->client);
  }
  const std::string& address() const override { return address_; }

 private:
  struct Connection {
    UniqueFd client;
    std::jthread thread;  // the last member: it uses the other
  };

  void serve() {
    while (true) {
      UniqueFd client(::accept4(listener_.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!client.valid()) return;
      connections_.push_back(std::make_unique<Connection>());
      Connection& connection = *connections_.back();
      connection.client = std::move(client);
      connection.thread = std::jthread([this, &connection] { connect(connection.client); });
    }
  }
  void connect(const UniqueFd& client) const {
    const auto server = connect_tcp(server_, Deadline::after(test::kPatience));
    if (!server || !make_blocking(client) || !make_blocking(*server)) return shut_down(client);
    const std::jthread back([&] { pass(*server, client, one_way_); });
    pass(client, *server, one_way_);
  }

  const test::TcpListener listener_;
  const std::string address_;
  const TcpAddress server_;
  const Nanoseconds one_way_;
  std::vector<std::unique_ptr<Connection>> connections_;  // of the acceptor, until it has ended
  std::jthread acceptor_;
};

}  // namespace

Result<std::unique_ptr<DelayRelay>> DelayRelay::start(const std::string& host,
                                                      const std::string& server,
                                                      Nanoseconds delay) {
  const TcpAddress to = TRY(resolve_tcp(server));
  return std::unique_ptr<DelayRelay>(std::make_unique<ThreadedRelay>(host, to, delay / 2));
}

}  // namespace thaw::bench
