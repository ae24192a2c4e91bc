#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw::test {

/// A file system whose server is this process. It has one file, `file`. A call that has to wait
/// until something is written into it waits until release() or the destructor; not even SIGKILL
/// ends that. The second time that the file is opened it is not cached. Mounted in a mount
/// namespace of its own, which the thread that constructs it enters and its later child processes
/// inherit. They must not keep this process's descriptors: what hangs would hang until they end.
class HangingFiles {
 public:
  /// `directory` exists.
  explicit HangingFiles(const std::string& directory);
  HangingFiles(const HangingFiles&) = delete;
  HangingFiles& operator=(const HangingFiles&) = delete;
  ~HangingFiles() { release(); }

  /// Whether a call waits by now, or did.
  bool hang() const { return hang_; }
  /// All that wait fail, and so does what comes later.
  void release();

 private:
  void serve();

  const std::string directory_;
  UniqueFd device_;
  UniqueFd stopped_;
  std::atomic<bool> hang_ = false;
  std::jthread thread_;
};

/// The kernel holds the locks of this process's address space while it maps the HangingFiles' file
/// over `page`, a page of it: until they are released.
Result<void> hold_own_locks(const std::string& file, void* page);

}  // namespace thaw::test
