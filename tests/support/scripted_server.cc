#include "tests/support/scripted_server.h"

#include <random>

#include "base/check.h"
#include "base/event_fd.h"
#include "tests/support/programs.h"
#include "tests/support/wire_message.h"

namespace thaw::test {

PlainPage content_of(ChunkId id) {
  std::mt19937_64 generator(id.value);
  PlainPage page;
  for (std::size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::byte>(generator() & 15);
  page[0] = std::byte{1};
  return page;
}

Bytes pack_of(std::span<const PackPage> pages) {
  Bytes plain;
  for (const PackPage& page : pages) {
    const PlainPage content = content_of(page.chunk);
    plain.insert(plain.end(), content.begin(), content.end());
  }
  return PackCodec().encode(pages, plain);
}

void ScriptedServer::welcome(message::Role role) {
  socket_ = accept_connection(listener_.socket, Deadline::after(kPatience)).value();
  const Envelope hello = receive();
  CHECK(std::get<message::Hello>(hello.message).role == role);
  send(message::Welcome{.store = store_}, hello.request_id, {});
}

void ScriptedServer::accept_and_be_left(message::Role role) {
  welcome(role);
  std::byte byte;
  const auto received = receive_some(socket_, {&byte, 1}, Deadline::after(kPatience));
  CHECK(received && *received == 0);
  socket_.reset();
}

void ScriptedServer::accept(message::Role role) {
  welcome(role);
  if (role != message::Role::kDemand) return;
  const Envelope pin = receive();
  CHECK(std::holds_alternative<message::Pin>(pin.message));
  send(message::Done{}, pin.request_id, {});
}

Envelope ScriptedServer::receive() {
  return receive_message(socket_, Deadline::after(kPatience)).value().envelope;
}

bool ScriptedServer::has_request() const {
  return wait_until_readable(socket_, Deadline::after(std::chrono::milliseconds(1)));
}

ScriptedServer::Request ScriptedServer::next_request() {
  const Envelope envelope = receive();
  const auto& get = std::get<message::GetChunks>(envelope.message);
  const auto required = get.ids.end() - get.optional;
  return {.id = envelope.request_id,
          .required = {get.ids.begin(), required},
          .optional = {required, get.ids.end()}};
}

void ScriptedServer::reply(const Request& request, std::size_t optional) {
  Bytes body;
  const auto add = [&](ChunkId id) {
    const std::size_t start = body.size();
    codec_.encode(content_of(id), id, body);
    if (tamper_) tamper_(id, MutableByteSpan(body).subspan(start));
  };
  for (const ChunkId id : request.required) add(id);
  for (std::size_t i = 0; i < optional; ++i) add(request.optional[i]);
  send(message::Chunks{.count = static_cast<std::uint32_t>(request.required.size() + optional)},
       request.id, body);
}

ScriptedServer::PackRequest ScriptedServer::next_pack_request() {
  const Envelope envelope = receive();
  return {.id = envelope.request_id, .pack = std::get<message::GetPack>(envelope.message)};
}

void ScriptedServer::reply(const PackRequest& request, std::span<const PackPage> pages) {
  Bytes pack = pack_of(pages);
  if (tamper_) tamper_(pages.front().chunk, pack);
  send(message::PackReply{}, request.id, pack);
}

void ScriptedServer::refuse(std::uint64_t request_id, ErrorCode code) {
  send(to_reply(Error(code, "as the test says")), request_id, {});
}

void ScriptedServer::send(const Message& message, std::uint64_t request_id, ByteSpan body) {
  Bytes bytes;
  encode_message(message, request_id, body.size(), bytes);
  bytes.insert(bytes.end(), body.begin(), body.end());
  send(bytes);
}

void ScriptedServer::send(ByteSpan bytes) {
  CHECK(send_all(socket_, bytes, Deadline::after(kPatience)).has_value());
}

}  // namespace thaw::test
