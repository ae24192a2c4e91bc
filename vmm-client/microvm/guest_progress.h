#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "vmm-client/microvm/state.h"

namespace thaw {

/// What the guest writes to its serial port. Called on the vCPUs' threads, perhaps on several at
/// once; a guest that wants whole lines lets one vCPU write at a time.
using SerialSink = std::function<void(ByteSpan)>;

/// How far a guest has come: what it wrote, and whether and how it ended. A line that a vCPU has
/// written is a round of that vCPU. Locks itself.
class GuestProgress {
 public:
  /// Why a wait is over.
  enum class Event { kReached, kExited };

  explicit GuestProgress(SerialSink sink) : sink_(std::move(sink)) {}

  /// Continues from here, with a cursor for each vCPU. REQUIRES: no vCPU runs.
  void begin(std::uint64_t serial_bytes, const std::vector<SerialCursor>& cursors);
  /// Of each vCPU only so many lines reach the sink, counted from the VM's first start; one that
  /// was in parts at begin() is finished all the same.
  void show_at_most(std::uint64_t lines);

  // From the threads of the vCPUs.
  void write(std::size_t vcpu, ByteSpan bytes);
  void exit(std::uint32_t code);
  void fail_with(Error error);

  /// Waits until every vCPU has finished so many rounds since the VM's first start, or the guest
  /// has ended. The failure of a vCPU is returned as such.
  Result<Event> wait_for_rounds(std::uint64_t rounds);
  /// The same until the guest has written anything since begin().
  Result<Event> wait_for_output();

  std::uint64_t serial_bytes() const;
  SerialCursor cursor(std::size_t vcpu) const;
  std::optional<std::uint32_t> exit_code() const;
  /// When the guest wrote something for the first time since begin().
  std::optional<Clock::time_point> first_output() const;

 private:
  struct Output {
    SerialCursor cursor;
    bool in_parts = false;  // this line began before begin()
  };

  /// Whether the sink gets this byte. With mutex_ held.
  bool count(Output& output, std::byte byte) const;
  Result<Event> wait_until(const std::function<bool()>& reached);

  const SerialSink sink_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::uint64_t serial_bytes_ = 0;
  std::vector<Output> outputs_;  // of each vCPU
  std::uint64_t most_shown_ = UINT64_MAX;
  std::optional<Clock::time_point> first_output_;
  std::optional<std::uint32_t> exit_code_;
  std::optional<Error> failure_;
};

}  // namespace thaw
