#include "faulthandler/handler_settings.h"

#include <array>
#include <span>

#include <nlohmann/json.hpp>

#include "base/event_fd.h"
#include "base/file.h"
#include "base/memory_file.h"
#include "base/socket.h"
#include "faulthandler/limits.h"

namespace thaw {

// Those of a program before or after this one may lack a member.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(TlsFiles, certificate, key, authority, revoked)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(TlsPem, certificate, key, authority, revoked)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(TransportFlags, tls, insecure)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(NamedServer, name, addresses)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(HandlerSettings, control, servers, transport,
                                                name_space, placement, spin, around, record_every,
                                                images_mib, index_mib, http, http_public, workers,
                                                log_file, verbose, no_sandbox, resolved, pem,
                                                command, record_version)

Result<UniqueFd> keep_settings(const HandlerSettings& settings) {
  // CBOR takes any bytes for text, such as those of a file name.
  const std::vector<std::uint8_t> cbor = nlohmann::json::to_cbor(nlohmann::json(settings));
  UniqueFd file = TRY(create_memory_file("thaw-settings", {cbor.size()}));
  TRY(write_at(file, std::as_bytes(std::span(cbor)), 0));
  // For reading: its holder can only read.
  return seal_memory_file(file);
}

Result<HandlerSettings> read_settings(const UniqueFd& file) {
  const std::uint64_t size = TRY(file_size(file)).value;
  if (size > limits::kMaxSettingsBytes) {
    return fail(ErrorCode::kTooLarge, "settings of {} bytes", size);
  }
  std::vector<std::uint8_t> cbor(size);
  TRY(read_at(file, std::as_writable_bytes(std::span(cbor)), 0));
  try {
    return nlohmann::json::from_cbor(cbor).get<HandlerSettings>();
  } catch (const nlohmann::json::exception& exception) {
    return fail(ErrorCode::kMalformed, "settings of a fault handler: {}", exception.what());
  }
}

Result<void> hand_over(const UniqueFd& connection, const UniqueFd& file) {
  const std::array descriptors{file.get()};
  const std::array<std::byte, 1> something{};
  return send_with_descriptors(connection, something, descriptors, Deadline::after(Nanoseconds(0)));
}

Result<UniqueFd> take_over(const UniqueFd& connection, Deadline deadline) {
  std::array<std::byte, 1> something{};
  while (true) {
    auto received = TRY(receive_with_descriptors(connection, something));
    if (received && received->descriptors.size() == 1) {
      return std::move(received->descriptors.front());
    }
    if (received && received->bytes == 0) return fail(ErrorCode::kUnavailable, "it is gone");
    if (received) return fail(ErrorCode::kProtocol, "a message without its descriptor");
    if (!wait_until_readable(connection, deadline)) {
      return fail(ErrorCode::kTimeout, "no descriptor came");
    }
  }
}

}  // namespace thaw
