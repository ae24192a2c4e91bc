#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/types.h"
#include "format/manifest.h"

namespace thaw {

/// What is said on a fault handler's control socket: one JSON object and a newline each way, one
/// exchange a connection. FORMAT.md has the fields.

/// What happens to a VM whose page cannot be had: all servers say there is no such chunk or bring
/// it damaged, or none of them has brought it within the time that was set.
enum class UnservablePolicy {
  kKill,
  kWait,
  kPoison,  // touching the page is an error that the guest sees; all else goes on
};

/// Whether a session records what its guest touches, for its snapshot's working set. It is served
/// without prefetch and fault-around meanwhile.
enum class RecordMode { kWithoutSet, kAlways, kNever };

namespace control {

struct Prepare {
  std::string snapshot;
  std::string socket;                      // where the VMM will connect
  std::string state_out;                   // file to write the VMM state to; empty: none
  std::string name_space;                  // empty: the handler's default
  std::optional<std::uint32_t> owner_uid;  // of the socket and the state file; both or neither
  std::optional<std::uint32_t> owner_gid;
  UnservablePolicy on_unservable = UnservablePolicy::kKill;
  /// How long a page may wait for servers that are away or silent before the policy is applied to
  /// it; 0: without end.
  std::uint32_t unservable_after_ms = 0;
  RecordMode record = RecordMode::kWithoutSet;
  /// A recording ends when no page was touched first for so long, and at the latest after the
  /// other.
  std::uint32_t record_idle_ms = 1000;
  std::uint32_t record_most_ms = 10'000;
  bool prefetch = true;                   // the working set, if there is one
  std::uint64_t hydrate_bytes_per_s = 0;  // the rest of memory in the background; 0: never
  std::string trace_out;                  // file for a trace of the same window; empty: none
  /// The VM maps the host's image of the snapshot instead of having memory of its own. What is said
  /// of prefetch counts for whoever makes the image; nothing is recorded.
  bool shared = false;
  /// Whether that VM may be one of root or of the handler's user. Such a VMM can change the image,
  /// which others map, and what they read.
  bool allow_root_vmm = false;
  /// The snapshot is named with its content hash, and nothing enters the guest, nor the state file,
  /// that this hash does not vouch for. Else the page servers are believed.
  bool verify = false;
  friend bool operator==(const Prepare&, const Prepare&) = default;
};
struct List {
  friend bool operator==(const List&, const List&) = default;
};
/// Ends a session. One whose VMM still lives is kBusy unless `kill`: without its handler the VM
/// would hang at its next missing page.
enum class StopMode { kRefuseIfAlive, kKill };
struct Stop {
  std::uint64_t session = 0;
  StopMode mode = StopMode::kRefuseIfAlive;
  friend bool operator==(const Stop&, const Stop&) = default;
};

/// The handler's supervisor starts the program that is installed now beside itself. If that one
/// could serve, the supervisor becomes it, and another handler goes on with all sessions. Otherwise
/// everything stays as it is. The reply comes before that; HandlerReport tells the outcome.
struct Upgrade {
  friend bool operator==(const Upgrade&, const Upgrade&) = default;
};

struct Prepared {
  std::uint64_t session = 0;
  std::string socket;
  ByteCount memory;
  ByteCount state;
  std::vector<RegionShape> regions;
  /// Another number for each restore on this host, ever higher: for a device that tells the guest
  /// that it was restored.
  std::uint64_t generation = 0;
  std::vector<std::string> warnings;  // for people: what may make this restore fail
  friend bool operator==(const Prepared&, const Prepared&) = default;
};

}  // namespace control

enum class SessionState {
  kPrepared,  // waiting for its VMM
  kServing,   // attached to a VM
  kDetached,  // all its memory is present: the VM needs nobody
  kRefused,   // its handoff was refused; holds the userfaultfd until the VMM has exited
  kEnded,     // the VMM has exited, or the session was stopped
};
std::string_view session_state_name(SessionState state);

/// Counters of one session. Each fault is counted once, under what resolved it.
struct FaultCounters {
  std::uint64_t total = 0;
  std::uint64_t fetched = 0;    // asked the page server
  std::uint64_t coalesced = 0;  // the page was in flight already, by prefetch or not
  std::uint64_t zero = 0;       // zero in the snapshot
  std::uint64_t removed = 0;    // zero because the guest gave the page back
  std::uint64_t present = 0;    // there already when the event was read

  FaultCounters& operator+=(const FaultCounters& other);
  friend bool operator==(const FaultCounters&, const FaultCounters&) = default;
};

enum class RecordingState {
  kNone,
  kRunning,
  kUploading,
  kStored,  // the page server has it
  kFailed,  // it could not be stored, or there was nothing in it: the guest never ran
};
enum class PrefetchState {
  kNone,       // there is no working set, or it is not to be used
  kStreaming,  // packs are on their way or being put in
  kDone,
  kStopped,        // given up before its end; the rest comes on demand
  kShortOfMemory,  // it, or hydration, stands still for want of memory; it goes on if there is some
};

struct PrefetchSummary {
  PrefetchState state = PrefetchState::kNone;
  std::uint64_t set_pages = 0;
  std::uint64_t prefetched_pages = 0;  // of the set, before anybody asked, zero pages included
  std::uint64_t late_pages = 0;        // of the set, demanded while on their way
  std::uint64_t packs = 0;             // put in
  std::uint64_t bytes = 0;             // of packs, as they came
  std::uint64_t hydrated_pages = 0;    // brought in the background after the set
  friend bool operator==(const PrefetchSummary&, const PrefetchSummary&) = default;
};

struct SessionReport {
  std::uint64_t session = 0;
  std::string snapshot;
  std::string socket;
  SessionState state = SessionState::kPrepared;
  std::string outcome;  // why it ended; empty until then
  std::int64_t vmm_pid = 0;
  std::string vmm_exit{};   // "code 0", "signal 9 (SIGKILL)" or "unknown"; empty while it lives
  bool vmm_unseen = false;  // it is in a PID namespace where the handler sees no pid: vmm_pid is 0
  bool remove_events = true;  // its userfaultfd tells of pages that are given back
  bool slow_memory = false;  // system calls on its memory take long: a thread of its own makes them
  ByteCount memory;
  bool shared = false;  // present pages, prefetch and what was received are those of the host image
  bool verified = false;  // nothing enters the guest that the content hash does not vouch for
  std::uint64_t present_pages = 0;
  FaultCounters faults;
  PrefetchSummary prefetch;
  RecordingState recording = RecordingState::kNone;
  std::uint64_t recorded_pages = 0;
  std::uint64_t local_pages = 0;           // found on this host
  std::uint64_t around_pages = 0;          // brought beside demanded ones, zero pages included
  std::uint64_t around_window = 0;         // pages in the present fault-around window
  std::uint64_t around_probes = 0;         // pages left out to learn from
  std::uint64_t around_hits = 0;           // of those, asked for later
  std::uint64_t removed_pages = 0;         // that the guest gave back, each once
  std::uint64_t redundant_fills = 0;       // copies and zeros that met a present page (EEXIST)
  std::uint64_t gone_fills = 0;            // that met no memory any more (ENOENT)
  std::uint64_t delayed_fills = 0;         // that had to wait for a REMOVE (EAGAIN)
  std::uint64_t damaged_chunks = 0;        // replies refused by their checksum
  std::uint64_t waiting_pages = 0;         // that a vCPU waits for now
  std::uint64_t memory_waiting_pages = 0;  // of those, that are here and have no memory to go to
  std::string
      short_of{};  // what has no memory left for prefetch or for those pages; empty: nothing
  std::uint64_t poisoned_pages = 0;  // that could not be had, and that the guest must not touch
  std::uint64_t bytes_received = 0;  // chunks, as they came from the page server
  std::uint64_t handler_deaths = 0;  // processes that died while they served it
  std::uint64_t unserved_us = 0;     // from deaths and upgrades until it was served again, together
  // From reading a fault's event to the end of its copy, in microseconds.
  double latency_us_p50 = 0;
  double latency_us_p99 = 0;
  double latency_us_max = 0;
  friend bool operator==(const SessionReport&, const SessionReport&) = default;
};

enum class ServerState {
  kIdle,  // nobody needs it, or it was not looked for yet
  kUp,
  kSlow,  // there, but asked only if there is no other
  kAway,  // also one that keeps another store
};
std::string_view server_state_name(ServerState state);

/// How a fault handler sees one of its page servers.
struct ServerReport {
  std::string address;
  ServerState state = ServerState::kIdle;
  std::uint64_t away_ms = 0;   // for how long it has been
  std::uint64_t requests = 0;  // for pages that somebody waits for
  friend bool operator==(const ServerReport&, const ServerReport&) = default;
};

/// Of all sessions of the process that serves now, those that it took over and those that have
/// ended among them.
struct SessionTotals {
  std::uint64_t sessions = 0;
  FaultCounters faults;
  std::uint64_t poisoned_pages = 0;
  std::uint64_t vmms_killed = 0;  // by a signal, from any sender

  SessionTotals& operator+=(const SessionReport& session);
  friend bool operator==(const SessionTotals&, const SessionTotals&) = default;
};

struct HandlerReport {
  std::uint64_t upgrades = 0;     // that were asked for and have come to their end
  std::string upgrade_failure{};  // why the last one changed nothing; empty: it did
  std::vector<ServerReport> servers;
  std::uint64_t hedges = 0;       // requests that went to a second server, the first being slow
  std::uint64_t damaged = 0;      // chunks and packs that were refused by their checksum
  std::uint64_t unserved_us = 0;  // from the death of the process before this until it served
  std::uint64_t index_bytes = 0;  // of memory that page maps of snapshots take
  std::uint64_t index_bytes_most = 0;  // that they may take
  SessionTotals totals{};
  std::vector<SessionReport> sessions;
  friend bool operator==(const HandlerReport&, const HandlerReport&) = default;
};

using ControlRequest =
    std::variant<control::Prepare, control::List, control::Stop, control::Upgrade>;
struct Stopped {
  friend bool operator==(const Stopped&, const Stopped&) = default;
};
struct Upgrading {
  /// It has come to its end when HandlerReport::upgrades is as many.
  std::uint64_t upgrade = 0;
  friend bool operator==(const Upgrading&, const Upgrading&) = default;
};
using ControlReply = std::variant<Error, control::Prepared, HandlerReport, Stopped, Upgrading>;

std::string_view recording_state_name(RecordingState state);
std::string_view prefetch_state_name(PrefetchState state);

/// Each ends in a newline.
std::string encode_control_request(const ControlRequest& request);
std::string encode_control_reply(const ControlReply& reply);
/// kMalformed for text that is no such object; fields that are not known are refused, so that a
/// misspelt one is never ignored.
Result<ControlRequest> decode_control_request(std::string_view line);
/// An error reply decodes to a ControlReply that holds the Error.
Result<ControlReply> decode_control_reply(std::string_view line);

}  // namespace thaw
