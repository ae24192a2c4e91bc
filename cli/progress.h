#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "base/types.h"

namespace thaw {

/// A progress bar with rate and time left on stderr, drawn only when a person watches it, at most
/// ten times a second. One thread.
class Progress {
 public:
  Progress(std::string what, ByteCount total);
  /// Ends the line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(ByteCount done);

 private:
  const std::string what_;
  const ByteCount total_;
  const bool shown_;
  const Clock::time_point started_ = Clock::now();
  Clock::time_point drawn_;
};

}  // namespace thaw
