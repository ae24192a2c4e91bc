#include "format/control_channel.h"

#include "base/socket.h"
#include "format/limits.h"

namespace thaw {

Result<std::string> receive_control_line(const UniqueFd& socket, Deadline deadline) {
  std::string line;
  std::array<std::byte, 4096> piece;
  while (line.size() <= limits::kMaxControlBytes) {
    const std::size_t n = TRY(receive_some(socket, piece, deadline));
    if (n == 0) return fail(ErrorCode::kTruncated, "the peer closed within a control message");
    line.append(as_text(ByteSpan(piece).first(n)));
    if (line.back() == '\n') {
      line.pop_back();
      return line;
    }
  }
  return fail(ErrorCode::kTooLarge, "a control message of more than {} bytes",
              limits::kMaxControlBytes);
}

Result<ControlReply> ask_fault_handler(const std::string& socket_path,
                                       const ControlRequest& request,
                                       std::span<const int> descriptors) {
  const bool prepares = std::holds_alternative<control::Prepare>(request);
  const Deadline deadline =
      Deadline::after(prepares ? limits::kCommitTimeout : limits::kRequestTimeout);
  const auto socket = connect_unix(socket_path, deadline);
  if (!socket) {
    if (socket.error().code() != ErrorCode::kNotFound) return std::unexpected(socket.error());
    return fail(ErrorCode::kUnavailable, "no fault handler listens at {}", socket_path);
  }
  const std::string text = encode_control_request(request);
  TRY(send_with_descriptors(*socket, as_bytes(text), descriptors, deadline));
  const auto line = receive_control_line(*socket, deadline);
  if (!line && line.error().code() == ErrorCode::kTruncated) {
    return fail(ErrorCode::kUnavailable, "the fault handler at {} went away", socket_path);
  }
  if (!line && line.error().code() == ErrorCode::kTimeout) {
    return fail(ErrorCode::kTimeout, "the fault handler at {} does not answer", socket_path);
  }
  ControlReply reply = TRY(decode_control_reply(TRY(line)));
  if (auto* const error = std::get_if<Error>(&reply)) return std::unexpected(std::move(*error));
  return reply;
}

}  // namespace thaw
