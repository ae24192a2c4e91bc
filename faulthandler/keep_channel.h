#pragma once

#include <cstdint>
#include <deque>
#include <functional>

#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/kept_session.h"
#include "faulthandler/loop.h"

namespace thaw {

/// One message between a handler and its supervisor, which are of one build or follow one another.
struct KeepMessage {
  enum class Kind : std::uint32_t {
    // From the handler.
    kKeep = 1,     // a new session; its VMM may come
    kDrop = 2,     // it has ended
    kServing = 3,  // all kept sessions are served again
    kUpgrade = 4,  // the supervisor becomes the program that is installed now, and starts another
                   // handler
    // From the supervisor.
    kKept = 5,     // a session of the handler before; session 0 is the control socket, its listener
    kAllKept = 6,  // that is all; `value`: the highest number that a session has had
    kArrived = 7,  // what became of the wait for a session's VMM
    kOutage = 8,   // how long nobody served: `value`, in nanoseconds
  };
  Kind kind{};
  std::uint64_t session = 0;
  std::uint64_t value = 0;
  KeptSession descriptors{};
};

/// One end of the connection between them (create_message_pair()). Messages that cannot be sent at
/// once wait here. On the loop's thread.
class KeepChannel {
 public:
  /// `on_message` gets what comes, `on_closed` is called once when nothing comes any more: the
  /// other end is gone, or says what makes no sense.
  KeepChannel(Loop& loop, UniqueFd socket, std::function<void(KeepMessage)> on_message,
              std::function<void()> on_closed);
  KeepChannel(const KeepChannel&) = delete;
  KeepChannel& operator=(const KeepChannel&) = delete;

  /// Nothing once it is closed. Dropped, loudly, when limits::kMaxKeepMessages wait.
  void send(KeepMessage message);
  /// Takes what the other end has said before it died.
  void drain();
  void close();
  bool closed() const { return closed_; }
  /// Whether it may be destroyed.
  bool finished() const { return !receiving_.active() && !sending_.active() && !resting_.active(); }

 private:
  void on_readable(int result);
  void on_rested(int result);
  void receive_all();
  /// Whether a message's descriptors can be received: those for which there is no number are lost.
  bool has_room() const;
  void on_writable(int result);
  Result<bool> receive_one();
  void flush();

  Loop& loop_;
  const UniqueFd socket_;
  const std::function<void(KeepMessage)> on_message_;
  const std::function<void()> on_closed_;
  std::deque<KeepMessage> waiting_;
  bool closed_ = false;
  Operation receiving_{[this](int result) { on_readable(result); }};
  Operation resting_{[this](int result) { on_rested(result); }};
  Operation sending_{[this](int result) { on_writable(result); }};
};

}  // namespace thaw
