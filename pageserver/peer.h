#pragma once

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <variant>

#include "base/clock.h"
#include "format/store_id.h"
#include "format/wire.h"
#include "pageserver/access.h"
#include "pageserver/credible_time.h"
#include "pageserver/fair_queue.h"
#include "pageserver/identity_shares.h"
#include "pageserver/jobs.h"
#include "pageserver/limits.h"
#include "pageserver/live_pushes.h"
#include "pageserver/page_hash_lists.h"
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
  CredibleTime time;  // begun before the first peer; a replica's is not used
  std::uint64_t most_connections = UINT64_MAX;  // set before the first peer
  IdentityShares connections;                   // that have said hello
  IdentityShares preceding;                     // whose threads run before others
  // Those of one identity: for half of the CPUs, so that others' find one too.
  const std::size_t most_preceding = std::clamp<std::size_t>(
      std::thread::hardware_concurrency() / 2, 1, limits::kMostPrecedingThreads);
  IdentityShares push_memory;  // bytes, as limits::kPushMemory says
  BuildTurns builds;
  PageHashLists page_hashes;
  SnapshotPins pins;
  LivePushes pushes;
  Jobs* jobs = nullptr;  // set before the first peer; nullptr: none are done
  // Set before the first peer; nullptr: everybody may do everything.
  const Access* access = nullptr;

  /// Counts one more connection that uses the namespace; nullptr when it is removed, or about to
  /// be. The result stays where it is as long as this object lives.
  Traffic* enter(NamespaceId in);
  /// [writer] From now on no connection enters; false, and nothing changes, where others than the
  /// caller's use it.
  bool close(NamespaceId in);
  /// [writer] Connections may enter again.
  void open(NamespaceId in);

 private:
  std::mutex traffic_mutex_;
  std::map<NamespaceId, Traffic> traffic_;  // guarded by it; of all that were ever entered
  std::set<NamespaceId> closed_;            // guarded by it
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

/// Whether a request only looks something up. Others may take long, and wait in turns of their own.
bool is_quick(const Message& message);
/// Whether it counts all of a namespace. Such a request holds its thread so long that all of them
/// share one.
bool is_census(const Message& message);

/// One connection's side of the protocol, without sockets: requests in, replies out. One thread at
/// a time.
class Peer {
 public:
  /// `kept_recordings` is how many a snapshot has at most.
  Peer(Store& store, ServerCommon& server,
       std::size_t kept_recordings = limits::kDefaultKeptRecordings)
      : store_(store),
        server_(server),
        kept_recordings_(kept_recordings),
        pins_(server.pins),
        parent_pin_(server.pins) {}

  /// Who it is, as it has shown. REQUIRES: before hello().
  void identify(std::string identity) { identity_ = std::move(identity); }
  /// Where it came from, as peer_network() says. REQUIRES: before hello().
  void come_from(std::string network) { network_ = std::move(network); }
  const std::string& identity() const { return identity_; }
  /// Whether it may do something in some namespace.
  bool is_named() const;
  /// The first request. kProtocol when it is none, kBadVersion, kInvalidArgument, kUnauthorized
  /// when this peer may do nothing in the namespace, be it there or not, kLimitExceeded when the
  /// server or this identity has as many connections as it may.
  Result<Reply> hello(const Message& message);
  message::Role role() const { return role_; }
  /// Whose share its work comes out of. REQUIRES: hello() succeeded.
  Tenant tenant() const { return {share(), name_space_name_}; }
  /// Whether it is one of the few demand connections of its identity whose threads run before
  /// others. Stays so as long as it lives.
  bool take_precedence();
  /// Takes memory of the identity's share for a request's body, until release_body().
  /// kLimitExceeded. REQUIRES: hello() succeeded.
  Result<void> hold_body(std::size_t bytes);
  void release_body() { body_.reset(); }

  /// Answers what a connection for pages may ask for: chunks, and with the role kPrefetch packs.
  Result<Reply> pages(const Message& message);

  // A control connection's requests.

  /// Marks a request of which only the checking is done: finish_write() must follow where the
  /// store's writes are serialised.
  struct NeedsWriter {};
  /// Marks a request that turned out to take long: build() must follow.
  struct NeedsBuild {};
  /// Marks a request for what another peer's request is just making: handle() must follow, some
  /// time later.
  struct NeedsTurn {};
  /// Answers a request. An error is to be sent as an ErrorReply; the connection may go on.
  using Step = std::variant<Reply, NeedsWriter, NeedsBuild, NeedsTurn>;
  Result<Step> handle(const Message& message, ByteSpan body);
  /// Goes on with a request that needs a build.
  Result<Step> build(const Message& message);
  /// Does the writing of the request that handle() or build() has just checked.
  Result<Step> finish_write(const Message& message);

 private:
  const std::string& share() const { return identity_.empty() ? network_ : identity_; }
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
  std::optional<IdentityShares::Held> take_build_memory();
  Result<void> begin_build(Result<WorkingSetBuild> begun, BuildTurns::Turn turn,
                           IdentityShares::Held memory);
  /// Nothing when build() is to go on.
  Result<std::optional<Bytes>> write_build();
  void end_build();
  Result<void> remove_namespace();
  void end_push();
  /// This peer's namespace, which it makes if there is none and it may. kUnauthorized.
  Result<NamespaceId> open_namespace();
  /// kQuotaExceeded when so many more bytes are too many for a grant of the policy.
  Result<void> check_grants(ByteCount more);
  GrowthAdmission grants();
  Result<void> begin_push(const message::BeginPush& request);
  /// This peer's namespace; kNotFound before the first push to it.
  Result<NamespaceId> name_space();
  Result<void> enter(NamespaceId in);
  void leave();
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
  std::optional<IdentityShares::Held> place_;       // one connection, as it lives
  std::optional<IdentityShares::Held> precedence_;  // nothing: it has none
  std::optional<IdentityShares::Held> body_;        // bytes, of a request that is not small
  message::Role role_ = message::Role::kControl;
  std::string identity_;
  std::string network_;
  std::string name_space_name_;
  Rights rights_;         // in this namespace
  Rights rights_in_all_;  // in every namespace
  std::uint64_t rights_generation_ = 0;
  std::optional<NamespaceId> name_space_;
  Traffic* traffic_ = nullptr;  // of that namespace
  std::unique_ptr<std::atomic<std::uint64_t>, Uncount> counted_there_;
  PeerPins pins_;
  PeerPins parent_pin_;  // of the push under way
  std::unique_ptr<Push, EndPush> push_{nullptr, EndPush{&server_}};
  // From handle() to the last finish_write():
  std::optional<IdentityShares::Held> build_memory_;
  std::optional<BuildTurns::Turn> turn_;
  std::optional<WorkingSetBuild> build_;
};

}  // namespace thaw
