#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "base/error.h"

namespace thaw {

/// Brings what sessions leave behind (recordings, reports) to the page server or a file, on a
/// thread of its own: a bounded queue, and a few attempts for each. Locks itself.
class Uploader {
 public:
  struct Upload {
    std::string what;  // for the log
    std::function<Result<void>()> attempt;
    std::function<void(bool sent)> done;
  };

  /// Both functions of an upload are called on the uploader's thread alone.
  Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;
  /// Tries once more what still waits, until one fails.
  ~Uploader() = default;

  /// kLimitExceeded when limits::kMaxUploads wait: neither of its functions will be called.
  Result<void> add(Upload upload);

 private:
  void run(const std::stop_token& stop);
  bool send(const Upload& upload, const std::stop_token& stop);

  std::mutex mutex_;
  std::condition_variable_any added_;
  std::deque<Upload> uploads_;  // guarded by mutex_
  std::jthread thread_;         // the last member: it uses the others
};

}  // namespace thaw
