#pragma once

#include <chrono>
#include <cstddef>

/// Bounds of the operating-system layer. Bounds on formats and on the protocol stand in
/// format/limits.h.
namespace thaw::limits {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Descriptors taken from one SCM_RIGHTS message; the kernel itself allows 253. What a handoff
/// does not need is closed at once.
inline constexpr std::size_t kMaxDescriptorsPerMessage = 16;

/// Longest path a UNIX socket can have (sun_path less its terminator).
inline constexpr std::size_t kMaxSocketPath = 107;

/// How long one TCP connection attempt may take.
inline constexpr seconds kConnectTimeout{5};

/// How long a process that was sent SIGKILL may take to go.
inline constexpr seconds kKilledExit{5};

/// How long the service manager may take to read what it is told.
inline constexpr milliseconds kNotify{200};

/// Events read from one userfaultfd in one system call (32 bytes each).
inline constexpr std::size_t kUserfaultfdEventsPerRead = 64;

}  // namespace thaw::limits
