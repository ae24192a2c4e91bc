#include "tests/sim/sim_server.h"

#include <cerrno>

namespace thaw::sim {

/// One connection, which answers a request after the other.
struct SimServer::Served {
  std::shared_ptr<Connection> connection;
  std::optional<Peer> peer;  // nothing: the connection has ended
  Bytes arrived;
  bool greeted = false;
  bool busy = false;
};

SimServer::SimServer(Network& network, SimStore& store, const StoreId& id)
    : network_(network), store_(store), state_(id) {
  network_.listen(*this);
}

void SimServer::go_away() {
  network_.machine().schedule().note("the server goes away");
  away_ = true;
  for (const auto& connection : std::vector(connections_)) connection->cut(ECONNRESET);
}

void SimServer::on_connection(const std::shared_ptr<Connection>& connection) {
  connections_.push_back(connection);
  const auto served = std::make_shared<Served>();
  served->connection = connection;
  served->peer.emplace(store_, state_);
  connection->serve({.on_data =
                         [this, served](ByteSpan bytes) {
                           served->arrived.insert(served->arrived.end(), bytes.begin(),
                                                  bytes.end());
                           go_on(served);
                         },
                     .on_end =
                         [this, served] {
                           std::erase(connections_, served->connection);
                           served->peer.reset();
                         }});
}

void SimServer::go_on(const std::shared_ptr<Served>& served) {
  if (served->busy || !served->peer || served->arrived.size() < kWireHeadBytes) return;
  const auto head = decode_wire_head(ByteSpan(served->arrived).first<kWireHeadBytes>());
  if (!head) return network_.machine().schedule().violate("the handler sends what is no message");
  const std::size_t size = kWireHeadBytes + head->header_bytes + head->body_bytes;
  if (served->arrived.size() < size) return;
  const auto end = served->arrived.begin() + static_cast<std::ptrdiff_t>(size);
  const Bytes request(served->arrived.begin() + kWireHeadBytes, end);
  served->arrived.erase(served->arrived.begin(), end);
  served->busy = true;
  Machine& machine = network_.machine();
  machine.schedule().after(machine.random().duration(service_time_), [this, served, request] {
    served->busy = false;
    if (!served->peer) return;
    answer(served, request);
    go_on(served);
  });
}

void SimServer::answer(const std::shared_ptr<Served>& served, const Bytes& request) {
  const auto envelope = decode_message(request);
  if (!envelope) return network_.machine().schedule().violate(envelope.error().message());
  const bool is_first = !std::exchange(served->greeted, true);
  const auto answered =
      is_first ? served->peer->hello(envelope->message) : served->peer->pages(envelope->message);
  Message reply = answered ? answered->message : Message(to_reply(answered.error()));
  std::uint64_t request_id = envelope->request_id;
  Bytes body;
  if (answered) {
    body = answered->owned;
    for (const ByteSpan piece : answered->pieces) {
      body.insert(body.end(), piece.begin(), piece.end());
    }
  }
  if (network_.machine().random().chance(lies_)) distort(reply, request_id, body);
  Bytes bytes;
  encode_message(reply, request_id, body.size(), bytes);
  bytes.insert(bytes.end(), body.begin(), body.end());
  served->connection->reply(std::move(bytes));
}

/// What a server may say that is broken, or is not ours any more.
void SimServer::distort(Message& message, std::uint64_t& request_id, Bytes& body) {
  Random& random = network_.machine().random();
  has_lied_ = true;
  network_.machine().schedule().note("the server lies");
  if (auto* const welcome = std::get_if<message::Welcome>(&message)) {
    welcome->store.bytes[0] ^= std::byte{1};
    return;
  }
  switch (random.below(6)) {
    case 0:
      request_id += random.from_to(1, 3);
      break;
    case 1:
      request_id -= std::min(request_id, random.from_to(1, 3));
      break;
    case 2:
      body.resize(random.below(body.size() + 1));
      break;
    case 3:
      body.resize(body.size() + random.from_to(1, 100));
      break;
    case 4:
      message = message::Chunks{static_cast<std::uint32_t>(random.below(100))};
      break;
    default:
      message = message::Done{};
  }
}

bool SimServer::nothing_is_pinned(SnapshotId snapshot) {
  return state_.pins.unless_pinned({1}, snapshot, [] { return Result<void>(); }).value_or(false);
}

}  // namespace thaw::sim
