#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "format/limits.h"

namespace thaw::limits {

inline constexpr std::size_t kMaxSessions = 1024;
/// Descriptors that a session takes: when its VMM comes, and of the supervisor in all, without and
/// with a host image; and what each process keeps for everything else.
inline constexpr std::size_t kArrivalDescriptors = 4;
inline constexpr std::size_t kKeptDescriptors = 12;
inline constexpr std::size_t kKeptSharedDescriptors = 14;
inline constexpr std::size_t kSpareDescriptors = 10;
inline constexpr std::size_t kSupervisorDescriptors = 34;
inline constexpr std::size_t kMaxEndedReports = 64;    // sessions that `list` still remembers
inline constexpr std::size_t kMaxEventReads = 4;       // system calls in one drain of a userfaultfd
inline constexpr std::size_t kMaxRegionPieces = 2048;  // that a VMM may cut its regions into
inline constexpr std::size_t kMaxProbes = 512;         // pages of a session left out to learn from
inline constexpr std::size_t kMaxHugeFills = 4;  // huge pages of a session put together at once
/// Pages whose content is kept while a REMOVE is under way.
inline constexpr std::size_t kMaxDelayedFills = 256;
inline constexpr std::size_t kMaxPostedTasks = 1024;  // from control threads to the loop
inline constexpr std::size_t kMaxKeepMessages = 4 * kMaxSessions;  // that wait for the other end
inline constexpr std::size_t kMaxLinks = 64;  // connections for each namespace of a store

/// Replies on connections for pages have a short header; anything else is not ours.
inline constexpr std::size_t kMaxReplyHeaderBytes = 4096;

// Demand requests of one link: batches under way, and pages in one.
inline constexpr std::size_t kMaxBatches = 64;
inline constexpr std::size_t kMaxBatchPages = 64;
/// Neighbours that ride along in one, and a session's share of the batches: one session that has
/// many faults must leave room for the others.
inline constexpr std::size_t kMaxBatchRiders = 64;
inline constexpr std::size_t kMaxBatchesPerSession = 8;
/// Replies to a page that may be bad (damaged, refused) before it counts as unservable.
inline constexpr unsigned kMaxPageAttempts = 3;

// Several page servers.
inline constexpr std::size_t kMaxServers = 8;
/// Requests that one server has not answered, those included that another has meanwhile.
inline constexpr std::size_t kMaxUnanswered = 2 * kMaxBatches;
/// Until a request goes to a second server: never sooner than the floor, and so long where no reply
/// has come yet. Requests hedged at once when none was for a while.
inline constexpr std::chrono::milliseconds kHedgeFloor{2};
inline constexpr std::chrono::milliseconds kHedgeUnknown{20};
inline constexpr unsigned kHedgeBurst = 10;
/// Until a request that went unanswered goes to another server in any case; twice as long before
/// the one after.
inline constexpr std::chrono::milliseconds kRequestDeadline{1000};
/// In a row, until a server is left; and for how long it is.
inline constexpr unsigned kMostServerFailures = 3;
inline constexpr unsigned kMostOutpaced = 4;
inline constexpr std::chrono::seconds kServerPauseFirst{1};
inline constexpr std::chrono::seconds kServerPauseMost{30};

// Memory of which there may be too little.
/// What favours leave of the limit of a cgroup or a tmpfs: this much and this part, unless all that
/// the guest still lacks fits beside the former.
inline constexpr std::uint64_t kReserveLeastBytes = std::uint64_t{16} << 20;
inline constexpr std::uint64_t kReservePart = 8;
/// The same of the host, whatever fits.
inline constexpr std::uint64_t kHostReserveLeastBytes = std::uint64_t{64} << 20;
inline constexpr std::uint64_t kHostReservePart = 32;
/// What favours may take of the room beyond the reserve before they look again.
inline constexpr std::uint64_t kGrantPart = 8;
inline constexpr std::uint64_t kGrantLeastBytes = std::uint64_t{256} << 10;
inline constexpr std::uint64_t kGrantMostBytes = std::uint64_t{16} << 20;
/// How long what was seen counts, and until a prefetch that stopped for want of memory looks again.
inline constexpr std::chrono::milliseconds kRoomFresh{1000};
inline constexpr std::chrono::milliseconds kRoomPause{1000};
/// Between attempts to put in what a vCPU waits for and there is no memory for.
inline constexpr std::chrono::milliseconds kMemoryRetryFirst{5};
inline constexpr std::chrono::milliseconds kMemoryRetryMost{500};
/// After this a page for which there is no memory cannot be had, unless the session says otherwise.
inline constexpr std::chrono::seconds kMemoryPatience{60};
/// Between two log lines of one VM that there is none.
inline constexpr std::chrono::seconds kMemoryLogInterval{10};

// Memory on which system calls take long, as its VMM decides.
/// A call up to this long counts for nothing.
inline constexpr std::chrono::milliseconds kFairCall{1};
/// What one VM's longer calls may cost the loop at once, and the part of all time that they may
/// cost it for ever. Beyond that they are made on a thread of the VM's own.
inline constexpr std::chrono::milliseconds kSlowBudget{5};
inline constexpr std::int64_t kSlowShare = 200;
/// How long no call may be slow until the loop makes them again: at first, and at most. Twice as
/// long each time that the VM becomes slow again within kSlowForgotten.
inline constexpr std::chrono::seconds kQuietFirst{1};
inline constexpr std::chrono::seconds kQuietMost{64};
inline constexpr std::chrono::minutes kSlowForgotten{1};
/// For so long the loop may wait for a worker that puts pages in before that counts as a call: the
/// worker may have lost its CPU.
inline constexpr std::chrono::milliseconds kFairGate{20};

// Prefetch.
inline constexpr std::size_t kPrefetchBuffers = 8;  // of a link, to receive into
inline constexpr std::size_t kPrefetchBufferBytes = 512u << 10;
inline constexpr std::size_t kPrefetchWindowBytes = 512u << 10;  // asked for and not yet there
/// Decompressed pieces of all sessions that wait for their VM or are being put in, 256 KiB each.
inline constexpr std::size_t kMaxPlainBuffers = 1024;
inline constexpr std::size_t kMaxWaitingPlainBuffers = 512;  // of sessions that have no VM yet
inline constexpr std::size_t kMaxSessionPlainBuffers = 256;
/// The same of a session that has its VM: what is decompressed goes in at once, out of the cache.
inline constexpr std::size_t kMaxServingPlainBuffers = 16;
inline constexpr std::size_t kSparePlainBuffers = 64;  // that are kept for the next
inline constexpr std::size_t kMaxCopyPages = 16;       // between two looks at what the VM removed
inline constexpr std::size_t kMaxZeroPages = 256;      // the same
inline constexpr unsigned kMaxPrefetchAttempts = 8;    // to put a piece in beside REMOVEs
inline constexpr std::size_t kMaxCountedSnapshots = 4096;  // whose restores are counted
inline constexpr std::size_t kMaxDamageReports = 1024;     // damaged chunks and packs to be told of
inline constexpr std::size_t kMaxUploads = 64;             // recordings and reports that wait

/// Until a page that somebody waits for is fetched on demand although it is on its way.
inline constexpr std::chrono::milliseconds kLatePatience{100};
/// Between two looks at the pages that hydration could not bring so far.
inline constexpr std::chrono::milliseconds kSweepFirst{50};
inline constexpr std::chrono::milliseconds kSweepMost{1000};
/// From the handover to the first touch; then the session goes on without a recording.
inline constexpr std::chrono::seconds kFirstTouchPatience{60};
/// Between two looks at whether a guest that is recorded has begun to run.
inline constexpr std::chrono::milliseconds kVcpuLookFirst{20};
inline constexpr std::chrono::milliseconds kVcpuLookMost{1000};
/// How long a VM that was loaded paused may stay so; then the session goes on without a recording.
inline constexpr std::chrono::hours kMostPrelude{1};
inline constexpr std::chrono::hours kMostRecording{1};  // its times have 32 bits of microseconds
inline constexpr std::size_t kMaxImages = 128;          // each has three descriptors
/// Between two looks at whether an image has pages that nobody here has put in.
inline constexpr std::chrono::seconds kGuardInterval{1};
inline constexpr std::chrono::seconds kAcceptTimeout{600};  // from prepare to the VMM's connect
/// Between attempts to accept a VMM when no descriptor is left, at first.
inline constexpr std::chrono::milliseconds kAcceptPauseFirst{10};
/// Operators see how things were so long ago at most.
inline constexpr std::chrono::milliseconds kOperatorInterval{500};
/// Between the death of a handler that had not come to serve and the next.
inline constexpr std::chrono::milliseconds kRestartFirst{10};
inline constexpr std::chrono::milliseconds kRestartMost{1000};
/// Before an upgrade, and between two looks at whether it can be done.
inline constexpr std::chrono::milliseconds kUpgradePause{50};
/// An upgrade: how long the new program may take to say that it could serve, the new supervisor to
/// have a handler that serves, and all of it.
inline constexpr std::chrono::seconds kProof{10};
inline constexpr std::chrono::seconds kProbation{5};
inline constexpr std::chrono::seconds kGuard{15};
inline constexpr std::chrono::seconds kUpgrade{60};
/// From its proof on: how long connections that have handed nothing over hold it up, and until it
/// is given up because it cannot begin.
inline constexpr std::chrono::seconds kUpgradeDoors{3};
inline constexpr std::chrono::seconds kUpgradeStart{20};
inline constexpr std::size_t kMaxProofText = 4096;  // what the new program says of its failure
inline constexpr std::size_t kMaxSettingsBytes = 8u << 20;
/// How long a handler waits for its settings, which are there before it starts.
inline constexpr std::chrono::seconds kSettings{5};
/// Between two looks at the addresses of page servers; sooner while a name does not resolve.
inline constexpr std::chrono::seconds kResolveFirst{1};
inline constexpr std::chrono::seconds kResolveInterval{15};
/// What a supervisor and its handler may tell each other in words.
inline constexpr std::size_t kMaxKeepText = 1024;
/// How often, and from when on how rarely, a message is sent again that the kernel does not take.
inline constexpr std::chrono::milliseconds kKeepSendFirst{10};
inline constexpr std::chrono::milliseconds kKeepSendMost{500};
inline constexpr std::chrono::seconds kKeepSendPatience{20};
/// Fault handlers in a row that crash on one session before it is set aside.
inline constexpr unsigned kMostCrashes = 3;
/// Errands of a handler that its supervisor does: how many wait, the threads that do them, how long
/// the handler waits for one, and the supervisor for a handler that takes no answers.
inline constexpr std::size_t kMaxErrands = 4 * kMaxSessions;
inline constexpr unsigned kErrandThreads = 4;
inline constexpr std::chrono::seconds kErrandPatience{1};
inline constexpr std::chrono::seconds kErrandAnswer{10};
inline constexpr std::chrono::seconds kErrandLook{60};  // between two looks whether one comes
/// What is in one, and in its answer: of mappings as many as a message may hold.
inline constexpr std::size_t kMaxErrandAddresses = 64;
inline constexpr std::size_t kMaxErrandRanges = 8192;
inline constexpr std::size_t kMaxErrandText = 512;
inline constexpr std::size_t kMaxErrandBytes = 1024;
inline constexpr std::size_t kMaxAnswerBytes = 1024 + kMaxErrandRanges * 24;
/// How often a handler's loop is asked for a turn.
inline constexpr std::chrono::milliseconds kPulse{250};
/// A handler whose loop makes none for so long is replaced. Twice as long after each of them that
/// came within kStallsForgotten of the one before, at most kStalledMost: a host that is short of
/// everything is not helped by handlers that begin anew.
inline constexpr std::chrono::milliseconds kStalled{500};
inline constexpr std::chrono::milliseconds kStalledMost{8000};
inline constexpr std::chrono::minutes kStallsForgotten{1};
/// Handlers that have stood still on one session's memory, each within kStallsForgotten of the one
/// before, until it is set aside.
inline constexpr unsigned kMostStalls = 3;
/// A killed handler that has not exited after so long is held by the kernel, in a call on a VM's
/// memory, say.
inline constexpr std::chrono::seconds kHandlerDeath{1};
/// How long a handler may take to exit once its connection to the supervisor has ended.
inline constexpr std::chrono::seconds kHandlerExit{3};
/// Without a handler for so long, VMs are dealt with as their policies say.
inline constexpr std::chrono::seconds kNobodyServes{10};
/// Between two looks at whether VMMs whose sessions are over have exited.
inline constexpr std::chrono::milliseconds kLingerInterval{200};
inline constexpr std::chrono::seconds kHandoffTimeout{10};  // from connect to the whole handoff
/// Connections heard at once for one session until one of them proves to be its VMM's. Beyond that,
/// those that have said nothing for this long make room.
inline constexpr std::size_t kMaxVmmCandidates = 128;
inline constexpr std::chrono::seconds kSilentVmm{1};
/// How long a door may take to answer when it is told to close: without and with a VMM in it. How
/// long after that its process may live until it is said to hang; and so many of them of one user,
/// until no door is opened for that user.
inline constexpr std::chrono::seconds kDoorAnswer{3};
inline constexpr std::chrono::seconds kDoorClosing = kHandoffTimeout + kDoorAnswer;
inline constexpr std::chrono::seconds kDoorExit{1};
inline constexpr std::ptrdiff_t kMostHangingDoors = 4;
/// Attempts to have a door for a session, kRestartMost apart.
inline constexpr unsigned kMostDoorFailures = 10;
/// How long a VMM is heard that goes on talking after its handoff.
inline constexpr std::chrono::seconds kAfterHandoff{1};
/// Between two log lines about connections of one session that were no VMM's.
inline constexpr std::chrono::seconds kDropLogInterval{10};
inline constexpr std::chrono::seconds kDemandTimeout{5};    // a reply; then the link is redone
inline constexpr std::chrono::seconds kUnservableRetry{5};  // policy wait: until the next attempt
/// Between two looks at whether a page has waited too long.
inline constexpr std::chrono::milliseconds kWaitingLookLeast{20};
inline constexpr std::chrono::milliseconds kWaitingLookMost{1000};
/// How long a session that was prepared waits for page servers to keep its snapshot, and the first
/// and the longest pause between two looks.
inline constexpr std::chrono::milliseconds kPinPatience{1000};
inline constexpr std::chrono::microseconds kPinPauseFirst{200};
inline constexpr std::chrono::milliseconds kPinPauseMost{10};
/// One exchange with the loop, and the time that a client has to ask or to take the reply.
inline constexpr std::chrono::seconds kControlTimeout{10};
/// A session is prepared within this time or not at all; its client waits for kCommitTimeout.
inline constexpr std::chrono::seconds kPrepareTimeout{100};
static_assert(kPrepareTimeout < kCommitTimeout);
/// Threads that prepare sessions, and those that are kept for commands that need the loop alone.
inline constexpr unsigned kPrepareThreads = 8;
inline constexpr unsigned kControlThreads = 2;
/// Sessions being prepared, those that wait for a thread included; clients of the control socket,
/// and how many of them may have said nothing yet.
inline constexpr std::size_t kMaxPrepares = 256;
inline constexpr std::size_t kMaxControlClients = 512;
inline constexpr std::size_t kMaxSilentClients = 64;
static_assert(kMaxPrepares + kMaxSilentClients < kMaxControlClients);
/// How soon who waits for the loop sees that it has ended.
inline constexpr std::chrono::milliseconds kControlInterval{100};
inline constexpr std::chrono::milliseconds kReconnectFirst{10};
inline constexpr std::chrono::milliseconds kReconnectMost{1000};
inline constexpr std::chrono::microseconds kDelayedFirst{50};
inline constexpr std::chrono::microseconds kDelayedMost{10'000};

static_assert(kProbation < kNobodyServes && 2 * kProbation < kGuard);
static_assert(kUpgradeDoors + kDoorClosing < kUpgradeStart);
static_assert(kProof + kUpgradeStart + kGuard < kUpgrade);
static_assert(kMaxBatchPages + kMaxBatchRiders <= kMaxChunksPerRequest);

}  // namespace thaw::limits
