#pragma once

#include <cerrno>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/descriptor_reserve.h"
#include "faulthandler/kept_session.h"
#include "faulthandler/limits.h"
#include "faulthandler/loop.h"

namespace thaw {

/// One message between a handler and its supervisor, which are of one build or follow one another.
struct KeepMessage {
  enum class Kind : std::uint32_t {
    // From the handler.
    kKeep = 1,       // a new session; its VMM may come
    kDrop = 2,       // it has ended
    kServing = 3,    // all kept sessions are served again
    kUpgrade = 4,    // the supervisor becomes the program that is installed now, if that can serve
    kInHand = 9,     // the session that is adopted from now on, or whose VMM has come; 0: none
    kSettings = 10,  // what the next handler is to run by, which stands in kRecord
    // From the supervisor.
    kKept = 5,     // a session of the handler before; session 0 is the control socket, its listener
                   // `value`: how many handlers in a row have stood still on its memory
    kAllKept = 6,  // that is all; `value`: the highest number that a session has had
    kArrived = 7,  // what became of the wait for a session's VMM; without descriptors: it cannot
                   // be served, as `text` says
    kOutage = 8,   // how long nobody served: `value`, in nanoseconds; `session`: 1, an upgrade
    kUpgraded = 11,  // `value`: upgrades that have come to their end; `text`: why the last one
                     // failed, empty if it did not
  };
  Kind kind{};
  std::uint64_t session = 0;
  std::uint64_t value = 0;
  KeptSession descriptors{};
  std::string text{};  // at most limits::kMaxKeepText bytes of it are sent
};

/// One end of the connection between them (create_message_pair()). Messages that cannot be sent at
/// once wait here. On the loop's thread.
class KeepChannel {
 public:
  enum class End {
    kOther,    // the other end is gone, or says what makes no sense
    kGivenUp,  // this end could not go on
  };
  /// `on_message` gets what comes, `on_closed` is called once when nothing comes any more. The
  /// other end learns of it after the call.
  KeepChannel(Loop& loop, UniqueFd socket, std::function<void(KeepMessage)> on_message,
              std::function<void(End)> on_closed);
  KeepChannel(const KeepChannel&) = delete;
  KeepChannel& operator=(const KeepChannel&) = delete;

  /// Nothing once it is closed. A message that the kernel does not take is sent again, for
  /// limits::kKeepSendPatience. Then, and when limits::kMaxKeepMessages wait, this end gives up:
  /// the connection closes, and the supervisor replaces the handler by one that is told of all
  /// again.
  void send(KeepMessage message);
  /// This end cannot go on with what it was told.
  void give_up(const std::string& reason);
  /// Whether another message with descriptors could be received.
  bool has_room() { return reserve_.refill(); }
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
  DescriptorReserve reserve_{socket_};
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
