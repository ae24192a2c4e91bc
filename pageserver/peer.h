#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>

#include "base/clock.h"
#include "format/store_id.h"
#include "format/wire.h"
#include "pageserver/access.h"
#include "pageserver/jobs.h"
#include "pageserver/limits.h"
#include "pageserver/live_pushes.h"
#include "pageserver/push.h"
#include "pageserver/snapshot_pins.h"
#include "pageserver/store.h"
#include "pageserver/working_sets.h"

namespace thaw {

/// What a server may do with its store.
enum class StoreUse {
  kOwn,      // it writes to it, and nobody else does
  kReplica,  // another server owns it: it is only read here
};

/// What the peers of one namespace use of the server, which nobody else is told. Any thread.
struct Traffic {
  std::atomic<std::uint64_t> connections = 0;
  std::atomic<std::uint64_t> chunks_served = 0;
  std::atomic<std::uint64_t> packs_served = 0;
};

/// What the server's peers have in common: how many there are, whose turn it is, and what they keep
/// from being deleted. Any thread.
struct ServerCommon {
  explicit ServerCommon(const StoreId& store_id, Nanoseconds pin_grace = {})
      : store(store_id), pins(pin_grace) {}

  const StoreId store;
  StoreUse use = StoreUse::kOwn;  // set before the first peer
  Clock::time_point started = Clock::now();
  std::uint64_t most_connections = UINT64_MAX;  // set before the first peer
  std::atomic<std::uint64_t> connections = 0;   // that have said hello
  BuildTurns builds;
  SnapshotPins pins;
  LivePushes pushes;
  std::mutex usage;      // held while one peer's usage is counted, which takes long
  Jobs* jobs = nullptr;  // set before the first peer; nullptr: none are done
  // Set before the first peer; nullptr: everybody may do everything.
  const Access* access = nullptr;

  /// Stays where it is as long as this object lives.
  Traffic& traffic(NamespaceId in) {
    const std::lock_guard lock(traffic_mutex_);
    return traffic_[in];
  }

 private:
  std::mutex traffic_mutex_;
  std::map<NamespaceId, Traffic> traffic_;  // guarded by it; of namespaces that are there
};

/// An answer: the message and the pieces of its body, kept alive by `owned` and `pin`.
struct Reply {
  Message message;
  Bytes owned;                   // a body made for this reply; empty when `pieces` has one
  std::vector<ByteSpan> pieces;  // a body that lies in the store's memory
  std::shared_ptr<const void> pin;
};

Reply with_body(Message message, Bytes body = {});
Reply done();

/// One connection's side of the protocol, without sockets: requests in, replies out. One thread at
/// a time.
class Peer {
 public:
  /// `kept_recordings` is how many a snapshot has at most.
  Peer(Store& store, ServerCommon& server,
       std::size_t kept_recordings = limits::kDefaultKeptRecordings)
      : store_(store), server_(server), kept_recordings_(kept_recordings), pins_(server.pins) {}

  /// Who it is, as it has shown. REQUIRES: before hello().
  void identify(std::string identity) { identity_ = std::move(identity); }
  /// The first request. kProtocol when it is none, kBadVersion, kInvalidArgument, kUnauthorized
  /// when this peer may do nothing in the namespace, be it there or not, kLimitExceeded when the
  /// server has as many connections as it takes.
  Result<Reply> hello(const Message& message);
  message::Role role() const { return role_; }

  /// Answers what a connection for pages may ask for: chunks, and with the role kPrefetch packs.
  Result<Reply> pages(const Message& message);

  // A control connection's requests.

  /// Marks a request of which only the checking is done: finish_write() must follow where the
  /// store's writes are serialised.
  struct NeedsWriter {};
  /// Answers a request. An error is to be sent as an ErrorReply; the connection may go on.
  using Step = std::variant<Reply, NeedsWriter>;
  Result<Step> handle(const Message& message, ByteSpan body);
  /// Does the writing of the request that handle() has just checked.
  Result<Reply> finish_write(const Message& message);

 private:
  /// kUnauthorized when the peer may not ask for this.
  Result<void> authorise(const Message& message);
  Result<void> look_up_rights();
  Result<void> take_place();
  Result<Reply> read(const Message& message, ByteSpan body);
  // What looks after the store, in peer_upkeep.cc: nothing when the message is of another kind.
  Result<std::optional<Reply>> read_upkeep(const Message& message);
  Result<std::optional<Reply>> write_upkeep(const Message& message);
  Result<Reply> tags(const message::ListTags& request);
  Result<Reply> usage_of(const message::GetUsage& request);
  Result<Reply> namespace_report();
  Result<Reply> change_labels(const message::ChangeLabels& request);
  Result<void> delete_snapshot(const message::DeleteSnapshot& request);
  Result<Reply> note_damage(const message::ReportDamage& report);
  Result<Jobs*> jobs();
  Result<Reply> pin(const message::Pin& request);
  Result<Reply> unpin(const message::Unpin& request);
  Result<Reply> chunks(const message::GetChunks& request);
  /// kWrongNamespace for chunks of another than this peer's.
  Result<void> check_namespace(std::span<const ChunkId> ids, NamespaceId in) const;
  Result<Reply> pack(const message::GetPack& request);
  Result<Reply> list(const message::ListSnapshots& request);
  Result<Reply> statistics();
  Result<Step> working_set(const message::GetWorkingSet& request);
  Result<Reply> report(const message::ShowWorkingSet& request);
  Result<void> begin_build(Result<WorkingSetBuild> begun);
  Result<Bytes> finish_build();
  void end_push();
  Result<void> begin_push(const message::BeginPush& request);
  /// This peer's namespace; kNotFound before the first push to it.
  Result<NamespaceId> name_space();
  void enter(NamespaceId in);
  Result<Push*> push();

  struct Uncount {
    void operator()(std::atomic<std::uint64_t>* count) const {
      count->fetch_sub(1, std::memory_order_relaxed);
    }
  };

  /// A push that goes, committed or not.
  struct EndPush {
    ServerCommon* server;
    void operator()(Push* push) const;
  };

  Store& store_;
  ServerCommon& server_;
  const std::size_t kept_recordings_;
  std::unique_ptr<std::atomic<std::uint64_t>, Uncount> counted_;  // one connection, as it lives
  message::Role role_ = message::Role::kControl;
  std::string identity_;
  std::string name_space_name_;
  Rights rights_;         // in this namespace
  Rights rights_in_all_;  // in every namespace
  std::uint64_t rights_generation_ = 0;
  std::optional<NamespaceId> name_space_;
  Traffic* traffic_ = nullptr;  // of that namespace
  std::unique_ptr<std::atomic<std::uint64_t>, Uncount> counted_there_;
  PeerPins pins_;
  std::unique_ptr<Push, EndPush> push_{nullptr, EndPush{&server_}};
  // Between handle() and finish_write():
  std::optional<BuildTurns::Turn> turn_;
  std::optional<WorkingSetBuild> build_;
};

}  // namespace thaw
