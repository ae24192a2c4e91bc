#pragma once

#include <string>

#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// The temporary name of a file that is not whole yet. A program that a signal ends runs no
/// destructor, so a table that a signal handler can read has these names as well.
///
/// The file is removed on destruction unless forget() was called. One thread.
class UnfinishedName {
 public:
  /// No name.
  UnfinishedName() = default;
  /// Draws a short random name. `directory` must stay open as long as the name is in use.
  static Result<UnfinishedName> draw(const UniqueFd& directory);
  UnfinishedName(UnfinishedName&& other) noexcept;
  UnfinishedName& operator=(UnfinishedName&& other) noexcept;
  ~UnfinishedName();

  bool empty() const { return name_.empty(); }
  const std::string& text() const { return name_; }
  /// The file has another name from now on.
  void forget();

 private:
  int directory_ = -1;
  std::string name_;
  int slot_ = -1;  // in the table; -1: the table was full
};

/// For programs that signals end: SIGINT, SIGTERM and SIGHUP, where they are not ignored, remove
/// unfinished files first. A write beyond the limit of file sizes (`ulimit -f`) is an error instead
/// of SIGXFSZ. Programs that are executed later start with the usual dispositions.
void leave_nothing_unfinished();

}  // namespace thaw
