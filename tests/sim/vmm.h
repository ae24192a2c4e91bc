#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "tests/sim/guest_memory.h"
#include "tests/sim/machine.h"
#include "tests/sim/snapshot.h"
#include "tests/sim/unix_socket.h"
#include "tests/sim/userfaultfd.h"

namespace thaw::sim {

/// What a simulated VMM and its guest do.
struct VmmOptions {
  unsigned vcpus = 1;
  unsigned accesses = 50;     // of each vCPU
  unsigned writes = 200;      // of a thousand accesses
  Nanoseconds think{50'000};  // most, between two accesses
  // How often each changes memory while it runs.
  unsigned removals = 0;
  unsigned unmaps = 0;
  unsigned moves = 0;
  unsigned signals = 0;  // that wake a waiting vCPU for no reason
  /// Whether it keeps a userfaultfd of its own, as Firecracker does.
  bool keeps_userfaultfd = true;
  /// Whether it closes its connection after the handoff, as older ones do.
  bool closes_connection = false;
  /// Whether it maps what the handler gives it, instead of memory of its own.
  bool shared = false;
};

/// A VMM and its guest: vCPUs that touch pages, threads that give memory back, unmap and move it,
/// as the kernel lets them. Every page that is read is compared. One thread.
class Vmm {
 public:
  Vmm(Machine& machine, const StoredSnapshot& snapshot, const VmmOptions& options);
  Vmm(const Vmm&) = delete;
  Vmm& operator=(const Vmm&) = delete;

  /// Maps memory, lets the vCPUs go, and hands over to whoever listens.
  void start(std::weak_ptr<UnixListener> listener);
  /// All that it was to do is done.
  bool finished() const { return handed_over_at_ && running_vcpus_ == 0 && changing_ == 0; }
  /// When all of its handoff was sent; nothing: not yet.
  std::optional<Clock::time_point> handed_over_at() const { return handed_over_at_; }
  /// Nobody let it in, or its handoff was not taken wholly. It has exited.
  bool was_refused() const { return was_refused_; }
  /// The guest looks at every page once more.
  void read_all();
  /// Whether the guest waits for a page.
  bool waits() const;

  /// It exits, or is killed.
  void exit();
  bool exited() const { return memory_.ended(); }
  bool was_killed() const { return was_killed_; }
  /// Whether none of its memory is registered any more: all of it is there.
  bool needs_nobody() const;
  /// Whether it was killed all the same.
  bool was_killed_in_vain() const { return was_killed_in_vain_; }
  /// It gives its memory up and lives on: nothing may be filled any more once the handler has
  /// closed the connection. REQUIRES: finished(),
  /// can_say_farewell().
  void say_farewell();
  bool can_say_farewell() const { return !options_.closes_connection && !exited(); }
  bool was_let_go() const { return connection_.expired(); }

 private:
  struct Access {
    PageIndex page;
    bool write = false;
  };
  struct Vcpu {
    std::vector<Access> accesses;  // the last one first
    unsigned number = 0;
  };
  void lay_out(const StoredSnapshot& snapshot);
  void on_kill();
  void hand_over(const std::weak_ptr<UnixListener>& listener);
  void send_handoff();
  void send_rest(std::vector<Message> messages);
  void on_greeting(std::shared_ptr<File> file);
  void on_refusal();
  Access draw_access();
  void let_go();
  void start_vcpu(std::vector<Access> accesses);
  void go_on(const std::shared_ptr<Vcpu>& vcpu);
  /// False when it has to wait; it goes on by itself.
  bool access(const std::shared_ptr<Vcpu>& vcpu, const Access& access);

  /// Some pages of one mapping, one after the other. Nothing: nothing is mapped.
  struct Range {
    HostAddress start;
    std::uint64_t pages;
    ByteCount bytes() const { return {pages * kPageBytes}; }
  };
  std::optional<Range> draw_range();
  template <typename Visit>
  void for_each_page(const Range& range, Visit visit);
  enum class Removals { kCounted, kIgnored };
  bool is_settled(const Range& range, Removals removals);
  void plan(unsigned times, void (Vmm::*change)());
  void remove();
  void zap(const Range& range);
  void unmap();
  void take_away(const Range& range);
  HostAddress draw_target(const Range& from);
  void move();
  void announce(std::uint8_t event, const Range& range, std::function<void()> then);
  void announce_move(const Range& from, HostAddress to, std::function<void()> then);
  void end_change() { --changing_; }
  void send_signals();

  Machine& machine_;
  const VmmOptions options_;
  GuestMemory memory_;
  std::shared_ptr<Userfaultfd> own_userfaultfd_;  // nullptr: handed over, and not kept
  std::weak_ptr<Userfaultfd> userfaultfd_;
  std::shared_ptr<MemoryFile> file_;  // what it maps; nullptr: nothing yet, or memory of its own
  std::shared_ptr<Process> process_;
  std::weak_ptr<UnixSocket> connection_;
  std::string handoff_;
  HostAddress next_free_;  // for what is moved
  PageIndex last_touched_;
  unsigned running_vcpus_ = 0;
  unsigned vcpus_ = 0;
  unsigned changing_ = 0;  // threads that change memory, or will
  std::uint64_t writes_ = 0;
  std::optional<Clock::time_point> handed_over_at_;
  bool left_ = false;  // it said farewell
  bool was_killed_ = false;
  bool was_killed_in_vain_ = false;
  bool was_refused_ = false;
};

}  // namespace thaw::sim
