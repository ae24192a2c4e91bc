#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "format/limits.h"
#include "pageserver/identity_shares.h"

namespace thaw::limits {

// Working sets, at the page server.
inline constexpr std::size_t kMaxGreetingBytes = 4096;  // the first message of a connection
inline constexpr std::size_t kDefaultKeptRecordings = 8;
/// How far up a snapshot's line of descent a working set to inherit is looked for.
inline constexpr std::size_t kMaxAncestors = 16;
/// Packs of one working set that are kept in memory before they are written, in one step.
inline constexpr std::size_t kMaxHeldPackBytes = 8u << 20;
/// How often a working set is begun again because its recordings changed while it was made.
inline constexpr unsigned kMostBuildRestarts = 8;
/// Between two looks at whether another peer's request has made the set, and how many there are.
inline constexpr std::chrono::milliseconds kBuildTurnInterval{20};
inline constexpr unsigned kMostBuildTurns = 1000;
/// What recordings, sets and packs may have of a namespace's quota: one part in so many. Without a
/// quota they have at least so much.
inline constexpr std::uint64_t kWorkingSetPart = 4;
inline constexpr std::uint64_t kLeastWorkingSetShare = std::uint64_t{1} << 30;
/// They leave so many times as much of the disk free as pushes do.
inline constexpr unsigned kRecordedReserves = 2;

// Hashes of pages, which are made of the chunks.
inline constexpr std::size_t kMaxKeptHashBytes = 64u << 20;  // of pages: 8 GiB
inline constexpr std::size_t kKeptListBytes = 256;           // of a list, beside its hashes

// Looking after chunks.
/// Chunks that are deleted, forgotten or checked in one step, during which pushes wait.
inline constexpr std::size_t kSweepBatch = 1024;
inline constexpr std::size_t kMaxPinsPerPeer = 4096;
/// Damaged chunks that a check names one by one.
inline constexpr std::size_t kMaxNamedChunks = 100;

/// Chunks, packs and snapshots of a namespace that peers have reported and that were not looked at;
/// and the least time between two looks, which may go through all hashes.
inline constexpr std::size_t kMaxSuspects = 1024;
inline constexpr seconds kSuspectInterval{10};
// Connections.
/// For all but peers and tables: the log, files being written, event queues, threads' own.
inline constexpr std::size_t kOwnDescriptors = 64;
/// Connections that have not said hello, and those of one network among them.
inline constexpr std::size_t kMostStrangers = 128;
inline constexpr std::size_t kMostStrangersOfNetwork = 32;
inline constexpr seconds kFirstByteTimeout{3};  // from the connection to its first byte
inline constexpr seconds kHelloTimeout{5};      // from the connection to the hello's end
/// Connections that an identity may have while any are free.
inline constexpr std::size_t kSureConnections = 4;
/// Demand connections of an identity whose threads run before others, at most.
inline constexpr std::size_t kMostPrecedingThreads = 8;
/// Memory for the page maps of pushes under way; one map takes 64 MiB at most.
inline constexpr ShareLimits kPushMemory{.all = 1u << 30, .sure = 128u << 20};
/// Threads for requests that are answered at once, for those that take long, and how many of each
/// one identity's requests may occupy.
inline constexpr unsigned kQuickThreads = 2;
inline constexpr unsigned kBulkThreads = 3;
inline constexpr unsigned kQuickThreadsOfIdentity = 1;
inline constexpr unsigned kBulkThreadsOfIdentity = 2;

// Who may do what.
inline constexpr std::size_t kMaxPolicyBytes = 1u << 20;
inline constexpr std::chrono::seconds kPolicyInterval{1};  // between looks at its file

static_assert(kQuickThreadsOfIdentity < kQuickThreads);
static_assert(kBulkThreadsOfIdentity < kBulkThreads);
static_assert(kBuildTurnInterval * kMostBuildTurns < kRequestTimeout);
static_assert(kDefaultKeptRecordings <= kMaxRecordings);
static_assert(kMaxPackPages <= kMaxChunksPerRequest, "a pack's chunks are read in one go");

}  // namespace thaw::limits
