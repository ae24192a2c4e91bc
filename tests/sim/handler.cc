#include "tests/sim/handler.h"

#include <poll.h>

#include "base/check.h"
#include "base/file.h"

namespace thaw::sim {

namespace {

KeptSession copy_of(const KeptSession& kept) {
  auto copy = kept.duplicate();
  CHECK(copy.has_value());
  return *std::move(copy);
}

}  // namespace

std::optional<PageSpan> LocalChunks::find(ChunkId chunk) const {
  if (Random(chunk.value).below(1000) >= per_mille_) return std::nullopt;
  return PageSpan(snapshot_.distinct[chunk.sequence() - 1]);
}

Handler::Handler(Machine& machine, const StoredSnapshot& snapshot, Keeper& keeper)
    : machine_(machine),
      snapshot_(snapshot),
      keeper_(keeper),
      process_(machine.process()),
      loop_(machine),
      demand_(loop_, {TcpAddress()}, snapshot.image->origin),
      prefetch_(loop_, {TcpAddress()}, snapshot.image->origin, demand_),
      workers_(WorkerPool::create(2).value()) {
  loop_.set_after_turn([this] { forget_ended(); });
  loop_.poll(workers_->wakeup(), POLLIN, worker_watch_);
  keeper_.serve([this](std::size_t number, const KeptSession& arrived) {
    machine_.run_in(process_, [&] { on_arrival(number, copy_of(arrived)); });
  });
}

void Handler::abandon() {
  keeper_.leave();
  loop_.abandon();
}

Handler::~Handler() { keeper_.leave(); }

void Handler::add_session(const HandlerOptions& options, std::shared_ptr<UnixListener> listener) {
  SessionOptions session = session_options(options);
  const PageCount pages = snapshot_.image->manifest.spec.memory_pages();
  MemoryRecord record = MemoryRecord::create("", pages).value();
  KeptSession kept;
  kept[KeptRole::kListener] = UniqueFd(machine_.open(std::move(listener)));
  kept[KeptRole::kRecord] = duplicate(record.file()).value();
  if (options.shared) {
    if (image_ == nullptr) {
      image_ =
          HostImage::create(loop_, demand_, image_options(options, *session.serve.local)).value();
    }
    session.shared = image_.get();
    kept[KeptRole::kImageFile] = duplicate(image_->file()).value();
    kept[KeptRole::kImageView] = duplicate(image_->view()).value();
    kept[KeptRole::kImageRecord] = duplicate(image_->record().file()).value();
  }
  begin(std::move(session), std::move(record));
  keeper_.keep(kept);
}

SessionOptions Handler::session_options(const HandlerOptions& options) {
  Served& served = sessions_.emplace_back();
  served.local = std::make_unique<LocalChunks>(snapshot_, options.local);
  return {.id = sessions_.size() - 1,
          .socket_path = "/nonexistent/simulated.sock",
          .on_unservable = options.on_unservable,
          .trace_out = {},
          .serve = serve_options(options, *served.local)};
}

void Handler::begin(SessionOptions options, MemoryRecord record) {
  Session::Owner& owner = *this;  // a private base: make_unique may not convert
  Served& served = sessions_[options.id];
  served.session =
      std::make_unique<Session>(loop_, demand_, std::move(options), std::move(record), owner);
  served.session->start();
}

void Handler::on_arrival(std::size_t number, KeptSession arrived) {
  Arrival arrival = Arrival::read(arrived[KeptRole::kArrival]).value();
  arrival.connection = std::move(arrived[KeptRole::kConnection]);
  arrival.vmm.pidfd = std::move(arrived[KeptRole::kPidfd]);
  arrival.userfaultfd = std::move(arrived[KeptRole::kUserfaultfd]);
  if (has_session(number)) sessions_[number].session->on_arrival(std::move(arrival));
}

void Handler::adopt_session(const HandlerOptions& options, KeptSession kept) {
  SessionOptions session = session_options(options);
  const std::size_t number = session.id;
  if (!kept.has(KeptRole::kRecord)) return;
  session.serve.window = {};
  session.serve.window_use = WindowUse::kNone;
  MemoryRecord record = MemoryRecord::open(std::move(kept[KeptRole::kRecord])).value();
  if (options.shared) session.shared = &adopt_image(options, *session.serve.local, kept);
  begin(std::move(session), std::move(record));
  if (kept.has(KeptRole::kArrival)) on_arrival(number, std::move(kept));
}

HostImage& Handler::adopt_image(const HandlerOptions& options, const ChunkSource& local,
                                const KeptSession& kept) {
  if (image_ == nullptr) {
    MemoryRecord record =
        MemoryRecord::open(duplicate(kept[KeptRole::kImageRecord]).value()).value();
    image_ = HostImage::adopt(loop_, demand_, image_options(options, local),
                              {duplicate(kept[KeptRole::kImageFile]).value(),
                               duplicate(kept[KeptRole::kImageView]).value(), std::move(record)})
                 .value();
  }
  return *image_;
}

ServeOptions Handler::image_options(const HandlerOptions& options, const ChunkSource& local) {
  ServeOptions serve = serve_options(options, local);
  serve.window_use = WindowUse::kNone;
  serve.plan.rest_zeros = ZeroPages::kNot;
  serve.places = std::make_shared<const ChunkPlaces>(snapshot_.image->map,
                                                     snapshot_.image->manifest.spec.memory_pages());
  return serve;
}

ServeOptions Handler::serve_options(const HandlerOptions& options, const ChunkSource& local) {
  ServeOptions serve;
  serve.image = snapshot_.image;
  serve.local = &local;
  serve.around = options.around;
  serve.prefetch.emplace(prefetch_, *workers_, buffers_);
  serve.plan = {.set = options.set, .hydrate_bytes_per_s = options.hydrate_bytes_per_s};
  serve.window = {.idle = std::chrono::milliseconds(20), .most = std::chrono::milliseconds(200)};
  serve.window_use = options.window_use;
  return serve;
}

SessionReport Handler::report(std::size_t number) const {
  const Served& served = sessions_[number];
  return served.session != nullptr ? served.session->report() : served.last_report;
}

void Handler::watch_workers(int result) {
  if (result < 0) return;
  loop_.poll(workers_->wakeup(), POLLIN, worker_watch_);
  workers_->finish_done();
}

void Handler::forget_ended() {
  for (Served& served : sessions_) {
    if (served.session == nullptr || !served.session->finished()) continue;
    served.last_report = served.session->report();
    keeper_.drop(served.session->options().id);
    served.session.reset();
  }
  end_image();
}

void Handler::kill_vm(std::size_t number) {
  static_cast<void>(sessions_[number].session->stop(control::StopMode::kKill));
}

void Handler::close() {
  closing_ = true;
  if (image_ != nullptr) image_->stop();
  end_image();
}

/// The links go after the image, which uses them.
void Handler::end_image() {
  if (!closing_ || (image_ != nullptr && !image_->finished())) return;
  closing_ = false;
  image_.reset();
  demand_.close();
  prefetch_.close();
  loop_.cancel(worker_watch_);
}

bool Handler::closed() const {
  return image_ == nullptr && demand_.idle() && prefetch_.idle() && !worker_watch_.active() &&
         loop_.under_way() == 0;
}

}  // namespace thaw::sim
