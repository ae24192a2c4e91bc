#include "tests/sim/network.h"

#include <algorithm>
#include <cerrno>

#include <poll.h>

namespace thaw::sim {

namespace {

constexpr std::uint64_t kMostUnderWay = 256u << 10;  // bytes that send() takes
constexpr std::uint64_t kMostSegment = 64u << 10;
constexpr std::chrono::milliseconds kMostLife{2000};  // of a connection that is to end badly
constexpr std::chrono::milliseconds kMostStall{8000};

}  // namespace

std::shared_ptr<Connection> Network::make_socket() {
  auto connection = std::make_shared<Connection>(*this);
  connections_.push_back(connection);
  return connection;
}

void Network::heal() {
  faults_ = {};
  well_ = true;
  for (const auto& each : connections_) {
    const auto connection = each.lock();
    if (connection != nullptr && connection->is_silent()) connection->cut(ETIMEDOUT);
  }
}

short Connection::ready() const {
  return !arrived_.empty() || state_ == State::kEnded ? POLLIN : 0;
}

void Connection::begin_connect() {
  Machine& machine = network_.machine();
  state_ = State::kConnecting;
  machine.schedule().after(
      machine.random().duration(network_.faults().latency * 2), [self = shared_from_this()] {
        Network& network = self->network_;
        Random& random = network.machine().random();
        if (self->state_ != State::kConnecting) return;
        if (random.chance(network.faults().unanswered)) return;
        if (random.chance(network.faults().refused) || !network.listener()->accepts()) {
          network.machine().schedule().note("a connection is refused");
          return self->end(ECONNREFUSED);
        }
        network.machine().schedule().note("a connection is made");
        self->state_ = State::kConnected;
        self->draw_fate();
        network.listener()->on_connection(self);
        network.machine().notify();
      });
}

void Connection::draw_fate() {
  Machine& machine = network_.machine();
  Random& random = machine.random();
  const NetworkFaults& faults = network_.faults();
  const Nanoseconds life = random.duration(kMostLife);
  const auto befall = [&](auto fate) {
    machine.schedule().after(life, [self = shared_from_this(), fate] {
      if (!self->network_.is_well()) fate(*self);
    });
  };
  if (random.chance(faults.cut)) {
    befall([](Connection& self) { self.cut(ECONNRESET); });
  } else if (random.chance(faults.silent)) {
    befall([](Connection& self) { self.silent_ = true; });
  } else if (random.chance(faults.stalled)) {
    befall([](Connection& self) {
      Machine& here = self.network_.machine();
      self.stalled_until_ = here.schedule().now() + here.random().duration(kMostStall);
    });
  }
}

std::optional<int> Connection::connected() {
  switch (state_) {
    case State::kConnected:
      return 0;
    case State::kEnded:
      return error_ != 0 ? -error_ : -ECONNRESET;
    default:
      return std::nullopt;
  }
}

std::optional<int> Connection::receive(MutableByteSpan to) {
  if (arrived_.empty()) {
    return state_ == State::kEnded ? std::optional(-error_) : std::nullopt;
  }
  std::size_t count = std::min(arrived_.size(), to.size());
  if (network_.machine().random().chance(200)) {
    count = network_.machine().random().from_to(1, count);
  }
  std::copy_n(arrived_.begin(), count, to.begin());
  arrived_.erase(arrived_.begin(), arrived_.begin() + static_cast<std::ptrdiff_t>(count));
  return static_cast<int>(count);
}

std::optional<int> Connection::send(ByteSpan from) {
  if (state_ == State::kEnded) return -EPIPE;
  if (to_server_.under_way >= kMostUnderWay) return std::nullopt;
  std::size_t count = std::min<std::size_t>(from.size(), kMostUnderWay - to_server_.under_way);
  if (network_.machine().random().chance(50)) {
    count = network_.machine().random().from_to(1, count);
  }
  deliver(to_server_, Bytes(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(count)),
          &Connection::arrive_at_server);
  return static_cast<int>(count);
}

void Connection::reply(Bytes bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t count = std::min<std::size_t>(
        bytes.size() - at, network_.machine().random().from_to(1, kMostSegment));
    const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    deliver(to_handler_, Bytes(from, from + static_cast<std::ptrdiff_t>(count)),
            &Connection::arrive_at_handler);
    at += count;
  }
}

void Connection::deliver(Direction& direction, Bytes bytes, void (Connection::*arrive)(ByteSpan)) {
  Machine& machine = network_.machine();
  Schedule& schedule = machine.schedule();
  const Nanoseconds transfer(
      static_cast<std::int64_t>(bytes.size() * 1'000'000 / network_.faults().bytes_per_ms));
  const auto soonest = schedule.now() + machine.random().duration(network_.faults().latency);
  direction.last = std::max({soonest, direction.last, stalled_until_}) + transfer + Nanoseconds(1);
  direction.under_way += bytes.size();
  schedule.after(direction.last - schedule.now(),
                 [self = shared_from_this(), &direction, bytes = std::move(bytes), arrive] {
                   direction.under_way -= bytes.size();
                   if (!self->silent_) ((*self).*arrive)(bytes);
                   self->network_.machine().notify();
                 });
}

void Connection::arrive_at_handler(ByteSpan bytes) {
  if (state_ == State::kEnded) return;
  arrived_.insert(arrived_.end(), bytes.begin(), bytes.end());
}

void Connection::arrive_at_server(ByteSpan bytes) {
  if (state_ != State::kEnded && server_.on_data) server_.on_data(bytes);
}

void Connection::shut_down() {
  arrived_.clear();
  if (state_ != State::kEnded) end(0);
}

void Connection::cut(int error) {
  if (state_ == State::kEnded) return;
  network_.machine().schedule().note("a connection is cut");
  // Of what has arrived a part may have been received before.
  if (network_.machine().random().chance(500)) arrived_.clear();
  end(error);
}

void Connection::end(int error) {
  state_ = State::kEnded;
  error_ = error;
  network_.machine().notify();
  if (!server_.on_end) return;
  // What serves it may be in the midst of doing so.
  network_.machine().schedule().after(Nanoseconds(1), std::exchange(server_, {}).on_end);
}

}  // namespace thaw::sim
