#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/host.h"
#include "base/stream.h"
#include "base/unique_fd.h"
#include "faulthandler/memory_record.h"

namespace thaw {

/// A page server as the operator gave it, and the addresses that the name had when it was resolved
/// last; none: it has not resolved so far.
struct NamedServer {
  std::string name;
  std::vector<std::string> addresses{};
  friend bool operator==(const NamedServer&, const NamedServer&) = default;
};

/// What a fault handler runs by. The supervisor keeps it in a memory file and gives it to each
/// handler, so that one that follows another reads no file, no environment and no name server
/// before it serves. A value.
struct HandlerSettings {
  // What the operator gave.
  std::string control = "/run/thaw/control.sock";
  std::vector<std::string> servers{kDefaultServer};
  TransportFlags transport{};
  std::string name_space = "default";
  std::string placement = "follow";
  std::string spin = "auto";
  std::uint32_t around = 64;
  std::uint32_t record_every = 64;
  std::uint64_t images_mib = usable_memory().value / 2 >> 20;
  std::uint64_t index_mib = std::max<std::uint64_t>(64, usable_memory().value / 16 >> 20);
  std::string http{};
  bool http_public = false;  // it may be reached from other hosts
  unsigned workers = std::max(1u, std::min(4u, std::thread::hardware_concurrency()));
  std::string log_file{};
  bool verbose = false;
  bool no_sandbox = false;

  // What was made of it.
  std::vector<NamedServer> resolved{};
  TlsPem pem{};  // in force; empty without TLS
  /// The program as it was started, and where it was installed: how an upgrade starts the next.
  std::vector<std::string> command{};
  std::uint32_t record_version = kRecordVersion;  // of what is kept of its VMs
};

/// A memory file of the settings, which only its owner can open, and which cannot be changed.
Result<UniqueFd> keep_settings(const HandlerSettings& settings);
/// Reads that back. kMalformed; kTooLarge beyond limits::kMaxSettingsBytes.
Result<HandlerSettings> read_settings(const UniqueFd& file);

/// Passes a descriptor as the first message on a connection, before its other end is in use.
Result<void> hand_over(const UniqueFd& connection, const UniqueFd& file);
/// Takes it, and waits for it until the deadline. kUnavailable when the other end is gone.
Result<UniqueFd> take_over(const UniqueFd& connection, Deadline deadline);

}  // namespace thaw
