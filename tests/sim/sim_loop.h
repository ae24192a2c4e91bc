#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "faulthandler/loop.h"
#include "tests/sim/machine.h"

namespace thaw::sim {

/// The handler's loop on a simulated machine. Its turns come late now and then, and what they find
/// completes in any order. The schedule runs it, not run().
class SimLoop final : public Loop {
 public:
  explicit SimLoop(Machine& machine);
  SimLoop(const SimLoop&) = delete;
  SimLoop& operator=(const SimLoop&) = delete;
  ~SimLoop() override;

  /// Called at the end of each turn.
  void set_after_turn(std::function<void()> after) { after_turn_ = std::move(after); }
  std::size_t under_way() const { return pending_.size(); }
  /// Its process ends: what is under way completes as at the end of run().
  void finish();
  /// Its process has died: nothing completes any more, and nobody is called.
  void abandon();

  void poll(const UniqueFd& fd, short events, Operation& operation) override;
  void keep_at_hand(MutableByteSpan) override {}
  void receive(const UniqueFd& socket, MutableByteSpan to, Operation& operation) override;
  void send(const UniqueFd& socket, ByteSpan from, Operation& operation) override;
  void connect(const UniqueFd& socket, const TcpAddress& address, Operation& operation) override;
  void wait(Nanoseconds duration, Operation& operation) override;
  void cancel(Operation& operation) override;
  void set_spin(Nanoseconds) override {}
  void run(const Turn&) override;
  void stop() override;

 private:
  struct Pending {
    Operation* operation;
    std::shared_ptr<File> file;  // kept, as the kernel keeps it; nullptr: a timer
    /// Its result, which trying takes; nothing: it is not there yet.
    std::function<std::optional<int>()> attempt;
    bool cancelled = false;
  };
  void begin(const UniqueFd& fd, Operation& operation,
             std::function<std::optional<int>(File&)> attempt);
  void look_soon();
  void turn();
  void complete_all();

  Machine& machine_;
  const unsigned process_;  // whose it is
  const std::size_t watcher_;
  std::function<void()> after_turn_;
  std::vector<Pending> pending_;
  bool turn_is_due_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace thaw::sim
