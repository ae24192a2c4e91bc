#pragma once

#include <string>

#include "base/temporary_directory.h"

namespace thaw::test {

/// A fresh directory, removed with all that is in it. One thread.
class ScratchDirectory {
 public:
  /// In `parent`; empty: where temporary files go.
  explicit ScratchDirectory(const std::string& parent = {})
      : directory_(TemporaryDirectory::create("thaw-test", parent).value()) {}

  std::string path(const std::string& name) const { return directory_.path(name); }

 private:
  TemporaryDirectory directory_;
};

}  // namespace thaw::test
