#pragma once

#include <chrono>
#include <cstddef>

#include "format/limits.h"

namespace thaw::limits {

/// Addresses of page servers that one command asks, one after the other.
inline constexpr std::size_t kMaxServersAsked = 8;

// Transfers that go on after their connection was lost.
/// How long the first replies may take. A server that is slower gets more time after a retry.
inline constexpr std::chrono::seconds kFirstReply{10};
/// How long a transfer may come no further, over however many connections.
inline constexpr std::chrono::seconds kNoProgress{60};
inline constexpr std::chrono::milliseconds kFirstReconnectPause{200};
inline constexpr std::chrono::milliseconds kMostReconnectPause{2000};

static_assert(kFirstReply < kRequestTimeout && kRequestTimeout < kNoProgress);

// A push.
inline constexpr unsigned kMaxPushWorkers = 8;
/// Requests of a push whose answers are awaited.
inline constexpr std::size_t kMaxPushRequests = 32;

// Files that `thaw ws` reads: recordings one after the other, their headers included.
inline constexpr std::size_t kMaxRecordingsFileBytes = kMaxRecordings * (kMaxRecordingBytes + 4096);

// One run of `thaw record`.
inline constexpr std::chrono::seconds kRunStart{120};  // from the command to a VM that runs
inline constexpr std::chrono::seconds kRunStore{60};   // from the recording's end to its being kept
/// For what is on its way when the command has exited or the session has ended.
inline constexpr std::chrono::seconds kRunSettle{2};
inline constexpr std::chrono::milliseconds kRunPoll{100};  // between looks at the session
inline constexpr std::chrono::seconds kCommandExit{5};     // from SIGTERM to SIGKILL
inline constexpr std::chrono::seconds kSessionEnd{10};     // of a session whose VMM was killed

// Certificates of `thaw certs`.
inline constexpr unsigned kAuthorityDays = 1825;
inline constexpr unsigned kCertificateDays = 90;
inline constexpr unsigned kMaxCertificateDays = 3650;
/// How long a command waits for others that work with the same authority, and between two looks.
inline constexpr std::chrono::seconds kAuthorityTurn{30};
inline constexpr std::chrono::milliseconds kAuthorityTurnPoll{20};

static_assert(kCertificateDays < kAuthorityDays && kAuthorityDays <= kMaxCertificateDays);

}  // namespace thaw::limits
