#pragma once

#include <csignal>
#include <memory>
#include <optional>
#include <string>

#include "base/socket.h"
#include "tests/support/lossy_disk.h"
#include "tests/support/programs.h"

namespace thaw::test {

inline constexpr int kKilled = 128 + SIGKILL;

/// A page server on a disk that loses what was not synced. It does its upkeep every second.
struct LossyServer {
  std::unique_ptr<Program> program;
  TcpAddress address;

  /// Nothing when it died at a point in its start.
  static std::optional<LossyServer> start(const LossyDisk& disk, const LossyDisk::Fate& fate);
  void kill(const LossyDisk& disk);
};

/// The end of what programs on the disk have said.
std::string last_messages(const LossyDisk& disk);

}  // namespace thaw::test
