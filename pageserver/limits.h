#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/types.h"
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
/// What is kept back of memory for what cannot be refused while peers' requests are.
inline constexpr ByteCount kMemoryReserve{2u << 20};
/// For all but peers and tables: the log, files being written, event queues, threads' own.
inline constexpr std::size_t kOwnDescriptors = 64;
/// Connections that have not said hello, and those of one network among them.
inline constexpr std::size_t kMostStrangers = 128;
inline constexpr std::size_t kMostStrangersOfNetwork = 32;
/// Those that have shown one certificate's identity and keep their slots before others.
inline constexpr std::size_t kMostShownOfIdentity = 8;
/// Slots that they leave to newcomers, whatever they have shown: one in so many.
inline constexpr std::size_t kNewcomersPart = 4;
inline constexpr seconds kFirstByteTimeout{3};  // from the connection to its first byte
inline constexpr seconds kHelloTimeout{5};      // from the connection to the hello's end
/// Connections that an identity may have while any are free.
inline constexpr std::size_t kSureConnections = 4;
/// Demand connections of an identity whose threads run before others, at most.
inline constexpr std::size_t kMostPrecedingThreads = 8;
/// Memory for pushes under way: page maps (one takes 64 MiB at most), offers that wait for pages
/// (10 MiB), and bodies of requests; and for the making of working sets.
inline constexpr ShareLimits kPushMemory{.all = 1u << 30, .sure = 128u << 20};
inline constexpr std::size_t kPushBaseBytes = 512u << 10;  // a push's labels and codecs
/// A build's recordings and the packs that it holds (kMaxHeldPackBytes).
inline constexpr std::size_t kBuildBytes = 24u << 20;
/// The body of a request up to this size is in no budget: the number of connections bounds them.
inline constexpr std::size_t kSmallBodyBytes = 64u << 10;
/// Threads for requests that are answered at once, for those that take long, and how many of each
/// one identity's requests may occupy.
inline constexpr unsigned kQuickThreads = 2;
inline constexpr unsigned kBulkThreads = 3;
inline constexpr unsigned kQuickThreadsOfIdentity = 1;
inline constexpr unsigned kBulkThreadsOfIdentity = 2;

// Time, and the deletion of what is outdated.
/// By so much the wall clock may come apart from the monotonic clock.
inline constexpr std::chrono::minutes kClockTolerance{5};
/// So long both must agree, after a start or a jump, before ages are believed.
inline constexpr std::chrono::hours kClockSettling{24};
/// At a start a wall clock that is further ahead of the last known time is taken as wrong.
inline constexpr std::chrono::hours kLongestStop{365 * 24};
/// Before the first release: a clock that shows less is wrong (2025-01-01).
inline constexpr milliseconds kEarliestTime{1'735'689'600'000};
/// Between two records of the time in the store; pushes record it, too.
inline constexpr std::chrono::hours kTimeInterval{1};
/// From the mark that a snapshot is outdated to its deletion.
inline constexpr std::chrono::hours kOutdatedTime{24};
/// One retention deletes one in so many of a namespace's snapshots, and at least one.
inline constexpr std::size_t kRetentionPart = 4;

// Who may do what.
inline constexpr std::size_t kMaxPolicyBytes = 1u << 20;
inline constexpr std::chrono::seconds kPolicyInterval{1};  // between looks at files

static_assert(kClockTolerance * 2 < kClockSettling, "a day is told from a small correction");
static_assert(kTimeInterval < kOutdatedTime, "a restart costs a mark less than its day");
static_assert(kQuickThreadsOfIdentity < kQuickThreads);
static_assert(kBulkThreadsOfIdentity < kBulkThreads);
static_assert(kMaxHeldPackBytes < kBuildBytes && kBuildBytes <= kPushMemory.sure);
static_assert(kMaxHeaderBytes < kPushBaseBytes, "a push's labels came in one header");
static_assert(kBuildTurnInterval * kMostBuildTurns < kRequestTimeout);
static_assert(kDefaultKeptRecordings <= kMaxRecordings);
static_assert(kMaxPackPages <= kMaxChunksPerRequest, "a pack's chunks are read in one go");

}  // namespace thaw::limits
