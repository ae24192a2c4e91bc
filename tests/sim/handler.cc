#include "tests/sim/handler.h"

#include <algorithm>
#include <string>

#include <poll.h>

#include "base/file.h"

namespace thaw::sim {

std::optional<PageSpan> LocalChunks::find(ChunkId chunk) const {
  if (Random(chunk.value).below(1000) >= per_mille_) return std::nullopt;
  return PageSpan(snapshot_.distinct[chunk.sequence() - 1]);
}

Handler::Handler(Machine& machine, const StoredSnapshot& snapshot,
                 const std::vector<HandlerOptions>& restores, UniqueFd supervisor)
    : machine_(machine),
      snapshot_(snapshot),
      restores_(restores),
      process_(machine.process()),
      loop_(machine),
      demand_(loop_, {TcpAddress()}, snapshot.image->origin),
      prefetch_(loop_, {TcpAddress()}, snapshot.image->origin, demand_),
      workers_(WorkerPool::create(2).value()),
      sessions_(loop_, std::move(supervisor), *this) {
  loop_.set_after_turn([this] { after_turn(); });
  loop_.poll(workers_->wakeup(), POLLIN, worker_watch_);
}

Handler::~Handler() { loop_.finish(); }

void Handler::on_alone() { machine_.schedule().violate("a handler is alone"); }

std::uint64_t Handler::prepare(std::size_t restore, std::shared_ptr<UnixListener> listener) {
  const HandlerOptions& options = restores_[restore];
  SessionOptions session = session_options(options);
  control::Prepare request;
  request.socket = std::to_string(restore);
  request.on_unservable = options.on_unservable;
  MemoryRecord record = MemoryRecord::create(encode_control_request(request),
                                             snapshot_.image->manifest.spec.memory_pages())
                            .value();
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
  return sessions_.add({demand_, std::move(session)}, std::move(record), std::move(kept));
}

SessionOptions Handler::session_options(const HandlerOptions& options) {
  const LocalChunks& local = local_.emplace_back(snapshot_, options.local);
  return {.socket_path = "/nonexistent/simulated.sock",
          .on_unservable = options.on_unservable,
          .trace_out = {},
          .serve = serve_options(options, local)};
}

Result<SessionTable::Service> Handler::adopt(const MemoryRecord& record, const KeptSession& kept) {
  const ControlRequest line = TRY(decode_control_request(record.request()));
  const std::string& name = std::get<control::Prepare>(line).socket;
  const HandlerOptions& options = restores_[std::stoul(name)];
  SessionOptions session = session_options(options);
  session.serve.window_use = WindowUse::kNone;
  if (options.shared) session.shared = &adopt_image(options, *session.serve.local, kept);
  return SessionTable::Service{demand_, std::move(session)};
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
  serve.places = std::make_shared<const ChunkPlaces>(
      std::shared_ptr<const PageMap>(snapshot_.image, &snapshot_.image->map),
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

bool Handler::stop(std::uint64_t session) {
  Session* const found = sessions_.find(session);
  return found == nullptr || found->stop(control::StopMode::kRefuseIfAlive).has_value();
}

void Handler::stop_prepared() {
  for (const auto& [id, session] : sessions_.all()) {
    if (session->state() == SessionState::kPrepared) stop(id);
  }
}

void Handler::kill_vm(std::uint64_t session) {
  if (Session* const found = sessions_.find(session)) {
    static_cast<void>(found->stop(control::StopMode::kKill));
  }
}

SessionReport Handler::report(std::uint64_t session) const {
  if (const Session* const found = sessions_.find(session)) return found->report();
  const auto ended = std::ranges::find(sessions_.ended(), session, &SessionReport::session);
  return ended != sessions_.ended().end() ? *ended : SessionReport();
}

void Handler::watch_workers(int result) {
  if (result < 0) return;
  loop_.poll(workers_->wakeup(), POLLIN, worker_watch_);
  workers_->finish_done();
}

void Handler::after_turn() {
  static_cast<void>(sessions_.forget_ended());
  end_image();
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
         loop_.under_way() == 1;  // it listens to its supervisor to the end
}

}  // namespace thaw::sim
