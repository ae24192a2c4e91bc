#include "faulthandler/keep_message.h"

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "base/socket.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

/// A message as it is sent; its descriptors come in the order of their roles.
struct Frame {
  std::uint32_t kind;
  std::uint32_t roles;
  std::uint64_t session;
  std::uint64_t value;
};

bool is_known(std::uint32_t kind) {
  return kind >= static_cast<std::uint32_t>(KeepMessage::Kind::kKeep) &&
         kind <= static_cast<std::uint32_t>(KeepMessage::Kind::kClosing);
}

}  // namespace

Result<void> send_message(const UniqueFd& socket, const KeepMessage& message) {
  std::vector<int> descriptors;
  message.descriptors.for_each(
      [&](KeptRole, const UniqueFd& descriptor) { descriptors.push_back(descriptor.get()); });
  const std::array frame{Frame{static_cast<std::uint32_t>(message.kind),
                               message.descriptors.roles(), message.session, message.value}};
  const ByteSpan head = std::as_bytes(std::span(frame));
  const ByteSpan text = as_bytes(std::string_view(message.text).substr(0, limits::kMaxKeepText));
  Bytes bytes(head.begin(), head.end());
  bytes.insert(bytes.end(), text.begin(), text.end());
  return send_with_descriptors(socket, bytes, descriptors, Deadline::after(Nanoseconds(0)));
}

Result<std::optional<KeepMessage>> receive_message(const UniqueFd& socket) {
  std::array<std::byte, sizeof(Frame) + limits::kMaxKeepText> bytes;
  const auto receive = [&] { return receive_with_descriptors(socket, bytes); };
  auto attempt = receive();
  // An end that is closed with something unread is told of first, and once: what it said is there.
  if (!attempt && attempt.error().error_number() == ECONNRESET) attempt = receive();
  auto received = TRY(std::move(attempt));
  if (!received) return std::optional<KeepMessage>();
  if (received->bytes == 0) return fail(ErrorCode::kUnavailable, "it is gone");
  Frame frame{};
  if (received->bytes >= sizeof(Frame)) std::memcpy(&frame, bytes.data(), sizeof(Frame));
  const auto [kind, roles, session, value] = frame;
  if (!is_known(kind) || roles >= 1u << kKeptRoles ||
      static_cast<std::size_t>(std::popcount(roles)) != received->descriptors.size()) {
    return fail(ErrorCode::kProtocol, "a message that makes no sense");
  }
  const ByteSpan text = ByteSpan(bytes).first(received->bytes).subspan(sizeof(Frame));
  KeepMessage message{.kind = static_cast<KeepMessage::Kind>(kind),
                      .session = session,
                      .value = value,
                      .descriptors = {},
                      .text = std::string(as_text(text))};
  auto next = received->descriptors.begin();
  for (std::size_t i = 0; i < kKeptRoles; ++i) {
    if ((roles >> i & 1u) != 0) message.descriptors[static_cast<KeptRole>(i)] = std::move(*next++);
  }
  return message;
}

}  // namespace thaw
