#include <optional>

#include "format/hash.h"
#include "pageserver/peer.h"
#include "tests/fuzz/input.h"
#include "tests/support/memory_store.h"
#include "tests/support/store_of.h"

namespace thaw {
namespace {

constexpr NamespaceId kMine{1};

/// A store with a namespace of the peer's and one of somebody else, each with a snapshot.
class Surroundings {
 public:
  Surroundings() {
    for (const char* const name : {"mine", "other"}) {
      const NamespaceId in = store_.open_namespace(name).value();
      push(in, name);
    }
  }

  test::MemoryStore& store() { return store_; }
  ServerCommon& server() { return server_; }

 private:
  void push(NamespaceId in, const char* name) {
    PlainPage page{};
    page[0] = std::byte{7};
    const Sha256 hash = Hasher().hash(page);
    Bytes chunk;
    ChunkCodec().encode(page, kNoChunk, chunk);
    const std::array chunks{NewChunk{hash, page, chunk}};
    PageMap map;
    map.append_chunks(store_.put_chunks(in, chunks, {}).value().front().id, {1});
    map.append_zero({3});
    Manifest manifest;
    manifest.spec.name = name;
    manifest.spec.memory = {4 * kPageBytes};
    manifest.statistics.new_pages = 1;
    CHECK(store_.publish(in, manifest, map, {}, {}, CreatedTime::kCredible));
  }

  test::MemoryStore store_;
  ServerCommon server_{test::store_of(1)};
};

Result<Reply> answer(Peer& peer, const Message& message, ByteSpan body) {
  if (peer.role() != message::Role::kControl) return peer.pages(message);
  auto step = peer.handle(message, body);
  while (step && !std::holds_alternative<Reply>(*step)) {
    CHECK(!std::holds_alternative<Peer::NeedsTurn>(*step));
    const bool builds = std::holds_alternative<Peer::NeedsBuild>(*step);
    step = builds ? peer.build(message) : peer.finish_write(message);
  }
  if (!step) return std::unexpected(step.error());
  return std::get<Reply>(*std::move(step));
}

/// What is served must be of the peer's own namespace, and fit a message.
void check(const Message& message, const Reply& reply) {
  std::size_t body_bytes = reply.owned.size();
  for (const ByteSpan piece : reply.pieces) body_bytes += piece.size();
  Bytes encoded;
  encode_message(reply.message, 1, body_bytes, encoded);
  if (const auto* const get = std::get_if<message::GetChunks>(&message)) {
    for (const ChunkId id : get->ids) CHECK(id.name_space() == kMine.value);
  }
}

/// An input is a role and messages as they are sent, heads and bodies included.
void run(ByteSpan input) {
  if (input.empty()) return;
  Surroundings surroundings;
  std::optional<Peer> peer(std::in_place, surroundings.store(), surroundings.server());
  const auto role = static_cast<message::Role>(std::to_integer<unsigned>(input[0]) % 3);
  CHECK(peer->hello(message::Hello{.role = role, .name_space = "mine"}));
  input = input.subspan(1);
  while (input.size() >= kWireHeadBytes) {
    const auto head = decode_wire_head(input.first<kWireHeadBytes>());
    if (!head || input.size() - kWireHeadBytes < head->header_bytes + head->body_bytes) break;
    const ByteSpan rest = input.subspan(kWireHeadBytes);
    const Bytes header(rest.begin(),
                       rest.begin() + static_cast<std::ptrdiff_t>(head->header_bytes));
    const ByteSpan body = rest.subspan(head->header_bytes, head->body_bytes);
    input = rest.subspan(head->header_bytes + head->body_bytes);
    const auto envelope = decode_message(header);
    if (!envelope) break;
    const auto reply = answer(*peer, envelope->message, body);
    if (reply) check(envelope->message, *reply);
  }
  peer.reset();
  CHECK(surroundings.server().connections.taken().by_all == 0);
  Traffic* const traffic = surroundings.server().enter(kMine);
  CHECK(traffic != nullptr && traffic->connections.fetch_sub(1) == 1);
  CHECK(surroundings.store().manifest(NamespaceId{2}, "other"));
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
