#pragma once

#include <chrono>
#include <cstddef>

/// Bounds of the operating-system layer. Bounds on formats and on the protocol stand in
/// format/limits.h.
namespace thaw::limits {

using std::chrono::milliseconds;
using std::chrono::seconds;

// The log.
/// Of one line; with time and program it must be written whole beside other processes' lines, and a
/// pipe promises that up to 4096 bytes.
inline constexpr std::size_t kMaxLogLineBytes = 2048;
/// Lines that wait for the thread that writes them.
inline constexpr std::size_t kMaxLogLines = 4096;
inline constexpr std::size_t kMaxLogBytes = 1u << 20;
static_assert(kMaxLogBytes >= 2 * kMaxLogLineBytes);
/// How long a program may wait for the reader of its log or its messages, at its end at most.
inline constexpr milliseconds kLogPatience{1000};
/// Lines of one kind that pass within the first period, and how long periods last.
inline constexpr unsigned kLogFloodBurst = 5;
inline constexpr seconds kLogFloodFirst{10};
inline constexpr seconds kLogFloodMost{300};
inline constexpr std::size_t kMaxLogKinds = 128;

/// Descriptors taken from one SCM_RIGHTS message; the kernel itself allows 253. What a handoff
/// does not need is closed at once.
inline constexpr std::size_t kMaxDescriptorsPerMessage = 16;

/// Longest path a UNIX socket can have (sun_path less its terminator).
inline constexpr std::size_t kMaxSocketPath = 107;

/// How long one TCP connection attempt may take.
inline constexpr seconds kConnectTimeout{5};

inline constexpr std::size_t kMaxConfigurationBytes = 1u << 20;

/// How often files that may be replaced while a program runs are looked at.
inline constexpr seconds kFileWatchInterval{1};

/// How long a named pipe may lack its other end, and how often that is looked at.
inline constexpr seconds kPipePeer{30};
inline constexpr milliseconds kPipePoll{50};

/// The longest tick of a kernel's clock for time stamps of files, and how often a file is looked at
/// that is being written.
inline constexpr milliseconds kTimeStampTick{12};
inline constexpr unsigned kTimeStampAttempts = 3;

// TLS.
inline constexpr std::size_t kMaxPemBytes = 64u << 10;   // of a key
inline constexpr std::size_t kMaxChainBytes = 1u << 20;  // of a file of certificates
inline constexpr std::size_t kMaxRevokedBytes = 4u << 20;
inline constexpr std::size_t kTlsInboxBytes = 32u << 10;
/// Its size until the peer has shown its certificate.
inline constexpr std::size_t kTlsHandshakeInboxBytes = 4u << 10;
inline constexpr std::size_t kTlsRecordBytes = 16u << 10;  // the most plain bytes in one record
/// Servers of which a client remembers a session.
inline constexpr std::size_t kMaxTlsSessions = 64;
/// After this the peers show their certificates again.
inline constexpr seconds kTlsSessionLife{3600};
/// How long a peer may take to show who it is.
inline constexpr seconds kHandshakeTimeout{10};
/// How long one that is refused may take to read why.
inline constexpr seconds kRefusalTimeout{1};

/// Between two attempts to accept a connection when no descriptor is left.
inline constexpr milliseconds kAcceptPauseMost{1000};

// HTTP.
inline constexpr std::size_t kMaxHttpRequestBytes = 8u << 10;
inline constexpr seconds kHttpExchange{2};  // to ask, and to take the reply
inline constexpr seconds kHttpPage{30};     // for a page to be made
inline constexpr std::size_t kHttpConnections = 64;

/// How long a process that was sent SIGKILL may take to go.
inline constexpr seconds kKilledExit{5};

/// How long the service manager may take to read what it is told.
inline constexpr milliseconds kNotify{200};

/// Events read from one userfaultfd in one system call (32 bytes each).
inline constexpr std::size_t kUserfaultfdEventsPerRead = 64;

}  // namespace thaw::limits
