#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include <unistd.h>

#include "faulthandler/daemon.h"
#include "faulthandler/errands.h"
#include "tests/support/scripted_server.h"

namespace thaw::test {

/// A thread that runs an event loop.
class LoopThread {
 public:
  using Create = Result<std::unique_ptr<Loop>> (*)();
  explicit LoopThread(Create create);
  ~LoopThread();

  Loop& loop() { return *loop_; }
  /// Runs it on the loop's thread, and waits until it has.
  void run(std::function<void()> task);
  pid_t thread_id() const { return thread_id_; }

  /// Keeps the loop from going on while it lives: what happens meanwhile is found by one turn.
  class Hold {
   public:
    explicit Hold(LoopThread& loop);
    ~Hold();

   private:
    std::promise<void> release_;
  };

 private:
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<TaskQueue> tasks_;
  pid_t thread_id_ = 0;
  std::jthread thread_;
};

/// A thread of the guest that does something to its memory and may have to wait in it.
class GuestThread {
 public:
  explicit GuestThread(std::function<void()> act);
  ~GuestThread() { join(); }

  /// Returns when it stands still in the kernel, or has ended.
  void wait_until_blocked() const;
  bool ended() const { return ended_; }
  void join();

 private:
  std::atomic<pid_t> thread_id_ = 0;
  std::atomic<bool> ended_ = false;
  std::jthread thread_;
};

struct GuestOptions {
  PageMap map;                 // of its memory
  std::uint64_t features = 0;  // of the userfaultfd, beside REMOVE events
  std::uint32_t around = 1;    // largest fault-around window
  std::uint64_t page_bytes = kPageBytes;
  /// Page with which a second region begins, a page behind the first one; 0: there is one region.
  std::size_t second_region = 0;
  /// Beside its image and its window for fault-around.
  std::optional<PrefetchService> prefetch = {};
  PrefetchPlan plan = {};
  Recorder::Window window = {};
  WindowUse window_use = WindowUse::kNone;
  Nanoseconds memory_patience{limits::kMemoryPatience};
};

/// A guest in this process whose memory is served by a ServedMemory on the loop's thread, through
/// a link. Its faults are the kernel's own. Whatever the handler would do to a VMM is only noted.
class ServedGuest final : private ServedMemory::Owner {
 public:
  /// With anonymous memory. It is not handed over before attach().
  ServedGuest(LoopThread& loop, DemandLink& link, const GuestOptions& options);
  /// With this mapping, of which it becomes the owner.
  ServedGuest(LoopThread& loop, DemandLink& link, GuestOptions options, MutableByteSpan memory);
  ~ServedGuest();
  /// Hands its memory over.
  void attach();
  /// Its session ends, as when its VMM has exited.
  void end_session();

  std::byte* page(std::size_t index) const {
    const std::size_t gap = second_region_ != 0 && index >= second_region_ ? 1 : 0;
    return memory_.data() + (index + gap) * kPageBytes;
  }
  HostAddress address(std::size_t index) const;
  bool is_present(std::size_t index) const;
  /// Reads the page, waiting for it if need be.
  bool has_content(std::size_t index) const;
  bool has_zeros(std::size_t index) const;
  /// madvise(MADV_DONTNEED). Waits until the handler has read of it.
  void give_back(std::size_t first, std::size_t count) const;

  /// The VMM's own copy.
  const UniqueFd& userfaultfd() const { return userfaultfd_; }
  /// Of the loop's thread.
  ServedMemory& served() { return *served_; }
  SessionReport report();
  /// Why the handler gave it up; empty: it did not.
  std::string given_up();
  /// Why a page could not be had, of several the last; empty: all could.
  std::string unservable();
  /// What was touched in the window after the restore; nothing while that lasts.
  std::optional<std::vector<Touch>> touches();
  bool detached();

 private:
  void give_up(const std::string& reason) override { given_up_ = reason; }
  void stop_vm(const std::string& reason) override { given_up_ = reason; }
  Unservable on_unservable(PageIndex, const std::string& reason) override {
    unservable_ = reason;
    return Unservable::kWaits;
  }
  void on_faults() override {}
  void on_window_end(std::vector<Touch> touches) override { touches_ = std::move(touches); }
  void on_detached() override { detached_ = true; }
  bool begin_errand(ErrandTask& task, Errand errand) override {
    task.start(errands_, 0, std::move(errand), {.pid = ::getpid()});
    return true;
  }

  LoopThread& loop_;
  OwnErrands errands_;
  std::shared_ptr<const SnapshotImage> image_;
  MutableByteSpan memory_;
  const std::size_t second_region_;
  UniqueFd userfaultfd_;
  RegionTable regions_;
  std::optional<MemoryRecord> record_;
  // Of the loop's thread.
  std::string given_up_;
  std::string unservable_;
  std::optional<std::vector<Touch>> touches_;
  bool detached_ = false;
  std::unique_ptr<ServedMemory> served_;
};

}  // namespace thaw::test
