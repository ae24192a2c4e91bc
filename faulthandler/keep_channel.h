#pragma once

#include <cerrno>
#include <deque>
#include <functional>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/descriptor_reserve.h"
#include "faulthandler/keep_message.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"

namespace thaw {

/// One end of a connection for messages (create_message_pair()). Those that cannot be sent at once
/// wait here. On the loop's thread.
class KeepChannel {
 public:
  enum class End {
    kOther,    // the other end is gone, or says what makes no sense
    kGivenUp,  // this end could not go on
  };
  /// `on_message` gets what comes, `on_closed` is called once when nothing comes any more. The
  /// other end learns of it after the call. Channels of one thread may share `reserve`.
  KeepChannel(Loop& loop, UniqueFd socket, DescriptorReserve& reserve,
              std::function<void(KeepMessage)> on_message, std::function<void(End)> on_closed);
  KeepChannel(const KeepChannel&) = delete;
  KeepChannel& operator=(const KeepChannel&) = delete;

  /// Nothing once it is closed. A message that the kernel does not take is sent again, for
  /// limits::kKeepSendPatience. Then, and when limits::kMaxKeepMessages wait, this end gives up:
  /// the connection closes, and the supervisor replaces the other process by one that is told of
  /// all again.
  void send(KeepMessage message);
  /// This end cannot go on with what it was told.
  void give_up(const std::string& reason);
  /// Whether another message with descriptors could be received.
  bool has_room() { return reserve_.refill(socket_); }
  /// Takes what the other end has said before it died.
  void drain();
  void close();
  bool closed() const { return closed_; }
  /// Whether it may be destroyed.
  bool finished() const {
    return !receiving_.active() && !sending_.active() && !resting_.active() && !retrying_.active();
  }

 private:
  void on_readable(int result);
  void on_rested(int result);
  void receive_all();
  void on_writable(int result);
  Result<bool> receive_one();
  void flush();
  void on_not_sent(const Error& error);

  Loop& loop_;
  const UniqueFd socket_;
  const std::function<void(KeepMessage)> on_message_;
  const std::function<void(End)> on_closed_;
  std::deque<KeepMessage> waiting_;
  bool closed_ = false;
  DescriptorReserve& reserve_;
  std::optional<Clock::time_point> unsent_since_;  // when the kernel took the last message not
  Nanoseconds pause_{limits::kKeepSendFirst};      // before it is sent again
  Operation receiving_{[this](int result) { on_readable(result); }};
  Operation resting_{[this](int result) { on_rested(result); }};
  Operation sending_{[this](int result) { on_writable(result); }};
  Operation retrying_{[this](int result) {
    if (result == -ETIME && !closed_) flush();
  }};
};

}  // namespace thaw
