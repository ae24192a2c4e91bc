#include "tests/support/scripted_handler.h"

#include "base/check.h"
#include "base/socket.h"
#include "format/control_channel.h"
#include "tests/support/programs.h"

namespace thaw::test {

ScriptedHandler::ScriptedHandler(const std::string& socket_path, Answer answer)
    : listener_(listen_unix(socket_path, std::nullopt).value()),
      answer_(std::move(answer)),
      thread_([this](const std::stop_token& stop) { serve(stop); }) {}

void ScriptedHandler::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const auto connection =
        accept_connection(listener_, Deadline::after(std::chrono::milliseconds(20)));
    if (!connection) continue;
    const Deadline deadline = Deadline::after(kPatience);
    const std::string line = receive_control_line(*connection, deadline).value();
    const ControlRequest request = decode_control_request(line).value();
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    CHECK(send_all(*connection, as_bytes(encode_control_reply(answer_(request))), deadline));
  }
}

}  // namespace thaw::test
