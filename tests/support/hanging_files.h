#pragma once

#include <string>
#include <thread>

#include "base/unique_fd.h"

namespace thaw::test {

/// A file system whose server is this process. It has one file, `file`. A call that has to wait
/// until something is written into it waits until release() or the destructor; not even SIGKILL
/// ends that. The second time that the file is opened it is not cached. Mounted in a mount
/// namespace of its own, which the thread that constructs it enters and its later child processes
/// inherit.
class HangingFiles {
 public:
  /// `directory` exists.
  explicit HangingFiles(const std::string& directory);
  HangingFiles(const HangingFiles&) = delete;
  HangingFiles& operator=(const HangingFiles&) = delete;
  ~HangingFiles() { release(); }

  /// All that wait fail, and so does what comes later.
  void release();

 private:
  void serve();

  UniqueFd device_;
  UniqueFd stopped_;
  std::jthread thread_;
};

}  // namespace thaw::test
