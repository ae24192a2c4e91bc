#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/unique_fd.h"
#include "tests/sim/fiber.h"
#include "tests/sim/schedule.h"

namespace thaw::sim {

/// What a descriptor refers to. It ends when nobody refers to it any more: no descriptor, no
/// operation under way, nobody at its other end.
class File {
 public:
  virtual ~File() = default;
  /// A process that had it has died.
  virtual void on_death() {}
  /// Which of poll(2)'s events are there.
  virtual short ready() const = 0;

  // Of sockets. What the system call would return, or a negative errno; nothing: not yet.
  virtual std::optional<int> receive(MutableByteSpan) { return std::nullopt; }
  virtual std::optional<int> send(ByteSpan) { return std::nullopt; }
  virtual void begin_connect() {}
  virtual std::optional<int> connected() { return std::nullopt; }
};

/// A descriptor of the kernel that runs the simulation, on its way from one process to another.
class RealFile final : public File {
 public:
  explicit RealFile(UniqueFd fd) : fd_(std::move(fd)) {}
  short ready() const override { return 0; }
  const UniqueFd& fd() const { return fd_; }

 private:
  const UniqueFd fd_;
};

/// The simulated host of the handler: its descriptors and its threads. While it lives, the system
/// calls of the code under test come here. One at a time, one thread.
class Machine {
 public:
  explicit Machine(Schedule& schedule);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine();

  /// After a violation: nothing of it is used any more, nor destroyed, since much of it may be in
  /// the midst of something. Another one may be made.
  void abandon();

  /// REQUIRES: there is one.
  static Machine& current();
  /// nullptr outside simulations.
  static Machine* find_current();

  Schedule& schedule() { return schedule_; }
  Random& random() { return schedule_.random(); }

  // Descriptors. Numbers are used again, the lowest first, as the kernel does.

  int open(std::shared_ptr<File> file);
  /// What a descriptor refers to, for whoever opens it again.
  std::shared_ptr<File> pass(int fd) const;
  /// nullptr: no such descriptor.
  std::shared_ptr<File> file(int fd) const;
  template <typename T>
  std::shared_ptr<T> file_as(int fd) const {
    return std::dynamic_pointer_cast<T>(file(fd));
  }
  /// Numbers from here on are descriptors of the simulation.
  static constexpr int kFirstDescriptor = 1 << 20;
  void close(int fd);
  std::size_t open_descriptors() const { return files_.size(); }

  /// What a TCP socket is here.
  void set_tcp(std::function<std::shared_ptr<File>()> make_socket) {
    make_tcp_socket_ = std::move(make_socket);
  }
  int open_tcp_socket() { return open(make_tcp_socket_()); }

  /// What a new memory file is here.
  void set_memory_file(std::function<std::shared_ptr<File>()> make_file) {
    make_memory_file_ = std::move(make_file);
  }
  int open_memory_file() { return open(memory_file_ = make_memory_file_()); }
  /// The one that was made last.
  const std::shared_ptr<File>& memory_file() const { return memory_file_; }

  /// Who is called when something changes that an operation may wait for.
  std::size_t add_watcher(std::function<void()> watcher) {
    watchers_.emplace(next_watcher_, std::move(watcher));
    return next_watcher_++;
  }
  void remove_watcher(std::size_t number) { watchers_.erase(number); }
  void notify() {
    for (const auto& [number, watcher] : watchers_) watcher();
  }

  // Processes, each with descriptors and threads of its own. Number 0 dies at no system call.

  /// Has `run` do what the process does, without a stop. If it dies meanwhile, `run` ends nowhere:
  /// whatever it has in hand stays as it is for ever.
  void run_in(unsigned process, const std::function<void()>& run);
  unsigned process() const { return process_; }
  /// While this lives, descriptors are opened for the process.
  class In {
   public:
    In(Machine& machine, unsigned process)
        : machine_(machine), before_(std::exchange(machine.process_, process)) {}
    In(const In&) = delete;
    In& operator=(const In&) = delete;
    ~In() { machine_.process_ = before_; }

   private:
    Machine& machine_;
    const unsigned before_;
  };
  /// Who is told that the process which was to die has died.
  void set_on_death(std::function<void()> on_death) { on_death_ = std::move(on_death); }
  /// The process that makes this system call from now on dies before or after it; nothing: none.
  void set_calls_until_death(std::optional<unsigned> calls) { calls_until_death_ = calls; }
  /// Before and after each system call: where a process may die.
  void may_die();
  /// Its threads stop, and its descriptors are closed. What it has in memory is lost.
  void end_process(unsigned process);

  // Threads.

  /// Has it run on a thread of its own, in steps of which others see nothing or all.
  void start_thread(std::function<void()> run);
  /// The end of a step: others may go on now. Nothing happens on the loop's thread.
  void may_switch();
  /// The calling thread waits for what another one does. A violation when there is none.
  void wait_for_others();

 private:
  struct Thread {
    std::unique_ptr<Fiber> fiber;
    std::uint64_t number;
    unsigned process;
  };
  struct Descriptor {
    std::shared_ptr<File> file;
    unsigned process;
  };
  void tell_of_death();
  void go_on(std::uint64_t thread);
  void go_on_later(std::uint64_t thread);

  Schedule& schedule_;
  std::map<int, Descriptor> files_;
  std::function<std::shared_ptr<File>()> make_tcp_socket_;
  std::function<std::shared_ptr<File>()> make_memory_file_;
  std::shared_ptr<File> memory_file_;
  std::map<std::size_t, std::function<void()>> watchers_;
  std::size_t next_watcher_ = 0;
  std::vector<Thread> threads_;
  std::uint64_t next_thread_ = 1;
  Fiber* running_ = nullptr;  // nullptr: the loop's thread
  Fiber* turn_ = nullptr;     // what run_in() runs; nullptr: nothing
  unsigned process_ = 0;      // on behalf of which all happens now
  bool dying_ = false;
  std::optional<unsigned> calls_until_death_;
  std::function<void()> on_death_;
};

}  // namespace thaw::sim
