#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/error.h"
#include "base/types.h"

namespace thaw {

/// What work that takes long needs of its surroundings: the turn to write, a pace, and somebody to
/// tell. Of the thread that does the work.
class JobControl {
 public:
  using Work = std::function<Result<void>()>;

  virtual ~JobControl() = default;
  /// Runs `work` where the store's writes are serialised, and waits for it.
  virtual Result<void> write(const Work& work) = 0;
  /// To be called after so many bytes were read or written: waits as long as the rate asks.
  /// kStopped when the work is to end; what was done so far is consistent.
  virtual Result<void> pace(ByteCount bytes) = 0;
  virtual void set_progress(std::uint64_t done, std::uint64_t total) = 0;
  /// Something that a person should know, one line.
  virtual void add_finding(std::string finding) = 0;
  /// What was done, one line, for the operator who asked for it; nothing to worry about.
  virtual void note(std::string line) = 0;
};

/// For work that is done here and now, where nobody else writes or where it only reads.
class Unpaced : public JobControl {
 public:
  Result<void> write(const Work& work) override { return work(); }
  Result<void> pace(ByteCount) override { return {}; }
  void set_progress(std::uint64_t, std::uint64_t) override {}
  void add_finding(std::string) override {}
  void note(std::string) override {}
};

}  // namespace thaw
