#pragma once

#include <memory>
#include <vector>

#include "faulthandler/session.h"
#include "faulthandler/worker_pool.h"
#include "tests/sim/keeper.h"
#include "tests/sim/machine.h"
#include "tests/sim/sim_loop.h"
#include "tests/sim/snapshot.h"
#include "tests/sim/unix_socket.h"

namespace thaw::sim {

/// How a simulated session is served.
struct HandlerOptions {
  UnservablePolicy on_unservable = UnservablePolicy::kWait;
  std::uint32_t around = 1;
  std::shared_ptr<const PrefetchSet> set;  // nullptr: no working set is streamed in
  std::uint64_t hydrate_bytes_per_s = 0;
  WindowUse window_use = WindowUse::kNone;
  bool shared = false;  // the VM maps this host's image of the snapshot
  unsigned local = 0;   // of a thousand chunks, how many another VM's image on this host has
};

/// Chunks that are at hand on this host.
class LocalChunks final : public ChunkSource {
 public:
  LocalChunks(const StoredSnapshot& snapshot, unsigned per_mille)
      : snapshot_(snapshot), per_mille_(per_mille) {}
  std::optional<PageSpan> find(ChunkId chunk) const override;

 private:
  const StoredSnapshot& snapshot_;
  const unsigned per_mille_;
};

/// A fault handler process, of the number that its machine runs when it is made: the real objects,
/// as the daemon puts them together, on a simulated machine. Its sessions share the links to the
/// page server, the workers and the buffers. Here, and nowhere else in the simulation, are the
/// handler's objects made. One thread.
class Handler final : private Session::Owner {
 public:
  Handler(Machine& machine, const StoredSnapshot& snapshot, Keeper& keeper);
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  ~Handler();

  /// Prepares the next session, whose VMM will connect to the listener.
  void add_session(const HandlerOptions& options, std::shared_ptr<UnixListener> listener);
  /// Goes on with a session of the process before, or remembers that there was one.
  void adopt_session(const HandlerOptions& options, KeptSession kept);
  /// It has died, as it stands. It must not be destroyed.
  void abandon();
  unsigned process() const { return process_; }
  /// Gone once it has ended and been forgotten.
  bool has_session(std::size_t number) const { return sessions_[number].session != nullptr; }
  /// Of one that is gone: the last one.
  SessionReport report(std::size_t number) const;
  /// As an operator has it killed. REQUIRES: has_session().
  void kill_vm(std::size_t number);

  /// The process begins to end. REQUIRES: it has no session.
  void close();
  bool closed() const;

 private:
  struct Served {
    std::unique_ptr<LocalChunks> local;
    std::unique_ptr<Session> session;
    SessionReport last_report;
  };
  void on_attached() override {}
  void on_faults(pid_t) override {}
  void on_window_end(Session&, std::vector<Touch>) override {}
  void on_ended() override {}
  SessionOptions session_options(const HandlerOptions& options);
  void begin(SessionOptions options, MemoryRecord record);
  void on_arrival(std::size_t number, KeptSession arrived);
  HostImage& adopt_image(const HandlerOptions& options, const ChunkSource& local,
                         const KeptSession& kept);
  ServeOptions image_options(const HandlerOptions& options, const ChunkSource& local);
  void watch_workers(int result);
  void forget_ended();
  void end_image();
  ServeOptions serve_options(const HandlerOptions& options, const ChunkSource& local);

  Machine& machine_;
  const StoredSnapshot& snapshot_;
  Keeper& keeper_;
  const unsigned process_;
  SimLoop loop_;
  DemandLink demand_;
  PrefetchLink prefetch_;
  PlainBuffers buffers_;
  std::unique_ptr<WorkerPool> workers_;
  Operation worker_watch_{[this](int result) { watch_workers(result); }};
  std::unique_ptr<HostImage> image_;  // nullptr: nobody has asked for one
  std::vector<Served> sessions_;
  bool closing_ = false;
};

}  // namespace thaw::sim
