#pragma once

#include <filesystem>
#include <string>

namespace thaw::test {

/// A fresh directory, removed with all that is in it. One thread.
class ScratchDirectory {
 public:
  /// In `parent`; empty: where temporary files go.
  explicit ScratchDirectory(const std::string& parent = {});
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory();

  std::string path(const std::string& name) const { return (root_ / name).string(); }

 private:
  std::filesystem::path root_;
};

}  // namespace thaw::test
