#include "faulthandler/control_server.h"

#include "base/file.h"
#include "base/log.h"
#include "base/socket.h"
#include "faulthandler/limits.h"
#include "format/control_channel.h"

namespace thaw {

namespace {
constexpr unsigned kThreads = 4;
}  // namespace

ControlServer::ControlServer(std::string path, UniqueFd listener, Daemon& daemon)
    : path_(std::move(path)),
      daemon_(daemon),
      threads_("control socket", std::move(listener), kThreads,
               [this](const UniqueFd& connection) { answer(connection); }) {}

ControlServer::~ControlServer() { remove_file(path_); }

void ControlServer::answer(const UniqueFd& connection) const {
  const auto line = receive_control_line(connection, Deadline::after(limits::kControlTimeout));
  if (!line) return log_warning("control socket: {}", line.error().message());
  const auto request = decode_control_request(*line);
  const ControlReply reply = request ? daemon_.handle(*request) : ControlReply(request.error());
  const auto sent = send_all(connection, as_bytes(encode_control_reply(reply)),
                             Deadline::after(limits::kControlTimeout));
  if (!sent) log_warning("control socket: {}", sent.error().message());
}

}  // namespace thaw
