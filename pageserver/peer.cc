#include "pageserver/peer.h"

#include <chrono>
#include <memory>

#include "base/check.h"
#include "format/limits.h"
#include "pageserver/snapshots.h"

namespace thaw {

namespace {

bool writes(const Message& message) {
  return std::holds_alternative<message::BeginPush>(message) ||
         std::holds_alternative<message::Upload>(message) ||
         std::holds_alternative<message::Commit>(message) ||
         std::holds_alternative<message::DeleteSnapshot>(message) ||
         std::holds_alternative<message::PutRecording>(message) ||
         std::holds_alternative<message::DropWorkingSet>(message) ||
         std::holds_alternative<message::PutPrefetchReport>(message) ||
         std::holds_alternative<message::MoveTag>(message) ||
         std::holds_alternative<message::RemoveTag>(message) ||
         std::holds_alternative<message::ChangeLabels>(message) ||
         std::holds_alternative<message::SetNamespace>(message) ||
         std::holds_alternative<message::RemoveNamespace>(message);
}

/// Holds a push's memory, as long as it is there. kLimitExceeded when it has outgrown what the
/// identity may have.
MapAdmission admission_to(IdentityShares::Held memory) {
  return [held = std::make_shared<IdentityShares::Held>(std::move(memory))](
             ByteCount all) -> Result<void> {
    const std::uint64_t needed = all.value + limits::kPushBaseBytes;
    if (held->resize(needed, limits::kPushMemory)) return {};
    return fail(ErrorCode::kLimitExceeded, "pushes have no {} bytes of memory for this one",
                needed);
  };
}

}  // namespace

Traffic* ServerCommon::enter(NamespaceId in) {
  const std::lock_guard lock(traffic_mutex_);
  if (closed_.contains(in)) return nullptr;
  Traffic& traffic = traffic_[in];
  traffic.connections.fetch_add(1, std::memory_order_relaxed);
  return &traffic;
}

bool ServerCommon::close(NamespaceId in) {
  const std::lock_guard lock(traffic_mutex_);
  if (traffic_[in].connections.load(std::memory_order_relaxed) > 1) return false;
  closed_.insert(in);
  return true;
}

void ServerCommon::open(NamespaceId in) {
  const std::lock_guard lock(traffic_mutex_);
  closed_.erase(in);
}

bool is_quick(const Message& message) {
  return !std::holds_alternative<message::Offer>(message) &&
         !std::holds_alternative<message::Upload>(message) &&
         !std::holds_alternative<message::Commit>(message) &&
         !std::holds_alternative<message::GetChunks>(message) &&
         !std::holds_alternative<message::GetPageHashes>(message) &&
         !std::holds_alternative<message::PutRecording>(message) &&
         !std::holds_alternative<message::Pin>(message) &&  // it may wait for a deletion
         !std::holds_alternative<message::GetUsage>(message) &&
         !std::holds_alternative<message::GetStatistics>(message);
}

bool is_census(const Message& message) {
  return std::holds_alternative<message::GetUsage>(message);
}

Reply done() { return with_body(message::Done{}); }

Reply with_body(Message message, Bytes body) {
  return {.message = std::move(message), .owned = std::move(body), .pieces = {}, .pin = {}};
}

Result<Reply> Peer::hello(const Message& message) {
  const auto* const hello = std::get_if<message::Hello>(&message);
  if (hello == nullptr) return fail(ErrorCode::kProtocol, "the first message was no hello");
  if (hello->version != message::kVersion) {
    return fail(ErrorCode::kBadVersion, "this server speaks version {}, the peer {}",
                message::kVersion, hello->version);
  }
  TRY(check_name(hello->name_space, "namespace"));
  role_ = hello->role;
  name_space_name_ = hello->name_space;
  TRY(look_up_rights());
  TRY(take_place());
  return with_body(message::Welcome{.store = server_.store});
}

Result<void> Peer::take_place() {
  const ShareLimits limits{.all = server_.most_connections, .sure = limits::kSureConnections};
  auto place = server_.connections.take(share(), 1, limits);
  if (place) {
    place_.emplace(*std::move(place));
    return {};
  }
  const SharesTaken taken = server_.connections.taken(share());
  if (taken.by_all >= limits.all) {
    return fail(ErrorCode::kLimitExceeded, "the page server has {} connections and takes no more",
                taken.by_all);
  }
  return fail(ErrorCode::kLimitExceeded, "\"{}\" has {} of {} connections, which is its share",
              share(), taken.by_identity, limits.all);
}

bool Peer::is_named() const {
  return server_.access == nullptr || server_.access->policy()->names(identity_);
}

Result<void> Peer::hold_body(std::size_t bytes) {
  if (body_) {
    if (body_->resize(bytes, limits::kPushMemory)) return {};
  } else if (auto held = server_.push_memory.take(share(), bytes, limits::kPushMemory)) {
    body_.emplace(*std::move(held));
    return {};
  }
  return fail(ErrorCode::kLimitExceeded, "\"{}\" has its share of memory for requests", share());
}

bool Peer::take_precedence() {
  if (precedence_) return true;
  // However many precede, others get no less.
  auto held = server_.preceding.take(
      share(), 1,
      {.all = UINT64_MAX, .sure = server_.most_preceding, .most = server_.most_preceding});
  if (held) precedence_.emplace(*std::move(held));
  return precedence_.has_value();
}

Result<void> Peer::look_up_rights() {
  if (server_.access == nullptr) return {};
  rights_generation_ = server_.access->generation();
  const auto policy = server_.access->policy();
  rights_ = policy->rights(identity_, name_space_name_);
  rights_in_all_ = policy->rights_in_all(identity_);
  if (!rights_.none()) return {};
  return fail(ErrorCode::kUnauthorized, "\"{}\" may do nothing in namespace \"{}\"", identity_,
              name_space_name_);
}

Result<void> Peer::authorise(const Message& message) {
  if (server_.access == nullptr) return {};
  if (server_.access->generation() != rights_generation_) TRY(look_up_rights());
  const Rights held = concerns_all_namespaces(message) ? rights_in_all_ : rights_;
  if (held.has_one_of(rights_for(message))) return {};
  return fail(ErrorCode::kUnauthorized, "\"{}\" may not do that in namespace \"{}\"", identity_,
              name_space_name_);
}

Result<NamespaceId> Peer::name_space() {
  // A replica is not told what its owner removes.
  if (name_space_ && server_.use == StoreUse::kOwn) return *name_space_;
  const auto found = TRY(store_.find_namespace(name_space_name_));
  if (name_space_ && found != name_space_) leave();
  if (found && !name_space_) {
    TRY(enter(*found));
    // Before it was entered it may have been removed, and its number given to another one.
    if (TRY(store_.find_namespace(name_space_name_)) != found) leave();
  }
  if (name_space_) return *name_space_;
  return fail(ErrorCode::kNotFound, "there is no namespace \"{}\"", name_space_name_);
}

Result<void> Peer::enter(NamespaceId in) {
  if (name_space_) return {};
  traffic_ = server_.enter(in);
  if (traffic_ == nullptr) {
    return fail(ErrorCode::kBusy, "namespace \"{}\" is being removed", name_space_name_);
  }
  name_space_ = in;
  counted_there_.reset(&traffic_->connections);
  return {};
}

void Peer::leave() {
  pins_.unpin_all();
  counted_there_.reset();
  traffic_ = nullptr;
  name_space_.reset();
}

Result<Push*> Peer::push() {
  if (push_ == nullptr) return fail(ErrorCode::kProtocol, "no push has begun");
  return push_.get();
}

Result<Reply> Peer::pages(const Message& message) {
  TRY(authorise(message));
  if (const auto* get = std::get_if<message::GetChunks>(&message)) return chunks(*get);
  if (const auto* request = std::get_if<message::Pin>(&message)) return pin(*request);
  if (const auto* request = std::get_if<message::Unpin>(&message)) return unpin(*request);
  const auto* const get = std::get_if<message::GetPack>(&message);
  if (get != nullptr && role_ == message::Role::kPrefetch) return pack(*get);
  return fail(ErrorCode::kProtocol, "a connection for pages asks for pages alone");
}

Result<Peer::Step> Peer::handle(const Message& message, ByteSpan body) {
  TRY(authorise(message));
  if (const auto* get = std::get_if<message::GetWorkingSet>(&message)) return working_set(*get);
  if (!writes(message)) return TRY(read(message, body));
  if (server_.use == StoreUse::kReplica) {
    return fail(ErrorCode::kUnsupported,
                "this page server is a replica; the one that owns the store takes that");
  }
  if (const auto* upload = std::get_if<message::Upload>(&message)) {
    Push* const current = TRY(push());
    TRY(current->check_upload(upload->count, body));
  }
  if (std::holds_alternative<message::Commit>(message)) {
    Push* const current = TRY(push());
    TRY(current->set_cold_map(body));
  }
  if (const auto* put = std::get_if<message::PutRecording>(&message)) {
    const NamespaceId in = TRY(name_space());
    BuildTurns::Turn turn = TRY(server_.builds.take(in, put->snapshot));
    auto memory = take_build_memory();
    if (!memory) return NeedsTurn{};
    TRY(begin_build(
        WorkingSetBuild::of_recording(store_, in, put->snapshot, body, kept_recordings_),
        std::move(turn), *std::move(memory)));
  }
  return NeedsWriter{};
}

Result<Reply> Peer::read(const Message& message, ByteSpan body) {
  if (auto reply = TRY(read_upkeep(message))) return *std::move(reply);
  if (const auto* get = std::get_if<message::GetChunks>(&message)) return chunks(*get);
  if (const auto* offer = std::get_if<message::Offer>(&message)) {
    Push* const current = TRY(push());
    return with_body(TRY(current->offer(*offer, body)), {});
  }
  if (const auto* get = std::get_if<message::GetPageMap>(&message)) {
    const NamespaceId in = TRY(name_space());
    return with_body(message::PageMapSegment{},
                     TRY(store_.page_map_segment(in, get->snapshot, get->segment)));
  }
  if (const auto* get = std::get_if<message::GetPageHashes>(&message)) {
    const NamespaceId in = TRY(name_space());
    auto hashes = TRY(server_.page_hashes.get(store_, in, get->snapshot, get->segment));
    return Reply{.message = message::PageHashes{},
                 .owned = {},
                 .pieces = {*hashes},
                 .pin = std::move(hashes)};
  }
  if (const auto* request = std::get_if<message::Pin>(&message)) return pin(*request);
  if (const auto* request = std::get_if<message::Unpin>(&message)) return unpin(*request);
  if (const auto* get = std::get_if<message::GetColdMap>(&message)) {
    const NamespaceId in = TRY(name_space());
    return with_body(message::ColdMapReply{}, TRY(store_.cold_map(in, get->snapshot)));
  }
  if (const auto* show = std::get_if<message::ShowSnapshot>(&message)) {
    const NamespaceId in = TRY(name_space());
    return with_body(message::ManifestReply{}, TRY(store_.manifest(in, show->name)));
  }
  if (const auto* list_request = std::get_if<message::ListSnapshots>(&message)) {
    return list(*list_request);
  }
  if (const auto* get = std::get_if<message::GetRecording>(&message)) {
    const NamespaceId in = TRY(name_space());
    return with_body(message::RecordingReply{},
                     TRY(store_.working_sets().recording(in, get->snapshot, get->number)));
  }
  if (const auto* show = std::get_if<message::ShowWorkingSet>(&message)) return report(*show);
  if (std::holds_alternative<message::GetStatistics>(message)) return statistics();
  if (std::holds_alternative<message::GetPack>(message)) {
    return fail(ErrorCode::kProtocol, "packs are asked for on a prefetch connection");
  }
  return fail(ErrorCode::kProtocol, "a message that is no request");
}

Result<Peer::Step> Peer::finish_write(const Message& message) {
  if (const auto* begin = std::get_if<message::BeginPush>(&message)) {
    TRY(begin_push(*begin));
    return done();
  }
  if (auto reply = TRY(write_upkeep(message))) return *std::move(reply);
  if (std::holds_alternative<message::PutRecording>(message)) {
    if (!TRY(write_build())) return NeedsBuild{};
    return done();
  }
  if (std::holds_alternative<message::GetWorkingSet>(message)) {
    auto set = TRY(write_build());
    if (!set) return NeedsBuild{};
    return with_body(message::WorkingSetReply{}, *std::move(set));
  }
  if (const auto* drop = std::get_if<message::DropWorkingSet>(&message)) {
    const NamespaceId in = TRY(name_space());
    TRY(store_.manifest(in, drop->snapshot));
    TRY(store_.working_sets().drop(in, drop->snapshot));
    return done();
  }
  if (const auto* put = std::get_if<message::PutPrefetchReport>(&message)) {
    const NamespaceId in = TRY(name_space());
    TRY(store_.manifest(in, put->snapshot));
    TRY(store_.working_sets().add(in, put->snapshot, put->counters));
    return done();
  }
  Push* const current = TRY(push());
  if (std::holds_alternative<message::Upload>(message)) {
    TRY(current->store_upload(grants()));
    return done();
  }
  const CreatedTime created =
      server_.time.wall().settled ? CreatedTime::kCredible : CreatedTime::kDoubtful;
  const Manifest manifest = TRY(current->commit(grants(), server_.time.now_unix_ms(), created));
  end_push();
  return with_body(message::ManifestReply{}, encode_manifest(manifest));
}

void Peer::EndPush::operator()(Push* push) const {
  server->pushes.remove(*push);
  if (server->jobs != nullptr) {
    server->jobs->note_garbage(push->name_space(), push->uncommitted_bytes());
  }
  delete push;
}

void Peer::end_push() {
  push_.reset();
  parent_pin_.unpin_all();
}

Result<NamespaceId> Peer::open_namespace() {
  if (const auto found = TRY(store_.find_namespace(name_space_name_))) return *found;
  if (server_.access != nullptr && !rights_.has_one_of({Right::kCreate, Right::kAdmin})) {
    return fail(ErrorCode::kUnauthorized, "\"{}\" may not create namespace \"{}\"", identity_,
                name_space_name_);
  }
  const NamespaceId made = TRY(store_.open_namespace(name_space_name_));
  server_.open(made);  // another namespace may have had the number
  return made;
}

Result<void> Peer::check_grants(ByteCount more) {
  if (server_.access == nullptr) return {};
  const auto quotas = server_.access->policy()->quotas(identity_, name_space_name_);
  if (quotas.empty()) return {};
  const auto all = TRY(store_.namespaces());
  for (const Policy::Quota& quota : quotas) {
    std::uint64_t stored = more.value;
    for (const NamedNamespace& one : all) {
      if (!quota.covers(one.name)) continue;
      const NamespaceTotals totals = TRY(store_.totals(one.id));
      stored += totals.pushed_bytes();
    }
    if (stored > quota.bytes) {
      return fail(ErrorCode::kQuotaExceeded, "\"{}\" may have {} bytes stored by its grant",
                  identity_, quota.bytes);
    }
  }
  return {};
}

GrowthAdmission Peer::grants() {
  return [this](ByteCount more) { return check_grants(more); };
}

Result<void> Peer::begin_push(const message::BeginPush& request) {
  if (request.spec.name.find(':') != std::string::npos) {
    return fail(ErrorCode::kInvalidArgument, "\"{}\" has a colon, which only tags have",
                request.spec.name);
  }
  TRY(check_labels(request.spec.labels));
  const NamespaceId in = TRY(open_namespace());
  TRY(enter(in));
  if (TRY(if_found(store_.manifest(*name_space_, request.spec.name)))) {
    return fail(ErrorCode::kAlreadyExists, "there is a snapshot \"{}\" already", request.spec.name);
  }
  end_push();
  auto memory = server_.push_memory.take(share(), limits::kPushBaseBytes, limits::kPushMemory);
  if (!memory) {
    return fail(ErrorCode::kLimitExceeded, "\"{}\" has its share of memory for pushes", share());
  }
  SnapshotId parent;
  if (!request.parent.empty()) {
    const Bytes sealed = TRY(store_.manifest(*name_space_, request.parent));
    parent = TRY(decode_manifest(sealed)).snapshot;
    TRY(parent_pin_.pin(store_, *name_space_, parent));
  }
  push_ = {new Push(store_, *name_space_, request.spec, parent, admission_to(*std::move(memory))),
           EndPush{&server_}};
  server_.pushes.add(*push_);
  return {};
}

Result<Peer::Step> Peer::working_set(const message::GetWorkingSet& request) {
  const NamespaceId in = TRY(name_space());
  auto stored = TRY(if_found(store_.working_sets().working_set(in, request.snapshot)));
  if (stored) return with_body(message::WorkingSetReply{}, *std::move(stored));
  if (server_.use == StoreUse::kReplica) {
    return fail(ErrorCode::kNotFound, "a replica makes no working set");
  }
  return NeedsBuild{};
}

Result<Peer::Step> Peer::build(const Message& message) {
  if (build_) {
    if (auto made = build_->prepare(); !made) {
      end_build();
      return std::unexpected(made.error());
    }
    return NeedsWriter{};
  }
  const auto* const get = std::get_if<message::GetWorkingSet>(&message);
  CHECK(get != nullptr);
  const NamespaceId in = TRY(name_space());
  auto turn = server_.builds.take(in, get->snapshot);
  if (!turn) return NeedsTurn{};
  auto memory = take_build_memory();
  if (!memory) return NeedsTurn{};
  TRY(begin_build(WorkingSetBuild::of_what_is_there(store_, in, get->snapshot), *std::move(turn),
                  *std::move(memory)));
  return NeedsWriter{};
}

std::optional<IdentityShares::Held> Peer::take_build_memory() {
  return server_.push_memory.take(share(), limits::kBuildBytes, limits::kPushMemory);
}

Result<void> Peer::begin_build(Result<WorkingSetBuild> begun, BuildTurns::Turn turn,
                               IdentityShares::Held memory) {
  WorkingSetBuild build = TRY(std::move(begun));
  TRY(build.prepare());
  build_.emplace(std::move(build));
  turn_.emplace(std::move(turn));
  build_memory_.emplace(std::move(memory));
  return {};
}

Result<std::optional<Bytes>> Peer::write_build() {
  CHECK(build_);
  auto set = build_->write();
  if (!set || *set) end_build();
  return set;
}

void Peer::end_build() {
  build_.reset();
  turn_.reset();
  build_memory_.reset();
}

Result<Reply> Peer::report(const message::ShowWorkingSet& request) {
  const NamespaceId in = TRY(name_space());
  TRY(store_.manifest(in, request.snapshot));
  WorkingSetState state = TRY(store_.working_sets().state(in, request.snapshot));
  const auto totals = TRY(store_.working_sets().counters(in, request.snapshot));
  return with_body(message::WorkingSetReport{std::move(state.recordings), totals}, {});
}

Result<Reply> Peer::pack(const message::GetPack& request) {
  const NamespaceId in = TRY(name_space());
  PackRead read =
      TRY(store_.working_sets().pack(in, {request.snapshot, request.generation, request.number}));
  traffic_->packs_served.fetch_add(1, std::memory_order_relaxed);
  return Reply{.message = message::PackReply{},
               .owned = {},
               .pieces = {read.pack},
               .pin = std::move(read.pin)};
}

Result<void> Peer::check_namespace(std::span<const ChunkId> ids, NamespaceId in) const {
  for (const ChunkId id : ids) {
    if (id.name_space() != in.value) {
      return fail(ErrorCode::kWrongNamespace, "chunk {:#x} is not of namespace \"{}\"", id.value,
                  name_space_name_);
    }
  }
  return {};
}

Result<Reply> Peer::chunks(const message::GetChunks& request) {
  const NamespaceId in = TRY(name_space());
  TRY(check_namespace(request.ids, in));
  ChunkRead read = TRY(store_.read_chunks(request.ids, request.optional));
  traffic_->chunks_served.fetch_add(read.chunks.size(), std::memory_order_relaxed);
  return Reply{.message = message::Chunks{static_cast<std::uint32_t>(read.chunks.size())},
               .owned = {},
               .pieces = std::move(read.chunks),
               .pin = std::move(read.pin)};
}

Result<Reply> Peer::list(const message::ListSnapshots& request) {
  const auto in = name_space();
  if (!in) return with_body(message::Snapshots{}, {});
  constexpr Store::ListingPart kPart{.most = limits::kMaxSnapshotsPerListing,
                                     .bytes = limits::kMaxBodyBytes};
  const std::vector<Bytes> manifests = TRY(store_.manifests(*in, request.after, kPart));
  const OutdatedMarks marks = TRY(store_.outdated_marks(*in));
  message::Snapshots snapshots;
  Bytes body;
  for (const Bytes& manifest : manifests) {
    if (body.size() + manifest.size() > limits::kMaxBodyBytes) break;
    if (!marks.empty()) {
      const auto marked = marks.find(TRY(decode_manifest(manifest)).snapshot);
      if (marked != marks.end()) snapshots.outdated.push_back({marked->first, marked->second});
    }
    snapshots.manifest_bytes.push_back(static_cast<std::uint32_t>(manifest.size()));
    body.insert(body.end(), manifest.begin(), manifest.end());
  }
  snapshots.more = snapshots.manifest_bytes.size() < manifests.size() ||
                   kPart.filled_by(manifests.size(), body.size());
  if (snapshots.manifest_bytes.empty()) snapshots.more = false;
  return with_body(std::move(snapshots), std::move(body));
}

Result<Reply> Peer::statistics() {
  message::Statistics total{
      .uptime_seconds = static_cast<std::uint64_t>(
          std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - server_.started)
              .count())};
  const auto in = name_space();
  if (!in) return with_body(total, {});
  total.connections = traffic_->connections.load(std::memory_order_relaxed);
  total.chunks_served = traffic_->chunks_served.load(std::memory_order_relaxed);
  total.packs_served = traffic_->packs_served.load(std::memory_order_relaxed);
  const NamespaceTotals totals = TRY(store_.totals(*in));
  total.chunks = totals.chunks;
  total.chunk_bytes = totals.chunk_bytes;
  total.pack_bytes = totals.pack_bytes;
  total.document_bytes = totals.document_bytes;
  total.recording_bytes = totals.recording_bytes;
  for (const Manifest& manifest : TRY(all_manifests(store_, *in))) {
    ++total.snapshots;
    total.logical_bytes += manifest.spec.memory.value + manifest.spec.state.value;
    total.zero_bytes += manifest.statistics.zero_pages * kPageBytes;
  }
  return with_body(total);
}

}  // namespace thaw
