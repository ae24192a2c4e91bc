// What a peer of one namespace learns of another: nothing. A server that keeps somebody's secrets
// answers a stranger byte by byte as one that keeps none.

#include <algorithm>
#include <array>
#include <concepts>
#include <type_traits>
#include <utility>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "format/hash.h"
#include "format/page_client.h"
#include "tests/support/finished_job.h"
#include "tests/support/page_connection.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr std::size_t kPages = 96;
constexpr const char* kOwner = "secret";
constexpr const char* kStranger = "stranger";

/// What the owner keeps, as the stranger might come to know its names and numbers.
struct Secret {
  std::vector<std::string> names;  // of snapshots, and a tag
  std::vector<SnapshotId> snapshots;
  std::vector<ChunkId> chunks;
  std::vector<Sha256> hashes;  // of their pages
  Bytes sealed;                // those pages as chunks on their way
  std::uint64_t generation = 0;
  std::uint64_t job = 0;
  Bytes recording;
};

/// A request that a stranger makes.
struct Attempt {
  Message message;
  Bytes body = {};
};
using Attempts = std::vector<Attempt>;

// One overload for each message of the protocol: without it a new one does not compile.
template <typename M>
using Of = std::type_identity<M>;

template <typename Make>
Attempts each_name(const Secret& secret, Make make) {
  Attempts attempts;
  for (const std::string& name : secret.names) attempts.push_back({make(name)});
  return attempts;
}
template <typename Make>
Attempts each_snapshot(const Secret& secret, Make make, const Bytes& body = {}) {
  Attempts attempts;
  for (const SnapshotId snapshot : secret.snapshots) attempts.push_back({make(snapshot), body});
  return attempts;
}

SnapshotSpec spec_of(std::string name, std::size_t pages) {
  return {.name = std::move(name),
          .memory = {pages * kPageBytes},
          .state = {},
          .regions = {},
          .labels = {},
          .cpu_vendor = {}};
}

Attempts attempts(Of<message::Hello>, const Secret&) {
  return {{message::Hello{.name_space = kOwner}}};
}
Attempts attempts(Of<message::BeginPush>, const Secret& secret) {
  Attempts all = each_name(secret, [](const std::string& name) {
    return message::BeginPush{spec_of("child", 1), name};
  });
  all.push_back({message::BeginPush{spec_of("mine", secret.hashes.size()), {}}});
  return all;
}
Attempts attempts(Of<message::Offer>, const Secret& secret) {
  Bytes hashes;
  for (const Sha256& hash : secret.hashes) hashes.insert(hashes.end(), hash.begin(), hash.end());
  const std::size_t count = secret.hashes.size();
  message::Offer kept{{0}, {count}, empty_bitmap(count), empty_bitmap(count)};
  for (std::size_t i = 0; i < count; ++i) set_bit(kept.kept_bitmap, i);
  return {{kept}, {message::Offer{{0}, {count}, empty_bitmap(count)}, hashes}};
}
Attempts attempts(Of<message::Upload>, const Secret& secret) {
  return {{message::Upload{static_cast<std::uint32_t>(secret.hashes.size())}, secret.sealed}};
}
Attempts attempts(Of<message::Commit>, const Secret&) { return {{message::Commit{}}}; }
Attempts attempts(Of<message::ListSnapshots>, const Secret& secret) {
  Attempts all = each_name(
      secret, [](const std::string& name) { return message::ListSnapshots{.after = name}; });
  all.push_back({message::ListSnapshots{}});
  return all;
}
Attempts attempts(Of<message::ShowSnapshot>, const Secret& secret) {
  return each_name(secret, [](const std::string& name) { return message::ShowSnapshot{name}; });
}
Attempts attempts(Of<message::DeleteSnapshot>, const Secret& secret) {
  Attempts all = each_name(
      secret, [](const std::string& name) { return message::DeleteSnapshot{name, false}; });
  for (const std::string& name : secret.names) all.push_back({message::DeleteSnapshot{name, true}});
  return all;
}
Attempts attempts(Of<message::GetPageMap>, const Secret& secret) {
  return each_snapshot(secret, [](SnapshotId id) { return message::GetPageMap{id, 0}; });
}
Attempts attempts(Of<message::GetPageHashes>, const Secret& secret) {
  return each_snapshot(secret, [](SnapshotId id) { return message::GetPageHashes{id, 0}; });
}
Attempts attempts(Of<message::GetChunks>, const Secret& secret) {
  Attempts all{{message::GetChunks{.ids = secret.chunks}},
               {message::GetChunks{.ids = secret.chunks,
                                   .optional = static_cast<std::uint16_t>(secret.chunks.size())}}};
  for (const ChunkId chunk : secret.chunks) all.push_back({message::GetChunks{.ids = {chunk}}});
  // Of the owner's namespace, and not there; and of none.
  all.push_back({message::GetChunks{.ids = {{secret.chunks.back().value + 100'000}}}});
  all.push_back({message::GetChunks{.ids = {ChunkId::of(999, 0, 1)}}});
  return all;
}
Attempts attempts(Of<message::GetStatistics>, const Secret&) {
  return {{message::GetStatistics{}}};
}
Attempts attempts(Of<message::ReportDamage>, const Secret& secret) {
  return each_snapshot(secret, [&](SnapshotId id) {
    return message::ReportDamage{.chunks = {secret.chunks.begin(), secret.chunks.end()},
                                 .snapshot = id,
                                 .packs = {{id, secret.generation, 0}}};
  });
}
Attempts attempts(Of<message::PutRecording>, const Secret& secret) {
  return each_snapshot(
      secret, [](SnapshotId id) { return message::PutRecording{id}; }, secret.recording);
}
Attempts attempts(Of<message::GetRecording>, const Secret& secret) {
  return each_snapshot(secret,
                       [&](SnapshotId id) { return message::GetRecording{id, secret.generation}; });
}
Attempts attempts(Of<message::GetWorkingSet>, const Secret& secret) {
  return each_snapshot(secret, [](SnapshotId id) { return message::GetWorkingSet{id}; });
}
Attempts attempts(Of<message::ShowWorkingSet>, const Secret& secret) {
  return each_snapshot(secret, [](SnapshotId id) { return message::ShowWorkingSet{id}; });
}
Attempts attempts(Of<message::DropWorkingSet>, const Secret& secret) {
  return each_snapshot(secret, [](SnapshotId id) { return message::DropWorkingSet{id}; });
}
Attempts attempts(Of<message::GetPack>, const Secret& secret) {
  return each_snapshot(secret,
                       [&](SnapshotId id) { return message::GetPack{id, secret.generation, 0}; });
}
Attempts attempts(Of<message::PutPrefetchReport>, const Secret& secret) {
  return each_snapshot(secret, [](SnapshotId id) {
    return message::PutPrefetchReport{id, {.sessions = 1000, .faults = 1000}};
  });
}
Attempts attempts(Of<message::MoveTag>, const Secret& secret) {
  return each_name(secret,
                   [](const std::string& name) { return message::MoveTag{{"mine:tag", name}}; });
}
Attempts attempts(Of<message::RemoveTag>, const Secret& secret) {
  return each_name(secret, [](const std::string& name) { return message::RemoveTag{name}; });
}
Attempts attempts(Of<message::ListTags>, const Secret&) { return {{message::ListTags{}}}; }
Attempts attempts(Of<message::ChangeLabels>, const Secret& secret) {
  return each_name(secret, [](const std::string& name) {
    return message::ChangeLabels{name, {{"mine", "now"}}, {}};
  });
}
Attempts attempts(Of<message::GetUsage>, const Secret& secret) {
  Attempts all = each_name(secret, [](const std::string& name) { return message::GetUsage{name}; });
  all.push_back({message::GetUsage{}});
  return all;
}
Attempts attempts(Of<message::GetNamespace>, const Secret&) { return {{message::GetNamespace{}}}; }
Attempts attempts(Of<message::RemoveNamespace>, const Secret&) {
  return {{message::RemoveNamespace{}}};
}
Attempts attempts(Of<message::SetNamespace>, const Secret&) {
  return {{message::SetNamespace{{.quota_bytes = 1 << 30, .keep_last = 1}}}};
}
/// Whose job it is must not be seen: first the owner's is asked after, then one is begun.
Attempts attempts(Of<message::StartJob>, const Secret& secret) {
  Attempts all{{message::GetJob{secret.job}}, {message::StopJob{secret.job}}};
  for (std::size_t kind = 0; kind < message::kJobKinds; ++kind) {
    all.push_back({message::StartJob{static_cast<message::JobKind>(kind), false, "backup"}});
  }
  return all;
}
Attempts attempts(Of<message::GetJob>, const Secret& secret) {
  return {{message::GetJob{secret.job}}, {message::GetJob{secret.job + 100}}};
}
Attempts attempts(Of<message::StopJob>, const Secret& secret) {
  return {{message::StopJob{secret.job}}};
}
Attempts attempts(Of<message::Pin>, const Secret& secret) {
  return each_snapshot(secret, [](SnapshotId id) { return message::Pin{id}; });
}
Attempts attempts(Of<message::Unpin>, const Secret& secret) {
  return each_snapshot(secret, [](SnapshotId id) { return message::Unpin{id}; });
}
Attempts attempts(Of<message::GetColdMap>, const Secret& secret) {
  return each_snapshot(secret, [](SnapshotId id) { return message::GetColdMap{id}; });
}

template <typename M, typename... Ms>
concept OneOf = (std::same_as<M, Ms> || ...);
template <typename M>
concept IsReply =
    OneOf<M, message::ErrorReply, message::Done, message::Needed, message::ManifestReply,
          message::Snapshots, message::PageMapSegment, message::Chunks, message::Statistics,
          message::RecordingReply, message::WorkingSetReply, message::PackReply,
          message::WorkingSetReport, message::Tags, message::Usage, message::NamespaceReport,
          message::JobReport, message::ColdMapReply, message::PageHashes>;
template <IsReply M>
Attempts attempts(Of<M>, const Secret&) {
  return {{M{}}};
}
Attempts attempts(Of<message::Welcome>, const Secret&) {
  StoreId store;
  store.bytes.fill(std::byte{1});
  return {{message::Welcome{.store = store}}};
}

/// In the order of the protocol.
Attempts all_attempts(const Secret& secret) {
  Attempts all;
  [&]<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
    (std::ranges::move(attempts(Of<std::variant_alternative_t<kIndex, Message>>(), secret),
                       std::back_inserter(all)),
     ...);
  }(std::make_index_sequence<std::variant_size_v<Message>>());
  return all;
}

Bytes without_time(ByteSpan sealed) {
  Manifest manifest = decode_manifest(sealed).value();
  manifest.created_unix_ms = 0;
  return encode_manifest(manifest);
}

/// A reply as text for comparing, but for what any clock shows: also what manifests take, which are
/// compressed with the time in them.
std::string without_times(PageConnection::Received reply) {
  if (auto* const statistics = std::get_if<message::Statistics>(&reply.message)) {
    statistics->uptime_seconds = 0;
    statistics->document_bytes = 0;
  }
  if (auto* const report = std::get_if<message::NamespaceReport>(&reply.message)) {
    report->stored_bytes = 0;
  }
  if (std::holds_alternative<message::ManifestReply>(reply.message)) {
    reply.body = without_time(reply.body);
  }
  if (auto* const list = std::get_if<message::Snapshots>(&reply.message)) {
    Bytes body;
    std::size_t start = 0;
    for (std::uint32_t& size : list->manifest_bytes) {
      const Bytes manifest = without_time(ByteSpan(reply.body).subspan(start, size));
      start += size;
      size = static_cast<std::uint32_t>(manifest.size());
      body.insert(body.end(), manifest.begin(), manifest.end());
    }
    reply.body = std::move(body);
  }
  Bytes bytes;
  encode_message(reply.message, 0, reply.body.size(), bytes);
  bytes.insert(bytes.end(), reply.body.begin(), reply.body.end());
  const auto* const error = std::get_if<message::ErrorReply>(&reply.message);
  return error != nullptr ? fmt::format("{}: {}", error_name(error->code), error->text)
                          : to_hex(bytes);
}

/// Two servers; one of them keeps what the other has never seen.
class IsolationTest : public testing::Test {
 protected:
  IsolationTest() {
    // The stranger comes first, so that its namespace has the same number at both.
    for (const PageServer* server : {&knowing_, &ignorant_}) {
      EXPECT_TRUE(succeeded(client(*server, kStranger).set_namespace({})));
    }
    keep_secrets();
  }

  static PageClient client(const PageServer& server, const std::string& name_space) {
    return PageClient::connect(*resolve_tcp(server.address()), name_space).value();
  }
  std::string path(const std::string& name) const { return directory_.path(name); }
  Outcome thaw(std::vector<std::string> command, const std::string& name_space = kOwner) const {
    command.insert(command.begin(), {"--namespace", name_space});
    return knowing_.thaw(command);
  }

  void keep_secrets() {
    image_ = make_image(5, kPages);
    write_file(path("image"), image_);
    for (const std::string name : {"alpha", "beta", "gamma"}) {
      const Outcome pushed =
          thaw({"push", name, "--memory", path("image"), "--label", "key=hidden"});
      EXPECT_EQ(pushed.exit_code, 0) << pushed.output;
    }
    PageClient owner = client(knowing_, kOwner);
    EXPECT_TRUE(succeeded(owner.move_tag({"alpha:live", "alpha"})));
    secret_.names = {"alpha", "beta", "gamma", "alpha:live"};
    const std::vector<Manifest> manifests = owner.list()->snapshots;
    for (const Manifest& manifest : manifests) keep_secrets_of(owner, manifest);
    read_pages(owner.page_map(owner.show("alpha").value()).value());
    const auto job = finish_job(owner, message::JobKind::kScrub);
    EXPECT_TRUE(succeeded(job));
    secret_.job = job->number;
  }
  void keep_secrets_of(PageClient& owner, const Manifest& manifest) {
    const SnapshotId id = manifest.snapshot;
    secret_.snapshots.push_back(id);
    const Recording recording{.content_hash = manifest.content_hash,
                              .created_unix_ms = 1,
                              .regions = {},
                              .touches = {{{1}, 0}, {{2}, 10}, {{3}, 20}}};
    EXPECT_TRUE(succeeded(owner.put_recording(id, recording)));
    EXPECT_TRUE(succeeded(owner.put_prefetch_report(id, {.sessions = 1, .faults = 7})));
    secret_.recording = encode_recording(recording);
    secret_.generation = owner.working_set(id).value().generation;
  }
  void read_pages(const PageMap& map) {
    for (std::size_t i = 0; i < kPages; ++i) {
      if (map.find({i}).zero()) continue;
      if (std::ranges::count(secret_.chunks, map.chunk_of({i})) > 0) continue;
      const PageSpan page(image_.data() + i * kPageBytes, kPageBytes);
      ChunkCodec().encode(page, kNoChunk, secret_.sealed);
      secret_.chunks.push_back(map.chunk_of({i}));
      secret_.hashes.push_back(Hasher().hash(page));
    }
    PageConnection demand(knowing_.address(), message::Role::kDemand, kOwner);
    demand.ask(message::GetChunks{.ids = secret_.chunks});
  }

  /// All that the owner can see of what it keeps.
  std::string owners_view() {
    std::string view;
    PageConnection owner(knowing_.address(), message::Role::kControl, kOwner);
    const auto add = [&](const Message& message) {
      view += without_times(owner.ask(message)) + "\n";
    };
    add(message::ListSnapshots{});
    add(message::ListTags{});
    add(message::GetNamespace{});
    add(message::GetUsage{});
    add(message::GetJob{secret_.job});
    for (const SnapshotId snapshot : secret_.snapshots) {
      add(message::GetPageMap{snapshot, 0});
      add(message::GetPageHashes{snapshot, 0});
      add(message::ShowWorkingSet{snapshot});
      add(message::GetWorkingSet{snapshot});
    }
    return view;
  }

  ScratchDirectory directory_;
  PageServer knowing_{directory_.path("knowing")};
  PageServer ignorant_{directory_.path("ignorant")};
  Bytes image_;
  Secret secret_;
};

/// A job that was begun is followed to its end first.
PageConnection::Received answer_of(PageConnection& peer, const Attempt& attempt) {
  PageConnection::Received reply = peer.ask(attempt.message, attempt.body);
  const auto* const report = std::get_if<message::JobReport>(&reply.message);
  if (report == nullptr || report->state != message::JobState::kRunning) return reply;
  const Deadline deadline = Deadline::after(kPatience);
  const std::uint64_t number = report->number;
  while (!deadline.passed()) {
    reply = peer.ask(message::GetJob{number});
    if (std::get<message::JobReport>(reply.message).state != message::JobState::kRunning) break;
  }
  return reply;
}

TEST_F(IsolationTest, EveryMessageIsAnsweredAsWhereThereIsNothingToFind) {
  PageConnection pin(knowing_.address(), message::Role::kDemand, kOwner);
  ASSERT_TRUE(succeeded(pin.pin(secret_.snapshots.back())));
  const std::string before = owners_view();
  const Attempts all = all_attempts(secret_);
  PageConnection knowing(knowing_.address(), message::Role::kControl, kStranger);
  PageConnection ignorant(ignorant_.address(), message::Role::kControl, kStranger);
  for (const Attempt& attempt : all) {
    EXPECT_EQ(without_times(answer_of(knowing, attempt)),
              without_times(answer_of(ignorant, attempt)))
        << "message " << attempt.message.index();
  }
  for (const message::Role role : {message::Role::kDemand, message::Role::kPrefetch}) {
    for (const Attempt& attempt : all) {
      // Anew each time: a message with a body ends such a connection.
      PageConnection to_knowing(knowing_.address(), role, kStranger);
      PageConnection to_ignorant(ignorant_.address(), role, kStranger);
      EXPECT_EQ(without_times(to_knowing.ask(attempt.message, attempt.body)),
                without_times(to_ignorant.ask(attempt.message, attempt.body)))
          << "message " << attempt.message.index() << " to role " << static_cast<int>(role);
    }
  }
  EXPECT_EQ(owners_view(), before);
  EXPECT_EQ(code_of(client(knowing_, kOwner).remove({"gamma"})), ErrorCode::kBusy)
      << "the owner's pin holds";
}

TEST_F(IsolationTest, PinsOfAStrangerHoldNothing) {
  PageConnection stranger(knowing_.address(), message::Role::kDemand, kStranger);
  for (const SnapshotId snapshot : secret_.snapshots) {
    EXPECT_EQ(code_of(stranger.pin(snapshot)), ErrorCode::kNotFound);
  }
  EXPECT_TRUE(succeeded(client(knowing_, kOwner).remove({"gamma"})));
}

TEST_F(IsolationTest, OfferOfPagesThatAnotherNamespaceHasAsksForAllOfThem) {
  const auto push = [&](const PageServer& server) {
    const Outcome outcome =
        server.thaw({"--namespace", kStranger, "push", "mine", "--memory", path("image")});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    PageClient stranger = client(server, kStranger);
    Manifest manifest = stranger.show("mine").value();
    manifest.created_unix_ms = 0;
    return std::pair(manifest, stranger.namespace_report().value().stored_bytes);
  };
  const auto [manifest, stored] = push(knowing_);
  EXPECT_GT(manifest.statistics.new_pages, 0u);
  EXPECT_GT(stored, manifest.statistics.new_chunk_bytes) << "nothing is shared";
  const auto [other_manifest, other_stored] = push(ignorant_);
  EXPECT_EQ(manifest, other_manifest);
  // A manifest is compressed, and the time in it is another one.
  EXPECT_NEAR(static_cast<double>(stored), static_cast<double>(other_stored), 16);
  // Deleting what one of them has takes nothing from the other.
  ASSERT_TRUE(succeeded(client(knowing_, kStranger).remove({"mine"})));
  PageClient stranger = client(knowing_, kStranger);
  EXPECT_TRUE(succeeded(finish_job(stranger, message::JobKind::kCollect)));
  ASSERT_EQ(thaw({"pull", "alpha", "--memory", path("out")}).exit_code, 0);
  EXPECT_EQ(read_file(path("out")), image_);
}

TEST_F(IsolationTest, JobsOfOneNamespaceWaitForThoseOfAnotherAndAreNotRefused) {
  Surroundings slow;
  slow.environment = {{"THAW_UPKEEP_MIB_S", "1"}};
  const PageServer server(path("slow"), 0, slow);
  std::mt19937_64 generator(7);
  write_file(path("large"), random_bytes(generator, 2000 * kPageBytes));
  ASSERT_EQ(server.thaw({"--namespace", kOwner, "push", "a", "--memory", path("large")}).exit_code,
            0);
  PageClient owner = client(server, kOwner);
  PageClient stranger = client(server, kStranger);
  ASSERT_TRUE(succeeded(stranger.set_namespace({})));
  const auto scrub = owner.start_job({.kind = message::JobKind::kScrub, .target = {}});
  ASSERT_TRUE(succeeded(scrub));

  const auto waiting = stranger.start_job({.kind = message::JobKind::kCollect, .target = {}});
  ASSERT_TRUE(succeeded(waiting));
  EXPECT_EQ(waiting->number, 1u);
  EXPECT_EQ(code_of(stranger.start_job({.kind = message::JobKind::kScrub, .target = {}})),
            ErrorCode::kBusy);
  EXPECT_EQ(owner.job(scrub->number)->state, message::JobState::kRunning);
  ASSERT_TRUE(succeeded(owner.stop_job(scrub->number)));
  EXPECT_TRUE(succeeded(finish_job(stranger, message::JobKind::kScrub)));
}

}  // namespace
}  // namespace thaw::test
