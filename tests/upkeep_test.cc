// `thaw` looks after the store of the real page server.

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "base/file.h"
#include "format/page_client.h"
#include "tests/support/page_connection.h"
#include "tests/support/programs.h"
#include "tests/support/raw_store.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;

class UpkeepTest : public testing::Test {
 protected:
  UpkeepTest()
      : server_(
            path("store"), 0,
            Surroundings::with({{"THAW_BACKUPS", path("backups")}, {"THAW_PIN_GRACE_S", "0"}})) {
    std::filesystem::create_directory(path("backups"));
  }

  std::string path(const std::string& name) const { return directory_.path(name); }
  /// Pushes an image of random pages, which are all stored.
  void push(const std::string& name, std::uint64_t seed, std::size_t pages = 200,
            const std::vector<std::string>& more = {}) {
    std::mt19937_64 generator(seed);
    write_file(path(name), random_bytes(generator, pages * kPageBytes));
    std::vector<std::string> command{"push", name, "--memory", path(name)};
    command.insert(command.end(), more.begin(), more.end());
    ASSERT_EQ(server_.thaw(command).exit_code, 0);
  }
  Json thaw(const std::vector<std::string>& command, int exit_code = 0) {
    const Outcome outcome = server_.thaw(command);
    EXPECT_EQ(outcome.exit_code, exit_code) << command.front() << ": " << outcome.output;
    return Json::parse(outcome.output, nullptr, false);
  }
  std::string refusal(const std::vector<std::string>& command) {
    const Json json = Json::parse(server_.thaw(command).output, nullptr, false);
    return json.is_object() && json.contains("error") ? json["error"]["code"] : "none";
  }
  void expect_identical(const std::string& name, const std::string& file) {
    EXPECT_EQ(server_.thaw({"pull", name, "--memory", path("out")}).exit_code, 0);
    EXPECT_TRUE(read_file(path("out")) == read_file(path(file))) << name;
  }
  static StoreId store_id_of(const PageServer& server) {
    return PageClient::connect(*resolve_tcp(server.address()), "default").value().store();
  }
  SnapshotId id_of(const std::string& name) {
    return {thaw({"show", name})["snapshot"].get<std::uint64_t>()};
  }
  std::uint64_t chunks() { return thaw({"stats"})["chunks"]; }
  /// Changes the store while the page server is away.
  template <typename Change>
  void change(Change change) {
    EXPECT_EQ(server_.stop().value(), 0);
    {
      RawStore raw(path("store"));
      change(raw);
    }
    server_.start();
  }
  Json check(std::vector<std::string> more, int exit_code) {
    std::vector<std::string> command{program_path("thaw"), "--json", "fsck", path("store")};
    command.insert(command.end(), more.begin(), more.end());
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
    return Json::parse(outcome.output, nullptr, false);
  }

  ScratchDirectory directory_;
  PageServer server_;
};

TEST_F(UpkeepTest, GarbageIsCollected) {
  push("a", 1);
  push("b", 2);
  EXPECT_EQ(thaw({"usage", "b"})["exclusive_bytes"], 200 * (4096 + 16));
  thaw({"rm", "b"});
  const Json planned = thaw({"gc", "--dry-run"});
  EXPECT_EQ(planned["counters"]["dead_chunks"], 200);
  EXPECT_EQ(chunks(), 400u);
  const Json done = thaw({"gc"});
  EXPECT_EQ(done["counters"], planned["counters"]);
  EXPECT_EQ(done["counters"]["dead_bytes"], 200 * (4096 + 16));
  EXPECT_EQ(chunks(), 200u);
  expect_identical("a", "a");
}

TEST_F(UpkeepTest, UsagesWaitForEachOther) {
  push("a", 1, 2000);
  std::vector<PageConnection> peers;
  for (int i = 0; i < 6; ++i) peers.emplace_back(server_.address(), message::Role::kControl);
  for (int round = 0; round < 10; ++round) {
    for (PageConnection& peer : peers) peer.send(message::GetUsage{});
    for (PageConnection& peer : peers) {
      EXPECT_TRUE(std::holds_alternative<message::Usage>(peer.receive().message));
    }
  }
}

TEST_F(UpkeepTest, CollectionFreesTheDisk) {
  const auto size_of_store = [&] {
    std::uintmax_t size = 0;
    for (const auto& file : std::filesystem::directory_iterator(path("store"))) {
      if (file.path().extension() == ".sst") size += file.file_size();
    }
    return size;
  };
  push("a", 1);
  push("gone", 2, 10'000);
  const std::uint64_t exclusive = thaw({"usage", "gone"})["exclusive_bytes"];
  thaw({"compact"});
  const std::uintmax_t before = size_of_store();
  thaw({"rm", "gone"});
  thaw({"gc"});
  thaw({"compact"});
  EXPECT_GE(before - size_of_store(), exclusive / 100 * 99);
  expect_identical("a", "a");
}

TEST_F(UpkeepTest, SnapshotsInUseStay) {
  push("a", 1);
  const SnapshotId snapshot = id_of("a");
  std::optional<PageConnection> handler(std::in_place, server_.address(), message::Role::kDemand);
  const auto pinned = [&](const Message& request) {
    return std::holds_alternative<message::Done>(handler->ask(request).message);
  };
  EXPECT_TRUE(pinned(message::Pin{snapshot}));
  EXPECT_TRUE(pinned(message::Pin{snapshot})) << "once is enough";
  EXPECT_FALSE(pinned(message::Pin{{77}}));
  EXPECT_EQ(refusal({"rm", "a"}), "busy");
  EXPECT_TRUE(pinned(message::Unpin{snapshot}));
  EXPECT_TRUE(pinned(message::Unpin{snapshot})) << "without a pin it is nothing";
  EXPECT_TRUE(pinned(message::Pin{snapshot}));

  thaw({"rm", "a", "--when-unused"});
  EXPECT_EQ(refusal({"show", "a"}), "not_found");
  EXPECT_EQ(thaw({"gc"})["counters"]["dead_chunks"], 0);
  push("b", 1);
  EXPECT_EQ(chunks(), 200u) << "its pages are still met by pushes";
  thaw({"rm", "b"});
  handler.reset();
  // The server notices some time that the handler has gone.
  const Deadline deadline = Deadline::after(kPatience);
  while (chunks() > 0 && !deadline.passed()) thaw({"gc"});
  EXPECT_EQ(chunks(), 0u);
}

TEST_F(UpkeepTest, TagsStandForSnapshots) {
  push("a", 1);
  push("b", 2);
  thaw({"tag", "a", "app:live"});
  expect_identical("app:live", "a");
  thaw({"tag", "b", "app:live"});
  expect_identical("app:live", "b");
  EXPECT_EQ(thaw({"ls"})["snapshots"][1]["tags"], Json::parse(R"(["app:live"])"));
  EXPECT_EQ(refusal({"rm", "app:live"}), "invalid_argument");
  EXPECT_EQ(refusal({"tag", "a", "app"}), "invalid_argument");
  EXPECT_EQ(refusal({"tag", "c", "app:live"}), "not_found");
  EXPECT_EQ(refusal({"push", "x:y", "--memory", path("a")}), "invalid_argument");
  thaw({"untag", "app:live"});
  EXPECT_EQ(refusal({"show", "app:live"}), "not_found");
}

TEST_F(UpkeepTest, LabelsChange) {
  push("a", 1, 10, {"--label", "app=web", "--label", "stage=test"});
  thaw({"label", "a", "stage=live", "team=x", "--remove", "app"});
  EXPECT_EQ(thaw({"show", "a"})["labels"], Json::parse(R"({"stage": "live", "team": "x"})"));
}

TEST_F(UpkeepTest, QuotasAreTold) {
  thaw({"namespace", "--quota", "1M", "--quota-snapshots", "2"});
  push("a", 1);
  push("b", 2, 50);
  const Json used = thaw({"namespace"});
  EXPECT_GT(used["stored_bytes"], 250 * (4096 + 16)) << "names and page maps count too";
  EXPECT_LT(used["stored_bytes"], 250 * (4096 + 16) + 4096);
  EXPECT_EQ(used["recorded_bytes"], 0);
  EXPECT_GT(used["recorded_share"], 0);
  EXPECT_EQ(refusal({"push", "c", "--memory", path("a")}), "quota_exceeded");
  thaw({"rm", "b"});
  write_file(path("big"), make_image(3, 4000));
  EXPECT_EQ(refusal({"push", "big", "--memory", path("big")}), "quota_exceeded");
  thaw({"gc"});
  EXPECT_EQ(chunks(), 200u) << "what the refused push had stored is gone too";
}

TEST_F(UpkeepTest, EmptyNamespaceIsRemoved) {
  push("a", 1, 10);
  EXPECT_EQ(refusal({"namespace", "rm", "default"}), "busy");
  thaw({"rm", "a"});
  EXPECT_EQ(refusal({"namespace", "rm", "default"}), "busy") << "chunks are left";
  thaw({"gc"});
  thaw({"namespace", "--quota", "1M"});
  thaw({"namespace", "rm", "default"});
  EXPECT_EQ(refusal({"namespace", "rm", "default"}), "not_found");
  EXPECT_EQ(refusal({"namespace"}), "not_found");
  push("a", 1, 10);
  EXPECT_EQ(thaw({"namespace"})["quota_bytes"], 0) << "settings go with it";
  expect_identical("a", "a");
}

TEST_F(UpkeepTest, OutdatedSnapshotsAreMarkedAndDeleted) {
  const auto listed = [&](bool outdated) {
    std::string names;
    const Json list = thaw({"ls"});
    for (const Json& snapshot : list["snapshots"]) {
      if ((snapshot["outdated_unix_ms"] != 0) == outdated)
        names += " " + std::string(snapshot["name"]);
    }
    return names;
  };
  for (const int i : {1, 2, 3, 4, 5}) push("s" + std::to_string(i), 7, 10);
  thaw({"tag", "s1", "app:first"});
  thaw({"namespace", "--keep-last", "2"});
  EXPECT_EQ(thaw({"retain", "--dry-run"})["counters"]["marked"], 2);
  EXPECT_EQ(thaw({"retain"})["counters"]["marked"], 2);
  EXPECT_EQ(listed(true), " s2 s3");
  EXPECT_EQ(thaw({"retain"})["counters"]["pending"], 2) << "not deleted before a day";
  thaw({"tag", "s2", "app:kept"});
  EXPECT_EQ(listed(true), " s3");
  EXPECT_EQ(thaw({"retain", "--now", "--dry-run"})["counters"]["deleted"], 1);
  EXPECT_EQ(thaw({"retain", "--now"})["counters"]["deleted"], 1);
  EXPECT_EQ(listed(false), " s1 s2 s4 s5");
  EXPECT_EQ(listed(true), "");
}

TEST_F(UpkeepTest, UpkeepIsDoneByItself) {
  EXPECT_EQ(server_.stop().value(), 0);
  PageServer server(
      path("store2"), 0,
      Surroundings::with({{"THAW_UPKEEP_INTERVAL_S", "1"}, {"THAW_GC_PERCENT", "1"}}));
  std::mt19937_64 generator(1);
  for (const std::string name : {"a", "b"}) {
    write_file(path(name), random_bytes(generator, 100 * kPageBytes));
    ASSERT_EQ(server.thaw({"push", name, "--memory", path(name)}).exit_code, 0);
  }
  EXPECT_EQ(server.thaw({"namespace", "--keep-last", "1"}).exit_code, 0);
  const Deadline deadline = Deadline::after(kPatience);
  Json list;
  do {
    list = Json::parse(server.thaw({"ls"}).output);
  } while (list["snapshots"][0]["outdated_unix_ms"] == 0 && !deadline.passed());
  EXPECT_NE(list["snapshots"][0]["outdated_unix_ms"], 0);
  EXPECT_EQ(server.thaw({"retain", "--now"}).exit_code, 0);
  Json stats;
  do {
    stats = Json::parse(server.thaw({"stats"}).output);
  } while (stats["chunks"] != 100 && !deadline.passed());
  EXPECT_EQ(stats["chunks"], 100);
  EXPECT_EQ(stats["snapshots"], 1);
}

TEST_F(UpkeepTest, CreatedTimesDoNotGoBackWithTheClock) {
  const std::uint64_t later = unix_milliseconds() + 3'600'000;
  change([&](RawStore& raw) { raw.put("meta", "time", big_endian(later)); });
  push("a", 1, 10);
  EXPECT_GE(thaw({"show", "a"})["created_unix_ms"], later);
}

TEST_F(UpkeepTest, GarbageFromBeforeTheStartIsCollected) {
  push("a", 1);
  push("b", 2);
  thaw({"rm", "b"});
  EXPECT_EQ(server_.stop().value(), 0);
  PageServer server(
      path("store"), 0,
      Surroundings::with({{"THAW_UPKEEP_INTERVAL_S", "1"}, {"THAW_GC_PERCENT", "0"}}));
  const Deadline deadline = Deadline::after(kPatience);
  Json stats;
  do {
    EXPECT_EQ(server.thaw({"scrub"}).exit_code, 0) << "other jobs do not keep it from its turn";
    stats = Json::parse(server.thaw({"stats"}).output);
  } while (stats["chunks"] != 200 && !deadline.passed());
  EXPECT_EQ(stats["chunks"], 200);
}

TEST_F(UpkeepTest, StoppedCollectionIsMadeUpFor) {
  push("a", 1, 20'000);
  push("b", 2);
  thaw({"rm", "b"});
  EXPECT_EQ(server_.stop().value(), 0);
  PageServer server(
      path("store"), 0,
      Surroundings::with({{"THAW_UPKEEP_INTERVAL_S", "1"}, {"THAW_GC_PERCENT", "0"}}));
  PageClient client = *PageClient::connect(*resolve_tcp(server.address()), "default");
  // Each job stops the collection that has its turn.
  const Deadline stopping = Deadline::after(std::chrono::seconds(3));
  while (!stopping.passed()) {
    const auto job = client.start_job({message::JobKind::kRetain, false, ""});
    ASSERT_TRUE(job.has_value() || job.error().code() == ErrorCode::kBusy);
  }
  const Deadline deadline = Deadline::after(kPatience);
  while (client.statistics()->chunks != 20'000 && !deadline.passed()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_EQ(client.statistics()->chunks, 20'000u);
}

TEST_F(UpkeepTest, LogsStaySmallAndACleanStopLeavesNone) {
  const auto size_of_logs = [this] {
    std::uintmax_t size = 0;
    for (const auto& file : std::filesystem::directory_iterator(path("store"))) {
      if (file.path().extension() == ".log") size += file.file_size();
    }
    return size;
  };
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    push(std::to_string(seed), seed, 10'000);
    EXPECT_LT(size_of_logs(), 150u << 20) << seed;
  }
  server_.kill();
  server_.start();
  expect_identical("4", "4");
  push("5", 5);
  EXPECT_EQ(server_.stop().value(), 0);
  EXPECT_LT(size_of_logs(), 1u << 20);
  server_.start();
  expect_identical("1", "1");
  expect_identical("5", "5");
}

TEST_F(UpkeepTest, SnapshotThatIsPulledStays) {
  push("a", 1, 4000);
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  Program pull({program_path("thaw"), "--insecure", "--server", server_.address(), "pull", "a",
                "--memory", path("pipe")});
  std::ifstream pulled(path("pipe"), std::ios::binary);  // waits until the pull writes there
  std::string content(kPageBytes, '\0');
  pulled.read(content.data(), kPageBytes);  // and it has asked for pages

  EXPECT_EQ(refusal({"rm", "a"}), "busy");
  thaw({"rm", "a", "--when-unused"});
  thaw({"gc"});

  content.append(std::istreambuf_iterator<char>(pulled), {});
  EXPECT_EQ(pull.wait().value(), 0);
  EXPECT_EQ(content, read_text_file(path("a"), content.size()).value_or(""));
}

TEST_F(UpkeepTest, ParentIsInUseAsLongAsItsPush) {
  push("parent", 1, 16);
  push("pinned", 2, 16);
  PageClient client = *PageClient::connect(*resolve_tcp(server_.address()), "default");
  SnapshotSpec child;
  child.name = "child";
  child.memory = bytes_of({16});
  ASSERT_TRUE(succeeded(client.pin(id_of("pinned"))));
  ASSERT_TRUE(succeeded(client.begin_push(child, "parent")));
  EXPECT_EQ(code_of(client.remove({"parent"})), ErrorCode::kBusy);
  message::Offer offer{{0}, {16}, empty_bitmap(16)};
  for (std::size_t i = 0; i < 16; ++i) set_bit(offer.zero_bitmap, i);
  ASSERT_TRUE(succeeded(client.send_offer(offer, {})));
  ASSERT_TRUE(succeeded(client.receive_needed(0)));
  ASSERT_TRUE(succeeded(client.commit()));
  EXPECT_TRUE(succeeded(client.remove({"parent"})));
  EXPECT_EQ(code_of(client.remove({"pinned"})), ErrorCode::kBusy) << "it has nothing to do with it";
}

TEST_F(UpkeepTest, DamageIsNamedAndHealed) {
  push("a", 1, 20);
  change([](RawStore& raw) { raw.damage("chunk", raw.keys("chunk")[3]); });
  EXPECT_EQ(refusal({"pull", "a", "--memory", path("out")}), "checksum_mismatch");
  const Json scrubbed = thaw({"scrub"}, 1);
  EXPECT_EQ(scrubbed["error"]["code"], "corrupt");
  EXPECT_EQ(scrubbed["counters"]["damaged"], 1);
  ASSERT_EQ(scrubbed["findings"].size(), 1u);
  EXPECT_NE(scrubbed["findings"][0].get<std::string>().find("in a"), std::string::npos);
  push("healing", 1, 20);
  expect_identical("a", "a");
  EXPECT_EQ(thaw({"scrub"})["counters"]["damaged"], 0);
}

TEST_F(UpkeepTest, ReportedDamageIsLookedAtAndNotBelieved) {
  push("a", 1, 20);
  change([](RawStore& raw) { raw.damage("chunk", raw.keys("chunk")[3]); });
  PageClient client = *PageClient::connect(*resolve_tcp(server_.address()), "default");
  const auto manifest = client.show("a");
  ASSERT_TRUE(succeeded(manifest));
  const auto map = client.page_map(*manifest);
  ASSERT_TRUE(succeeded(map));
  message::ReportDamage all{.chunks = {}, .snapshot = manifest->snapshot};
  for (std::uint64_t page = 0; page < 20; ++page) {
    if (map->chunk_of({page}).valid()) all.chunks.push_back(map->chunk_of({page}));
  }
  ASSERT_TRUE(succeeded(client.report_damage(all)));
  EXPECT_EQ(code_of(client.report_damage({{ChunkId::of(77, 0, 1)}, {}})),
            ErrorCode::kWrongNamespace);
  const Deadline deadline = Deadline::after(kPatience);
  int healed = 0;
  for (int i = 0; healed == 0 && !deadline.passed(); ++i) {
    healed = thaw({"push", "b" + std::to_string(i), "--memory", path("a")})["new_pages"];
  }
  EXPECT_EQ(healed, 1) << "the others were intact";
  expect_identical("a", "a");
}

TEST_F(UpkeepTest, StoreIsCheckedWhileNobodyHasItOpen) {
  push("a", 1, 20);
  EXPECT_EQ(check({}, 5)["error"]["code"], "busy") << "the page server has it open";
  EXPECT_EQ(server_.stop().value(), 0);
  const Json clean = check({}, 0);
  EXPECT_EQ(clean["chunks"], 20);
  EXPECT_TRUE(clean["problems"].empty());
  {
    RawStore raw(path("store"));
    raw.remove("chunk", raw.keys("chunk")[3]);
    raw.put("snapshot", std::string("n\0\1lost", 7), big_endian(99));
  }
  EXPECT_EQ(check({}, 1)["problems"].size(), 3u) << "the chunk, the name, the total";
  EXPECT_EQ(check({"--repair"}, 1)["problems"].size(), 3u);
  EXPECT_EQ(check({}, 1)["problems"].size(), 2u) << "the total is right now";
  EXPECT_EQ(run({program_path("thaw"), "fsck", path("nothing")}).exit_code, 3);
  EXPECT_FALSE(std::filesystem::exists(path("nothing")));
}

/// The disk gives back other bytes than it was given.
TEST_F(UpkeepTest, DamagedFilesAreNamedAndDoNotStopTheOthers) {
  push("a", 1, 500);
  push("b", 2, 500);
  thaw({"compact"});
  EXPECT_EQ(server_.stop().value(), 0);
  std::string largest;
  for (const auto& file : std::filesystem::directory_iterator(path("store"))) {
    if (file.path().extension() != ".sst") continue;
    if (largest.empty() || file.file_size() > std::filesystem::file_size(largest)) {
      largest = file.path();
    }
  }
  Bytes content = read_file(largest);
  for (std::size_t i = 0; i < 16; ++i) content[content.size() / 4 + i] ^= std::byte{0xff};
  write_file(largest, content);

  const Json checked = check({}, 1);
  EXPECT_EQ(checked["snapshots"], 2);
  const std::string problems = checked["problems"].dump();
  EXPECT_NE(problems.find("in a"), std::string::npos) << problems;
  EXPECT_EQ(problems.find("in b"), std::string::npos) << problems;

  server_.start();
  const Json scrubbed = thaw({"scrub"}, 1);
  EXPECT_GE(scrubbed["counters"]["damaged"], 1);
  EXPECT_EQ(scrubbed["counters"]["affected_snapshots"], 1);
  expect_identical("b", "b");
  push("healing", 1, 500);
  expect_identical("a", "a");
  thaw({"rm", "a"});
  thaw({"rm", "healing"});
  EXPECT_EQ(thaw({"gc"})["counters"]["dead_chunks"], 500);
  EXPECT_EQ(chunks(), 500u);
  server_.thaw({"compact"});
  expect_identical("b", "b");
  push("after", 3);
  expect_identical("after", "after");
}

TEST_F(UpkeepTest, BackupsAreWholeStores) {
  push("a", 1);
  thaw({"backup", "one"});
  push("b", 2);
  thaw({"rm", "a"});
  thaw({"gc"});
  const Json again = thaw({"backup", "one"}, 5);
  EXPECT_EQ(again["error"]["code"], "already_exists") << "a backup is not overwritten";
  EXPECT_EQ(refusal({"backup", "../two"}), "invalid_argument");

  const auto restored = [&](const std::string& store) {
    return PageServer(path(store), 0,
                      Surroundings::with({{"THAW_FROM_BACKUP", path("backups/one")}}));
  };
  PageServer other = restored("other");
  EXPECT_EQ(other.thaw({"pull", "a", "--memory", path("out")}).exit_code, 0);
  EXPECT_TRUE(read_file(path("out")) == read_file(path("a")));
  EXPECT_EQ(other.thaw({"show", "b"}).exit_code, 3);
  EXPECT_EQ(other.thaw({"scrub"}).exit_code, 0);
  EXPECT_NE(store_id_of(other), store_id_of(server_)) << "they give out the same numbers from here";
  EXPECT_EQ(run({program_path("thaw-pageserver"), "--store", path("third"), "--from-backup",
                 path("other"), "--insecure", "--listen", "127.0.0.1:0"})
                .exit_code,
            2)
      << "a store that was served is no backup";
  EXPECT_EQ(run({program_path("thaw-pageserver"), "--store", path("store"), "--from-backup",
                 path("backups/one"), "--insecure", "--listen", "127.0.0.1:0"})
                .exit_code,
            1)
      << "only an empty store begins with a backup";
}

/// Names and modes below a directory, and itself, of what others have any access to.
std::string open_to_others(const std::string& directory) {
  namespace fs = std::filesystem;
  std::string open;
  const auto look = [&](const fs::path& path) {
    const auto mode = fs::symlink_status(path).permissions();
    if ((mode & (fs::perms::group_all | fs::perms::others_all)) == fs::perms::none) return;
    open += fmt::format("{} {:o}; ", path.string(), static_cast<unsigned>(mode));
  };
  look(directory);
  std::error_code ignored;  // it may be a file
  for (const auto& entry : fs::recursive_directory_iterator(directory, ignored)) {
    look(entry.path());
  }
  return open;
}

TEST_F(UpkeepTest, NothingThatItKeepsIsOpenToOtherUsers) {
  push("a", 1);
  thaw({"backup", "one"});
  PageServer copy(path("copy"), 0, Surroundings::with({{"THAW_FROM_BACKUP", path("backups/one")}}));
  ASSERT_EQ(server_.thaw({"pull", "a", "--memory", path("out")}).exit_code, 0);

  EXPECT_EQ(open_to_others(path("store")), "");
  EXPECT_EQ(open_to_others(path("backups")), "");
  EXPECT_EQ(open_to_others(path("copy")), "");
  EXPECT_EQ(open_to_others(path("out")), "");
}

TEST_F(UpkeepTest, StoresAndBackupsThatOthersMayEnterAreRefused) {
  push("a", 1);
  thaw({"backup", "one"});
  ASSERT_TRUE(server_.stop().has_value());
  const auto expect_refusal = [&](const std::string& open, std::vector<std::string> options) {
    std::filesystem::permissions(path(open), std::filesystem::perms(0750));
    std::filesystem::remove(path("log"));
    options.insert(options.begin(),
                   {program_path("thaw-pageserver"), "--insecure", "--listen", "127.0.0.1:0"});
    Program server(options, {.cpus = {}, .messages = path("log")});
    EXPECT_EQ(server.wait().value_or(0), 1);
    const auto log = read_text_file(path("log"), 1 << 20).value_or("");
    EXPECT_NE(log.find("chmod 700 " + path(open)), std::string::npos) << log;
  };
  expect_refusal("store", {"--store", path("store")});
  expect_refusal("store", {"--store", path("store"), "--replica"});
  expect_refusal("backups", {"--store", path("new"), "--backups", path("backups")});
  expect_refusal("backups/one", {"--store", path("third"), "--from-backup", path("backups/one")});
}

TEST_F(UpkeepTest, CheckOfABackupGivesItNoIdOfItsOwn) {
  push("a", 1);
  const StoreId id = store_id_of(server_);
  thaw({"backup", "one"});
  EXPECT_EQ(run({program_path("thaw"), "fsck", path("backups/one")}).exit_code, 0);
  const auto restored = [&](const std::string& store) {
    return store_id_of(PageServer(path(store), 0,
                                  Surroundings::with({{"THAW_FROM_BACKUP", path("backups/one")}})));
  };
  EXPECT_NE(restored("two"), restored("three"));
  ASSERT_EQ(server_.stop().value(), 0);
  server_.start();
  EXPECT_EQ(store_id_of(server_), id);
}

TEST_F(UpkeepTest, JobsRunOneAtATime) {
  push("a", 1);
  PageConnection client(server_.address(), message::Role::kControl);
  const auto ask = [&](const Message& request) { return client.ask(request).message; };
  EXPECT_EQ(std::get<message::ErrorReply>(ask(message::GetJob{1})).code, ErrorCode::kNotFound);
  EXPECT_EQ(std::get<message::ErrorReply>(ask(message::StopJob{1})).code, ErrorCode::kNotFound);
  const auto started = std::get<message::JobReport>(ask(message::StartJob{}));
  const Deadline deadline = Deadline::after(kPatience);
  message::JobReport report = started;
  while (report.state == message::JobState::kRunning && !deadline.passed()) {
    const Message second = ask(message::StartJob{});
    if (const auto* refused = std::get_if<message::ErrorReply>(&second)) {
      EXPECT_EQ(refused->code, ErrorCode::kBusy);
    } else {
      break;  // the first was over in between
    }
    report = std::get<message::JobReport>(ask(message::GetJob{started.number}));
  }
}

TEST_F(UpkeepTest, SignalStopsTheJobOfACommand) {
  ASSERT_EQ(server_.stop().value(), 0);
  // At this rate a scrub of what follows takes minutes.
  PageServer slow(path("store"), 0, Surroundings::with({{"THAW_UPKEEP_MIB_S", "1"}}));
  std::mt19937_64 generator(1);
  write_file(path("a"), random_bytes(generator, 64u << 20));
  ASSERT_EQ(slow.thaw({"push", "a", "--memory", path("a")}).exit_code, 0);
  Program scrub(
      {program_path("thaw"), "--json", "--insecure", "--server", slow.address(), "scrub"});
  PageConnection client(slow.address(), message::Role::kControl);
  const Deadline deadline = Deadline::after(kPatience);
  const auto has_begun = [&] {
    const auto report = client.ask(message::GetJob{1}).message;
    return std::holds_alternative<message::JobReport>(report);
  };
  while (!has_begun()) ASSERT_FALSE(deadline.passed());
  scrub.signal(SIGINT);
  EXPECT_EQ(scrub.wait().value(), 1);
  const Json report = Json::parse(scrub.rest_of_output(), nullptr, false);
  ASSERT_TRUE(report.contains("error")) << report;
  EXPECT_EQ(report["error"]["code"], "stopped") << report;
  EXPECT_EQ(slow.thaw({"gc", "--dry-run"}).exit_code, 0) << "nothing runs any more";
}

}  // namespace
}  // namespace thaw::test
