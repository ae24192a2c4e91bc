// Who may do what: the policy's text, and each request in each role at a real store.

#include "pageserver/access.h"

#include <array>
#include <filesystem>
#include <list>
#include <set>
#include <span>

#include <sys/stat.h>

#include "base/limits.h"
#include "pageserver/peer.h"
#include "tests/support/authority.h"
#include "tests/support/store_fixture.h"

namespace thaw::test {
namespace {

constexpr std::string_view kPolicy = R"(
[[peer]]
identity = "thaw://reader"
namespaces = ["default", "ci-*"]
roles = ["read"]

[[peer]]
identity = "thaw://pusher"
namespaces = ["default"]
roles = ["push"]

[[peer]]
identity = "thaw://tagger"
namespaces = ["default"]
roles = ["tag"]

[[peer]]
identity = "thaw://admin"
namespaces = ["default"]
roles = ["admin"]

[[peer]]
identity = "thaw://root"
namespaces = ["*"]
roles = ["admin"]
)";

TEST(Policy, GrantsWhatItSaysAndNothingElse) {
  const Policy policy = Policy::parse(kPolicy).value();
  struct Case {
    std::string_view identity, name_space;
    Rights rights;
  };
  const Case cases[] = {
      {"thaw://reader", "default", {Right::kRead}},
      {"thaw://reader", "ci-", {Right::kRead}},
      {"thaw://reader", "ci-1", {Right::kRead}},
      {"thaw://reader", "ci", {}},
      {"thaw://reader", "default2", {}},
      {"thaw://pusher", "default", {Right::kPush}},
      {"thaw://admin", "other", {}},
      {"thaw://root", "other", {Right::kAdmin}},
      {"thaw://", "default", {}},
      {"", "default", {}},
      {"thaw://reader2", "default", {}},
  };
  for (const Case& test : cases) {
    EXPECT_EQ(policy.rights(test.identity, test.name_space), test.rights)
        << test.identity << " in " << test.name_space;
  }
  EXPECT_TRUE(policy.rights_in_all("thaw://admin").none());
  EXPECT_EQ(policy.rights_in_all("thaw://root"), Rights{Right::kAdmin});
}

TEST(Policy, RolesOfSeveralEntriesAddUp) {
  const Policy policy = Policy::parse(R"(
[[peer]]
identity = "a"
namespaces = ["x", "y"]
roles = ["read"]
[[peer]]
identity = "a"
namespaces = ["y"]
roles = ["push"]
)")
                            .value();
  EXPECT_EQ(policy.rights("a", "x"), Rights{Right::kRead});
  EXPECT_EQ(policy.rights("a", "y"), (Rights{Right::kRead, Right::kPush}));
}

TEST(Policy, QuotasAreOfTheGrantsForTheNamespace) {
  const Policy policy = Policy::parse(R"(
[[peer]]
identity = "a"
namespaces = ["ci-*", "x"]
roles = ["push", "create"]
quota = "2K"
[[peer]]
identity = "a"
namespaces = ["y"]
roles = ["push"]
)")
                            .value();
  EXPECT_EQ(policy.rights("a", "ci-1"), (Rights{Right::kPush, Right::kCreate}));
  EXPECT_TRUE(policy.quotas("a", "y").empty());
  EXPECT_TRUE(policy.quotas("b", "x").empty());
  const auto quotas = policy.quotas("a", "ci-1");
  ASSERT_EQ(quotas.size(), 1u);
  EXPECT_EQ(quotas[0].bytes, 2048u);
  EXPECT_TRUE(quotas[0].covers("x") && quotas[0].covers("ci-2"));
  EXPECT_FALSE(quotas[0].covers("y"));
}

TEST(Policy, WhatItDoesNotKnowIsRefused) {
  for (const std::string_view text : {
           "not toml",
           "[^x]",
           "x = 1 \u00a1",
           "peer = 1",
           "[peer]\nidentity = \"a\"",
           "peer = [1]",
           "[[peers]]\nidentity = \"a\"",
           "[[peer]]\nidentity = \"a\"\nnamespaces = [\"x\"]",
           "[[peer]]\nidentity = \"a\"\nroles = [\"read\"]",
           "[[peer]]\nnamespaces = [\"x\"]\nroles = [\"read\"]",
           "[[peer]]\nidentity = \"\"\nnamespaces = [\"x\"]\nroles = [\"read\"]",
           "[[peer]]\nidentity = 1\nnamespaces = [\"x\"]\nroles = [\"read\"]",
           "[[peer]]\nidentity = \"a\"\nnamespaces = []\nroles = [\"read\"]",
           "[[peer]]\nidentity = \"a\"\nnamespaces = \"x\"\nroles = [\"read\"]",
           "[[peer]]\nidentity = \"a\"\nnamespaces = [\"x*y\"]\nroles = [\"read\"]",
           "[[peer]]\nidentity = \"a\"\nnamespaces = [\"x\"]\nroles = [\"write\"]",
           "[[peer]]\nidentity = \"a\"\nnamespaces = [\"x\"]\nroles = [\"read\", 1]",
           "[[peer]]\nidentity = \"a\"\nnamespaces = [\"x\"]\nroles = [\"read\"]\nadmin = true",
           "[[peer]]\nidentity = \"a\"\nnamespaces = [\"x\"]\nroles = [\"read\"]\nquota = 5",
           "[[peer]]\nidentity = \"a\"\nnamespaces = [\"x\"]\nroles = [\"read\"]\nquota = \"0\"",
           "[[peer]]\nidentity = \"a\"\nnamespaces = [\"x\"]\nroles = [\"read\"]\nquota = \"5X\"",
       }) {
    EXPECT_EQ(code_of(Policy::parse(text)), ErrorCode::kInvalidArgument) << text;
  }
  EXPECT_TRUE(succeeded(Policy::parse(""))) << "nobody may do anything";
}

TEST(Policy, MisspeltKeysAreToldWithTheNearest) {
  const auto refusal = [](std::string_view text) { return Policy::parse(text).error().context(); };
  EXPECT_EQ(refusal("[[peeer]]\nidentity = \"a\""),
            "line 1, column 3: unknown key \"peeer\"; did you mean \"peer\"?");
  EXPECT_EQ(refusal("[[peer]]\nidentity = \"a\"\nnamespaces = [\"x\"]\nrolse = [\"read\"]"),
            "line 4, column 1: unknown key \"rolse\"; did you mean \"roles\"?");
}

struct Request {
  const char* name;
  Message message;
  bool read, push;   // whether the role suffices; admin always does
  bool tag = false;  // without the others
};

std::vector<Request> all_requests() {
  using namespace message;
  return {
      {"BeginPush", BeginPush{}, false, true},
      {"Offer", Offer{{0}, {1}, Bytes(1)}, false, true},
      {"Upload", Upload{}, false, true},
      {"Commit", Commit{}, false, true},
      {"ListSnapshots", ListSnapshots{}, true, true, true},
      {"ShowSnapshot", ShowSnapshot{"a"}, true, true, true},
      {"DeleteSnapshot", DeleteSnapshot{"a"}, false, false},
      {"GetPageMap", GetPageMap{}, true, false},
      {"GetPageHashes", GetPageHashes{}, true, false},
      {"GetColdMap", GetColdMap{}, true, false},
      {"GetChunks", GetChunks{}, true, false},
      {"GetStatistics", GetStatistics{}, true, true, true},
      {"PutRecording", PutRecording{}, true, false},
      {"GetRecording", GetRecording{}, true, false},
      {"GetWorkingSet", GetWorkingSet{}, true, false},
      {"ShowWorkingSet", ShowWorkingSet{}, true, false},
      {"DropWorkingSet", DropWorkingSet{}, false, false},
      {"GetPack", GetPack{}, true, false},
      {"PutPrefetchReport", PutPrefetchReport{}, true, false},
      {"MoveTag", MoveTag{{"a:b", "a"}}, false, false, true},
      {"RemoveTag", RemoveTag{"a:b"}, false, false, true},
      {"ListTags", ListTags{}, true, true, true},
      {"ChangeLabels", ChangeLabels{"a", {}, {}}, false, true},
      {"GetUsage", GetUsage{}, true, true, true},
      {"GetNamespace", GetNamespace{}, true, true, true},
      {"SetNamespace", SetNamespace{}, false, false},
      {"RemoveNamespace", RemoveNamespace{}, false, false},
      {"StartJob", StartJob{}, false, false},
      {"GetJob", GetJob{}, false, false},
      {"StopJob", StopJob{}, false, false},
      {"Pin", Pin{}, true, false},
      {"Unpin", Unpin{}, true, false},
      {"ReportDamage", ReportDamage{}, true, false},
  };
}

class AccessTest : public StoreTest {
 protected:
  AccessTest() {
    replace_file(directory_.path("policy"), kPolicy);
    access_ = Access::load(directory_.path("policy")).value();
    server_.access = access_.get();
  }

  Result<Reply> greet(Peer& peer, const std::string& identity,
                      const std::string& name_space = "default",
                      message::Role role = message::Role::kControl) {
    peer.identify(identity);
    return peer.hello(message::Hello{.role = role, .name_space = name_space});
  }
  /// Whether the peer may send this, however it is answered.
  static bool may(Peer& peer, const Message& request) {
    return code_of(peer.handle(request, {})) != ErrorCode::kUnauthorized;
  }

  ServerCommon server_{StoreId{}};
  std::unique_ptr<Access> access_;
};

TEST(Policy, RootAndTheServersUserMayDoEverythingUnlessItNamesAUser) {
  Policy none = Policy::parse("").value();
  none.admit_users(1000);
  EXPECT_TRUE(none.rights_in_all("uid:0").has_one_of({Right::kAdmin}));
  EXPECT_TRUE(none.rights("uid:1000", "default").has_one_of({Right::kAdmin}));
  EXPECT_TRUE(none.rights("uid:10000", "default").none());
  EXPECT_TRUE(none.rights("", "default").none());
  EXPECT_TRUE(none.names("uid:1000"));
  EXPECT_FALSE(none.names("uid:10000"));

  Policy named = Policy::parse(
                     "[[peer]]\nidentity = \"uid:7\"\nnamespaces = [\"default\"]\n"
                     "roles = [\"read\"]\n")
                     .value();
  named.admit_users(1000);
  EXPECT_EQ(named.rights("uid:7", "default"), Rights{Right::kRead});
  EXPECT_TRUE(named.rights("uid:0", "default").none());
  EXPECT_TRUE(named.rights("uid:1000", "default").none());
}

TEST_F(AccessTest, PolicyThatOthersMayWriteIsRefused) {
  std::filesystem::permissions(directory_.path("policy"), std::filesystem::perms(0666));

  EXPECT_EQ(code_of(Access::load(directory_.path("policy"))), ErrorCode::kPermission);
}

TEST_F(AccessTest, PipeInPlaceOfThePolicyIsNotWaitedFor) {
  const std::string path = directory_.path("policy");
  const auto access = Access::load(path).value();
  const auto before = access->policy();
  std::filesystem::remove(path);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);

  access->reload();

  EXPECT_EQ(access->policy(), before);
}

TEST_F(AccessTest, EachRequestTakesItsRole) {
  struct Role {
    const char* identity;
    Right right;
  };
  for (const Role& role :
       {Role{"thaw://reader", Right::kRead}, Role{"thaw://pusher", Right::kPush},
        Role{"thaw://tagger", Right::kTag}, Role{"thaw://admin", Right::kAdmin}}) {
    for (const Request& request : all_requests()) {
      Peer peer(*store_, server_);
      ASSERT_TRUE(succeeded(greet(peer, role.identity)));
      const bool allowed = role.right == Right::kAdmin ||
                           (role.right == Right::kRead && request.read) ||
                           (role.right == Right::kPush && request.push) ||
                           (role.right == Right::kTag && request.tag);
      EXPECT_EQ(may(peer, request.message), allowed) << role.identity << " " << request.name;
    }
  }
}

/// Among the messages requests stand before replies, of which ErrorReply is the first.
TEST_F(AccessTest, EveryRequestIsSomebodysAndTriedAbove) {
  std::set<std::size_t> tried{Message(message::Hello{}).index()};
  for (const Request& request : all_requests()) tried.insert(request.message.index());
  const std::size_t first_reply = Message(message::ErrorReply{}).index();
  const auto check = [&](const Message& message) {
    const bool is_request = message.index() < first_reply;
    EXPECT_EQ(!rights_for(message).none(), is_request) << "message " << message.index();
    EXPECT_EQ(tried.contains(message.index()), is_request) << "message " << message.index();
  };
  [&]<std::size_t... kKind>(std::index_sequence<kKind...>) {
    (check(std::variant_alternative_t<kKind, Message>{}), ...);
  }(std::make_index_sequence<std::variant_size_v<Message>>());
}

TEST_F(AccessTest, RepliesAreNoRequestsForAnybody) {
  Peer peer(*store_, server_);
  ASSERT_TRUE(succeeded(greet(peer, "thaw://root")));
  EXPECT_FALSE(may(peer, message::Done{}));
}

TEST_F(AccessTest, ConnectionsForPagesTakeTheRoleToo) {
  Peer reader(*store_, server_);
  ASSERT_TRUE(succeeded(greet(reader, "thaw://reader", "default", message::Role::kDemand)));
  EXPECT_NE(code_of(reader.pages(message::GetChunks{})), ErrorCode::kUnauthorized);
  Peer pusher(*store_, server_);
  ASSERT_TRUE(succeeded(greet(pusher, "thaw://pusher", "default", message::Role::kDemand)));
  EXPECT_EQ(code_of(pusher.pages(message::GetChunks{})), ErrorCode::kUnauthorized);
}

TEST_F(AccessTest, WhatConcernsAllNamespacesTakesAllOfThem) {
  for (const auto kind : {message::JobKind::kBackup, message::JobKind::kCompact}) {
    Peer admin(*store_, server_);
    ASSERT_TRUE(succeeded(greet(admin, "thaw://admin")));
    EXPECT_FALSE(may(admin, message::StartJob{kind, false, "b"}));
    Peer root(*store_, server_);
    ASSERT_TRUE(succeeded(greet(root, "thaw://root")));
    EXPECT_TRUE(may(root, message::StartJob{kind, false, "b"}));
  }
}

/// "default" is there, "nothing" is not.
TEST_F(AccessTest, RefusalsDoNotTellWhichNamespacesThereAre) {
  const auto refusal = [&](const std::string& identity, const std::string& name_space) {
    Peer peer(*store_, server_);
    const auto greeted = greet(peer, identity, name_space);
    EXPECT_EQ(code_of(greeted), ErrorCode::kUnauthorized);
    return greeted ? std::string() : greeted.error().message();
  };
  const std::string there = refusal("thaw://stranger", "default");
  const std::string missing = refusal("thaw://stranger", "nothing");
  EXPECT_EQ(there, "unauthorized: \"thaw://stranger\" may do nothing in namespace \"default\"");
  EXPECT_EQ(missing, "unauthorized: \"thaw://stranger\" may do nothing in namespace \"nothing\"");
}

TEST_F(AccessTest, RightsThatWereTakenEndWithTheNextRequestAndComeBack) {
  Peer peer(*store_, server_);
  ASSERT_TRUE(succeeded(greet(peer, "thaw://reader")));
  ASSERT_TRUE(may(peer, message::ListSnapshots{}));
  const auto follow = [&](std::string_view policy) {
    const std::uint64_t before = access_->generation();
    replace_file(directory_.path("policy"), policy);
    const auto deadline = Clock::now() + std::chrono::seconds(20);
    while (access_->generation() == before && Clock::now() < deadline) access_->refresh();
  };

  follow("");
  EXPECT_FALSE(may(peer, message::ListSnapshots{}));
  EXPECT_FALSE(may(peer, message::ListSnapshots{}));
  follow(kPolicy);
  EXPECT_TRUE(may(peer, message::ListSnapshots{}));
}

TEST_F(AccessTest, CreatingANamespaceIsARightOfItsOwn) {
  replace_file(directory_.path("creators"), R"(
[[peer]]
identity = "thaw://pusher"
namespaces = ["ci-*"]
roles = ["push"]
[[peer]]
identity = "thaw://creator"
namespaces = ["ci-*"]
roles = ["push", "create"]
[[peer]]
identity = "thaw://admin"
namespaces = ["ci-*"]
roles = ["admin"]
)");
  const auto creators = Access::load(directory_.path("creators")).value();
  server_.access = creators.get();
  const auto begin = [&](const std::string& identity, const std::string& name_space) {
    Peer peer(*store_, server_);
    EXPECT_TRUE(succeeded(greet(peer, identity, name_space)));
    message::BeginPush push;
    push.spec = spec("a", image_of("a"));
    EXPECT_TRUE(may(peer, push));
    return code_of(peer.finish_write(push));
  };
  EXPECT_EQ(begin("thaw://pusher", "ci-1"), ErrorCode::kUnauthorized);
  EXPECT_FALSE(store_->find_namespace("ci-1").value());
  EXPECT_NE(begin("thaw://creator", "ci-1"), ErrorCode::kUnauthorized);
  EXPECT_TRUE(store_->find_namespace("ci-1").value());
  EXPECT_NE(begin("thaw://pusher", "ci-1"), ErrorCode::kUnauthorized) << "it is there now";
  EXPECT_NE(begin("thaw://admin", "ci-2"), ErrorCode::kUnauthorized);
  EXPECT_TRUE(store_->find_namespace("ci-2").value());
}

TEST_F(AccessTest, QuotaOfAGrantCountsAllItsNamespaces) {
  replace_file(directory_.path("quotas"), R"(
[[peer]]
identity = "thaw://pusher"
namespaces = ["ci-*"]
roles = ["push", "create"]
quota = "9K"
)");
  const auto quotas = Access::load(directory_.path("quotas")).value();
  server_.access = quotas.get();
  const auto upload = [&](const std::string& name_space, std::string_view letter) {
    const Bytes image = image_of(letter);
    Peer peer(*store_, server_);
    EXPECT_TRUE(succeeded(greet(peer, "thaw://pusher", name_space)));
    message::BeginPush begin;
    begin.spec = spec("a", image);
    EXPECT_TRUE(may(peer, begin));
    EXPECT_TRUE(succeeded(peer.finish_write(begin)));
    const std::array hashes{hasher_.hash(page(image, 0))};
    const message::Offer offer{{0}, {1}, empty_bitmap(1)};
    EXPECT_TRUE(succeeded(peer.handle(offer, std::as_bytes(std::span(hashes)))));
    Bytes chunk;
    codec_.encode(page(image, 0), kNoChunk, chunk);
    EXPECT_TRUE(succeeded(peer.handle(message::Upload{1}, chunk)));
    const auto stored = peer.finish_write(message::Upload{1});
    return stored ? ErrorCode::kIo : stored.error().code();
  };
  // Each page takes a little more than 4 KiB.
  EXPECT_EQ(upload("ci-1", "a"), ErrorCode::kIo) << "it was stored";
  EXPECT_EQ(upload("ci-2", "b"), ErrorCode::kIo) << "it was stored";
  EXPECT_EQ(upload("ci-3", "c"), ErrorCode::kQuotaExceeded);
}

TEST_F(AccessTest, LabelsAndTagsCountForTheQuotaOfAGrant) {
  replace_file(directory_.path("quotas"), R"(
[[peer]]
identity = "thaw://pusher"
namespaces = ["ci-*"]
roles = ["push", "create", "tag"]
quota = "9K"
)");
  const auto quotas = Access::load(directory_.path("quotas")).value();
  server_.access = quotas.get();
  Peer peer(*store_, server_);
  ASSERT_TRUE(succeeded(greet(peer, "thaw://pusher", "ci-1")));
  const auto finish = [&](const Message& message) -> std::optional<ErrorCode> {
    const auto step = peer.handle(message, {});
    if (!step || std::holds_alternative<Reply>(*step)) return code_of(step);
    return code_of(peer.finish_write(message));
  };
  message::BeginPush begin;
  begin.spec = spec("a", image_of("."));
  ASSERT_EQ(finish(begin), std::nullopt);
  ASSERT_EQ(finish(message::Offer{{0}, {1}, Bytes(1, std::byte{1})}), std::nullopt);
  ASSERT_EQ(finish(message::Commit{}), std::nullopt);

  auto generator = seeded_generator();
  const auto labels = [&](std::size_t count) {
    std::vector<Label> all;
    for (std::size_t i = 0; i < count; ++i) {
      const Bytes noise = random_bytes(generator, 1000);
      all.push_back({"k" + std::to_string(i), std::string(as_text(noise))});
    }
    return message::ChangeLabels{"a", all, {}};
  };
  EXPECT_EQ(finish(labels(10)), ErrorCode::kQuotaExceeded);
  EXPECT_EQ(finish(labels(2)), std::nullopt);
  std::optional<ErrorCode> refused;
  int tags = 0;
  for (; !refused && tags < 1000; ++tags) {
    refused = finish(message::MoveTag{{fmt::format("a:{}{}", tags, std::string(200, 't')), "a"}});
  }
  EXPECT_EQ(refused, ErrorCode::kQuotaExceeded);
  EXPECT_GT(tags, 3);
  EXPECT_EQ(finish(labels(1)), std::nullopt) << "it becomes less";
}

TEST_F(AccessTest, WhatAPushKeepsIsOfTheIdentitysShareOfMemory) {
  server_.access = nullptr;
  const auto taken = [&] { return server_.push_memory.taken("thaw://pusher").by_identity; };
  {
    Peer peer(*store_, server_);
    ASSERT_TRUE(succeeded(greet(peer, "thaw://pusher")));
    message::BeginPush begin;
    begin.spec = spec("a", Bytes(1000 * kPageBytes));
    ASSERT_TRUE(succeeded(peer.finish_write(begin)));
    const std::size_t begun = taken();
    EXPECT_GE(begun, limits::kPushBaseBytes);
    auto generator = seeded_generator();
    const message::Offer offer{{0}, {1000}, empty_bitmap(1000)};
    ASSERT_TRUE(succeeded(peer.handle(offer, random_bytes(generator, 1000 * sizeof(Sha256)))));
    const std::size_t offered = taken();
    EXPECT_GT(offered, begun + 100'000);
    ASSERT_TRUE(succeeded(peer.hold_body(1u << 20)));
    EXPECT_EQ(taken(), offered + (1u << 20));
    EXPECT_EQ(code_of(peer.hold_body(limits::kPushMemory.all)), ErrorCode::kLimitExceeded);
    EXPECT_EQ(taken(), offered + (1u << 20));
    peer.release_body();
    EXPECT_EQ(taken(), offered);
  }
  EXPECT_EQ(taken(), 0u);
}

TEST_F(AccessTest, WorkingSetWaitsForMemory) {
  server_.access = nullptr;
  const Manifest manifest = *store("a", image_of("a"), name_space_);
  Peer peer(*store_, server_);
  ASSERT_TRUE(succeeded(greet(peer, "thaw://reader")));
  const message::GetWorkingSet get{manifest.snapshot};
  {
    const auto all = server_.push_memory.take("", limits::kPushMemory.all, limits::kPushMemory);
    ASSERT_TRUE(all);
    ASSERT_TRUE(succeeded(peer.handle(get, {})));
    EXPECT_TRUE(std::holds_alternative<Peer::NeedsTurn>(peer.build(get).value()));
  }
  ASSERT_TRUE(succeeded(peer.handle(get, {})));
  EXPECT_EQ(code_of(peer.build(get)), ErrorCode::kNotFound) << "there is nothing to make it of";
  EXPECT_EQ(server_.push_memory.taken().by_all, 0u);
}

TEST_F(AccessTest, ListingsOfLargeManifestsComeInParts) {
  server_.access = nullptr;
  std::vector<Label> labels;
  auto generator = seeded_generator();
  for (std::size_t i = 0; i < limits::kMaxLabels; ++i) {
    const Bytes noise = random_bytes(generator, limits::kMaxLabelBytes);
    labels.push_back({fmt::format("{:1000}", i), std::string(as_text(noise))});
  }
  std::size_t bytes = 0;
  for (int i = 0; i < 40; ++i) {
    const std::string name = fmt::format("{:02}", i);
    ASSERT_TRUE(succeeded(store(name, image_of("."), name_space_)));
    ASSERT_TRUE(succeeded(store_->set_labels(name_space_, name, labels)));
    bytes += store_->manifest(name_space_, name)->size();
  }
  ASSERT_GT(bytes, limits::kMaxBodyBytes);
  const std::size_t each = bytes / 40;
  EXPECT_EQ(store_->manifests(name_space_, "", {1000, 3 * each})->size(), 3u)
      << "no more is read than goes into a part";
  EXPECT_EQ(store_->manifests(name_space_, "", {2, SIZE_MAX})->size(), 2u);

  Peer peer(*store_, server_);
  ASSERT_TRUE(succeeded(greet(peer, "thaw://reader")));
  std::size_t listed = 0;
  for (bool more = true; more;) {
    const std::string after = listed == 0 ? "" : fmt::format("{:02}", listed - 1);
    const auto step = peer.handle(message::ListSnapshots{after}, {});
    ASSERT_TRUE(succeeded(step));
    const auto& part = std::get<message::Snapshots>(std::get<Reply>(*step).message);
    ASSERT_FALSE(part.manifest_bytes.empty());
    listed += part.manifest_bytes.size();
    more = part.more;
    EXPECT_EQ(more, listed < 40);
  }
  EXPECT_EQ(listed, 40u);
}

TEST_F(AccessTest, NamespaceIsRemovedWhenItIsEmptyAndNoOtherConnectionUsesIt) {
  server_.access = nullptr;
  const auto finish = [](Peer& peer, const Message& message) -> std::optional<ErrorCode> {
    const auto step = peer.handle(message, {});
    return step ? code_of(peer.finish_write(message)) : code_of(step);
  };
  const message::RemoveNamespace remove;
  Peer admin(*store_, server_);
  ASSERT_TRUE(succeeded(greet(admin, "a", "ci-1")));
  EXPECT_EQ(finish(admin, remove), ErrorCode::kNotFound);
  message::BeginPush begin;
  begin.spec = spec("a", image_of("a"));
  {
    Peer pusher(*store_, server_);
    ASSERT_TRUE(succeeded(greet(pusher, "b", "ci-1")));
    ASSERT_EQ(finish(pusher, begin), std::nullopt);
    EXPECT_EQ(finish(admin, remove), ErrorCode::kBusy) << "a push is under way";
  }
  Peer waiting(*store_, server_);
  ASSERT_TRUE(succeeded(greet(waiting, "b", "ci-1")));
  ASSERT_EQ(finish(admin, remove), std::nullopt);
  EXPECT_EQ(store_->find_namespace("ci-1").value(), std::nullopt);
  EXPECT_EQ(finish(admin, remove), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(waiting.handle(message::GetNamespace{}, {})), ErrorCode::kNotFound);

  // A push that comes then makes it again, and loses nothing.
  ASSERT_EQ(finish(waiting, begin), std::nullopt);
  const Bytes image = image_of("a");
  const std::array hashes{hasher_.hash(page(image, 0))};
  ASSERT_TRUE(succeeded(
      waiting.handle(message::Offer{{0}, {1}, empty_bitmap(1)}, std::as_bytes(std::span(hashes)))));
  Bytes chunk;
  codec_.encode(page(image, 0), kNoChunk, chunk);
  ASSERT_TRUE(succeeded(waiting.handle(message::Upload{1}, chunk)));
  ASSERT_TRUE(succeeded(waiting.finish_write(message::Upload{1})));
  ASSERT_EQ(finish(waiting, message::Commit{}), std::nullopt);
  EXPECT_EQ(finish(waiting, remove), ErrorCode::kBusy) << "it has a snapshot";
  EXPECT_TRUE(succeeded(store_->manifest(*store_->find_namespace("ci-1").value(), "a")));
}

TEST_F(AccessTest, AnIdentityTakesNoMoreConnectionsThanItLeaves) {
  server_.most_connections = 16;
  std::list<Peer> peers;
  const auto code = [&](const std::string& identity) {
    return code_of(greet(peers.emplace_back(*store_, server_), identity));
  };
  for (int i = 0; i < 8; ++i) EXPECT_NE(code("thaw://reader"), ErrorCode::kLimitExceeded);
  EXPECT_EQ(code("thaw://reader"), ErrorCode::kLimitExceeded);
  EXPECT_NE(code("thaw://admin"), ErrorCode::kLimitExceeded);
  peers.pop_front();
  EXPECT_NE(code("thaw://reader"), ErrorCode::kLimitExceeded) << "one of its peers has gone";
}

TEST_F(AccessTest, FewDemandThreadsOfAnIdentityRunBeforeOthers) {
  std::list<Peer> peers;
  const auto precedes = [&](const std::string& identity) {
    Peer& peer = peers.emplace_back(*store_, server_);
    EXPECT_TRUE(succeeded(greet(peer, identity, "default", message::Role::kDemand)));
    return peer.take_precedence();
  };
  for (std::size_t i = 0; i < server_.most_preceding; ++i) {
    EXPECT_TRUE(precedes("thaw://reader"));
  }
  EXPECT_FALSE(precedes("thaw://reader"));
  EXPECT_TRUE(precedes("thaw://admin"));
}

TEST_F(AccessTest, ABrokenPolicyLeavesTheOldInForce) {
  replace_file(directory_.path("policy"), "broken");
  const auto deadline = Clock::now() + 2 * limits::kFileWatchInterval;
  while (Clock::now() < deadline) access_->refresh();

  Peer peer(*store_, server_);
  EXPECT_TRUE(succeeded(greet(peer, "thaw://reader")));
  EXPECT_EQ(code_of(Access::load(directory_.path("policy"))), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(Access::load(directory_.path("nothing"))), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace thaw::test
