#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "faulthandler/session_table.h"
#include "faulthandler/worker_pool.h"
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
class Handler final : private SessionTable::Owner {
 public:
  /// How it serves the restores, by their numbers, and this end of the connection to its
  /// supervisor.
  Handler(Machine& machine, const StoredSnapshot& snapshot,
          const std::vector<HandlerOptions>& restores, UniqueFd supervisor);
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  virtual ~Handler();

  /// Whether it goes on with all that the handler before has left.
  bool serving() const { return control_.valid(); }
  /// Prepares a session for a VMM that will connect to the listener. Returns its number.
  std::uint64_t prepare(std::size_t restore, std::shared_ptr<UnixListener> listener);
  /// Ends a session to which no VMM has come, as an operator does. False when one has.
  bool stop(std::uint64_t session);
  /// The same for all to which none will come any more.
  void stop_prepared();
  /// As an operator has its VM killed. Nothing when there is no such session any more.
  void kill_vm(std::uint64_t session);
  void ask_for_upgrade() { sessions_.ask_for_upgrade(); }
  bool has_sessions() const { return !sessions_.all().empty(); }
  /// The last one of a session that is over; that of another handler is empty.
  SessionReport report(std::uint64_t session) const;

  /// It has died, as it stands. It must not be destroyed.
  void abandon() { loop_.abandon(); }
  unsigned process() const { return process_; }
  /// The process begins to end. REQUIRES: it has no session.
  void close();
  /// Whether it has ended, and may be destroyed.
  bool closed() const;

 private:
  void on_attached() override {}
  void on_faults(pid_t) override {}
  void on_window_end(Session&, std::vector<Touch>) override {}
  void on_ended() override {}
  Errands& errands() override { return errands_; }
  Result<SessionTable::Service> adopt(const MemoryRecord& record, const KeptSession& kept) override;
  void on_serving(UniqueFd control) override { control_ = std::move(control); }
  void on_alone() override;
  SessionOptions session_options(const HandlerOptions& options);
  HostImage& adopt_image(const HandlerOptions& options, const ChunkSource& local,
                         const KeptSession& kept);
  ServeOptions image_options(const HandlerOptions& options, const ChunkSource& local);
  ServeOptions serve_options(const HandlerOptions& options, const ChunkSource& local);
  void watch_workers(int result);
  void after_turn();
  void end_image();

  Machine& machine_;
  const StoredSnapshot& snapshot_;
  const std::vector<HandlerOptions>& restores_;
  const unsigned process_;
  SimLoop loop_;
  DemandLink demand_;
  PrefetchLink prefetch_;
  PlainBuffers buffers_;
  std::unique_ptr<WorkerPool> workers_;
  Operation worker_watch_{[this](int result) { watch_workers(result); }};
  std::unique_ptr<HostImage> image_;  // nullptr: nobody has asked for one
  std::deque<LocalChunks> local_;     // of each session
  UniqueFd control_;                  // what it is given once it serves
  OwnErrands errands_;
  SessionTable sessions_;
  bool closing_ = false;
};

}  // namespace thaw::sim
