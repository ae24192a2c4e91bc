#pragma once

#include <string>

#include "base/error.h"

namespace thaw {

/// A fresh directory that only its owner may enter, in $TMPDIR or /tmp; removed with all that is
/// in it. One thread.
class TemporaryDirectory {
 public:
  /// `name` begins the directory's name. In `parent` instead, unless that is empty.
  static Result<TemporaryDirectory> create(const std::string& name, const std::string& parent = {});
  TemporaryDirectory(TemporaryDirectory&& other) noexcept;
  TemporaryDirectory& operator=(TemporaryDirectory&&) = delete;
  ~TemporaryDirectory();

  std::string path(const std::string& file) const { return root_ + "/" + file; }

 private:
  explicit TemporaryDirectory(std::string root) : root_(std::move(root)) {}

  std::string root_;  // empty: moved from
};

}  // namespace thaw
