#pragma once

#include <memory>
#include <string>

#include "faulthandler/session.h"
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
  unsigned local = 0;  // of a thousand chunks, how many another VM's image on this host has
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

/// A fault handler process with one session: the real objects, as the daemon puts them together,
/// on a simulated machine. To kill the process is to destroy it; another one may begin then. One
/// thread.
class Handler final : private Session::Owner {
 public:
  Handler(Machine& machine, const StoredSnapshot& snapshot, const HandlerOptions& options,
          std::shared_ptr<UnixListener> listener);
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  ~Handler();

  /// Gone once it has ended and been forgotten.
  bool has_session() const { return session_ != nullptr; }
  /// REQUIRES: has_session().
  const Session& session() const { return *session_; }
  SessionReport report() const { return session_ != nullptr ? session_->report() : last_report_; }
  /// As an operator does.
  void kill_vm();

  /// The process begins to end, without its session.
  void close();
  bool closed() const;

 private:
  void on_attached() override {}
  void on_faults(pid_t) override {}
  void on_window_end(Session&, std::vector<Touch>) override {}
  void on_ended() override {}
  void watch_workers(int result);
  void after_turn();

  SimLoop loop_;
  DemandLink demand_;
  PrefetchLink prefetch_;
  const LocalChunks local_;
  PlainBuffers buffers_;
  std::unique_ptr<WorkerPool> workers_;
  Operation worker_watch_{[this](int result) { watch_workers(result); }};
  std::unique_ptr<Session> session_;
  SessionReport last_report_;
};

}  // namespace thaw::sim
