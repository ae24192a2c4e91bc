#include "faulthandler/uploader.h"

#include <array>

#include "base/clock.h"
#include "base/log.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

/// Before each further attempt. Another recording of the same snapshot may be on its way, or the
/// server may be starting.
constexpr std::array kPauses{std::chrono::milliseconds(200), std::chrono::milliseconds(1000),
                             std::chrono::milliseconds(4000)};

}  // namespace

Uploader::Uploader() : thread_([this](const std::stop_token& stop) { run(stop); }) {}

Result<void> Uploader::add(Upload upload) {
  {
    const std::lock_guard lock(mutex_);
    if (uploads_.size() >= limits::kMaxUploads) {
      return fail(ErrorCode::kLimitExceeded, "{} is not sent: {} others wait", upload.what,
                  uploads_.size());
    }
    uploads_.push_back(std::move(upload));
  }
  added_.notify_one();
  return {};
}

void Uploader::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (true) {
    added_.wait(lock, stop, [this] { return !uploads_.empty(); });
    if (uploads_.empty()) return;
    const Upload upload = std::move(uploads_.front());
    uploads_.pop_front();
    lock.unlock();
    const bool sent = send(upload, stop);
    upload.done(sent);
    lock.lock();
    if (!sent && stop.stop_requested()) return;
  }
}

bool Uploader::send(const Upload& upload, const std::stop_token& stop) {
  for (std::size_t i = 0;; ++i) {
    const auto sent = upload.attempt();
    if (sent) return true;
    const ErrorCode code = sent.error().code();
    const bool passing =
        code == ErrorCode::kUnavailable || code == ErrorCode::kTimeout || code == ErrorCode::kBusy;
    if (!passing || i == kPauses.size() || stop.stop_requested()) {
      log_warning(LogKind("uploads that were not sent", sent.error()), "{} was not sent: {}",
                  upload.what, sent.error().message());
      return false;
    }
    rest(stop, kPauses[i]);
  }
}

}  // namespace thaw
