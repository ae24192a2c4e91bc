#include "tests/sim/handler.h"

#include <poll.h>

namespace thaw::sim {

namespace {

std::unique_ptr<Session> make_session(Loop& loop, DemandLink& link, PrefetchService prefetch,
                                      const ChunkSource& local, const StoredSnapshot& snapshot,
                                      const HandlerOptions& options, UniqueFd listener,
                                      Session::Owner& owner) {
  SessionOptions session{.id = 1,
                         .socket_path = "/nonexistent/simulated.sock",
                         .listener = std::move(listener),
                         .on_unservable = options.on_unservable,
                         .trace_out = {},
                         .serve = {}};
  session.serve.image = snapshot.image;
  session.serve.local = &local;
  session.serve.around = options.around;
  session.serve.prefetch.emplace(prefetch);
  session.serve.plan = {.set = options.set, .hydrate_bytes_per_s = options.hydrate_bytes_per_s};
  session.serve.window = {.idle = std::chrono::milliseconds(20),
                          .most = std::chrono::milliseconds(200)};
  session.serve.window_use = options.window_use;
  return std::make_unique<Session>(loop, link, std::move(session), owner);
}

}  // namespace

std::optional<PageSpan> LocalChunks::find(ChunkId chunk) const {
  if (Random(chunk.value).below(1000) >= per_mille_) return std::nullopt;
  return PageSpan(snapshot_.distinct[chunk.sequence() - 1]);
}

Handler::Handler(Machine& machine, const StoredSnapshot& snapshot, const HandlerOptions& options,
                 std::shared_ptr<UnixListener> listener)
    : loop_(machine),
      demand_(loop_, TcpAddress(), snapshot.image->origin),
      prefetch_(loop_, TcpAddress(), snapshot.image->origin, demand_),
      local_(snapshot, options.local),
      workers_(WorkerPool::create(2).value()) {
  loop_.set_after_turn([this] { after_turn(); });
  loop_.poll(workers_->wakeup(), POLLIN, worker_watch_);
  Session::Owner& owner = *this;  // a private base: make_unique may not convert
  session_ = make_session(loop_, demand_, {prefetch_, *workers_, buffers_}, local_, snapshot,
                          options, UniqueFd(machine.open(std::move(listener))), owner);
  session_->start();
}

Handler::~Handler() = default;

void Handler::watch_workers(int result) {
  if (result < 0) return;
  loop_.poll(workers_->wakeup(), POLLIN, worker_watch_);
  workers_->finish_done();
}

void Handler::after_turn() {
  if (session_ == nullptr || !session_->finished()) return;
  last_report_ = session_->report();
  session_.reset();
}

void Handler::kill_vm() { static_cast<void>(session_->stop(control::StopMode::kKill)); }

void Handler::close() {
  demand_.close();
  prefetch_.close();
  loop_.cancel(worker_watch_);
}

bool Handler::closed() const {
  return demand_.idle() && prefetch_.idle() && !worker_watch_.active() && loop_.under_way() == 0;
}

}  // namespace thaw::sim
