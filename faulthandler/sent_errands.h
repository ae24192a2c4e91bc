#pragma once

#include <cerrno>
#include <cstdint>
#include <list>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "faulthandler/errand_messages.h"
#include "faulthandler/errands.h"
#include "faulthandler/loop.h"

namespace thaw {

/// A handler's errands, done by its supervisor (ErrandService). One that is not done in time has
/// failed, and its session has no other done until the supervisor answers: a VMM can make looks at
/// it take as long as it likes. When the supervisor is gone, or says what makes no sense, all fail
/// at once. On the loop's thread; in place before the loop runs, and destroyed after it has.
class SentErrands final : public Errands {
 public:
  /// `supervisor` is this end of a connection of its own (create_message_pair()).
  SentErrands(Loop& loop, UniqueFd supervisor);
  SentErrands(const SentErrands&) = delete;
  SentErrands& operator=(const SentErrands&) = delete;
  virtual ~SentErrands() = default;

  void begin(ErrandTask& task, std::uint64_t session, Errand errand,
             const ErrandSubject& subject) override;
  void forget(ErrandTask& task) override;

 private:
  struct Entry {
    ErrandRequest request;
    ErrandTask* task;  // nullptr: it does not wait any more
    Clock::time_point due;
    bool sent = false;
  };

  void on_readable(int result);
  /// False when there is nothing more.
  Result<bool> receive_one();
  Result<void> take_answer(ByteSpan bytes, std::vector<UniqueFd> descriptors);
  void on_timer();
  /// What can be sent of what waits.
  void send_waiting();
  /// Sessions of which nothing is known although it is time.
  std::size_t stuck() const;
  void await_next();
  void close(const std::string& why);

  Loop& loop_;
  const UniqueFd socket_;
  Bytes buffer_;
  std::list<Entry> entries_;           // in the order of their times
  std::set<std::uint64_t> under_way_;  // sessions of which the supervisor has one
  std::uint64_t last_ = 0;             // number of an errand
  std::string closed_;                 // why; empty: it is not
  Operation receiving_{[this](int result) { on_readable(result); }};
  Operation waiting_{[this](int result) {
    if (result == -ETIME) on_timer();
  }};
};

}  // namespace thaw
