// The real page server dies again and again under clients that push, delete and read, and its disk
// loses what was not synced. What was acknowledged is there after every start, and nothing else.

#include <array>
#include <atomic>
#include <csignal>
#include <memory>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "base/clock.h"
#include "tests/support/finished_job.h"
#include "tests/support/lossy_server.h"
#include "tests/support/store_load.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using std::chrono::milliseconds;

constexpr unsigned kClients = 3;
constexpr unsigned kLives = 28;  // of one store
constexpr milliseconds kLongestLoad{150};
/// Every so many lives there is one in which the server comes to collect by itself.
constexpr unsigned kLongLife = 14;
constexpr milliseconds kLongLoad{1300};
/// A point that is not reached by then is given up, and the server is killed all the same.
constexpr milliseconds kPatienceForPoint{300};

/// Where a server is made to die: some in its start, which writes tables of what is in the log,
/// most under load. A point is drawn with a number of at most `most`.
struct Point {
  const char* operation;
  unsigned most;
};
constexpr std::array kPoints{
    Point{"log.write", 150},    Point{"log.sync", 30},      Point{"log.create", 2},
    Point{"table.create", 6},   Point{"table.write", 8},    Point{"table.sync", 6},
    Point{"manifest.write", 4}, Point{"manifest.sync", 3},  Point{"manifest.create", 1},
    Point{"current.rename", 1}, Point{"options.rename", 1}, Point{"directory.sync", 6},
    Point{"file.unlink", 8},    Point{"file.rename", 2},    Point{"file.sync", 40},
    Point{"file.write", 200},
};

/// Clients at work, each on a thread of its own, until their server has gone or this ends.
class Load {
 public:
  Load(const std::vector<std::unique_ptr<LoadClient>>& clients, const TcpAddress& server,
       const std::set<ErrorCode>& expected = {}) {
    for (const auto& client : clients) {
      threads_.emplace_back(
          [this, &client, server, expected] { client->run(server, expected, stop_); });
    }
  }
  ~Load() { stop_ = true; }

 private:
  std::atomic<bool> stop_ = false;
  std::vector<std::jthread> threads_;
};

/// A page server on a disk that loses what was not synced, and its clients.
class CrashTest : public testing::Test {
 protected:
  CrashTest() {
    for (unsigned i = 0; i < kClients; ++i) {
      clients_.push_back(std::make_unique<LoadClient>(i, generator_(), board_, counts_));
    }
  }

  std::optional<LossyServer> start(const LossyDisk::Fate& fate) {
    return LossyServer::start(disk_, fate);
  }
  std::string messages() const { return last_messages(disk_); }

  /// Compares the store with the ledgers, and settles in these what was under way.
  Result<void> check_store(const TcpAddress& server) {
    PageClient client = TRY(PageClient::connect(server, "default"));
    PageClient pages = TRY(PageClient::connect(server, "default", message::Role::kDemand));
    StoreNames found = TRY(names_in(client));
    for (const auto& [name, manifest] : found.snapshots) {
      TRY(check_content(client, pages, manifest));
    }
    board_.clear();
    for (const auto& owner : clients_) {
      settle(owner->ledger(), found);
      for (const auto& [name, snapshot] : owner->ledger().snapshots) board_.add(name);
    }
    for (const auto& [name, manifest] : found.snapshots) {
      ADD_FAILURE() << name << " is there, and nobody pushed it, or it was deleted";
    }
    EXPECT_TRUE(found.tags.empty()) << found.tags.begin()->first;
    return check_chunks(client);
  }

  /// Every chunk is whole and in its place.
  Result<void> check_chunks(PageClient& client) {
    const auto scrubbed = TRY(if_found(finish_job(client, message::JobKind::kScrub)));
    if (!scrubbed) return {};  // nothing has been pushed
    EXPECT_EQ(counter_of(*scrubbed, "damaged"), 0u);
    EXPECT_EQ(counter_of(*scrubbed, "unindexed"), 0u);
    return {};
  }
  /// Nothing is left of what was deleted, and nothing else is missing.
  Result<void> collect(const TcpAddress& server) {
    PageClient client = TRY(PageClient::connect(server, "default"));
    const message::JobReport collected = TRY(finish_job(client, message::JobKind::kCollect));
    EXPECT_EQ(TRY(client.statistics()).chunks, counter_of(collected, "live_chunks"));
    return check_store(server);
  }

  /// Compares everything in a life in peace.
  void check_survivors() {
    const auto server = start({});
    ASSERT_TRUE(server);
    ASSERT_TRUE(succeeded(check_store(server->address)));
    ASSERT_TRUE(succeeded(collect(server->address)));
    server->program->signal(SIGTERM);
    EXPECT_EQ(server->program->wait().value_or(-1), 0) << messages();
    Program checker({program_path("thaw-pageserver"), "--store", disk_.directory(), "--check"},
                    disk_.surroundings({}));
    EXPECT_EQ(checker.wait().value_or(-1), 0) << checker.rest_of_output() << messages();
  }

  LossyDisk disk_;
  std::mt19937_64 generator_ = seeded_generator();
  NameBoard board_;
  LoadCounts counts_;
  std::vector<std::unique_ptr<LoadClient>> clients_;
};

/// Many lives of one store. The seed decides everything but how the threads meet.
class CrashLivesTest : public CrashTest, public testing::WithParamInterface<int> {
 protected:
  LossyDisk::Fate draw_fate() {
    LossyDisk::Fate fate;
    if (pick(generator_, 2) == 0) fate.names = LossyDisk::Names::kWhenSynced;
    if (pick(generator_, 10) < 4) return fate;
    const Point& point = kPoints[pick(generator_, kPoints.size())];
    constexpr std::array kPhases{"", ":half", ":after"};
    fate.kill_at = fmt::format("{}:{}{}", point.operation, 1 + pick(generator_, point.most),
                               kPhases[pick(generator_, kPhases.size())]);
    return fate;
  }

  /// From a start to a kill.
  void live(const LossyDisk::Fate& fate, milliseconds most) {
    auto server = start(fate);
    if (!server) {
      ++deaths_at_points_;
      return;
    }
    const pid_t pid = server->program->pid();
    const auto checked = check_store(server->address);
    EXPECT_EQ(code_of(checked).value_or(ErrorCode::kUnavailable), ErrorCode::kUnavailable);
    {
      const Load load(clients_, server->address);
      const Deadline end = Deadline::after(fate.kill_at.empty() ? most : kPatienceForPoint);
      while (!end.passed() && is_running(pid)) std::this_thread::sleep_for(milliseconds(1));
      if (!is_running(pid)) ++deaths_at_points_;
      server->kill(disk_);
    }
  }

  void lose_power() {
    if (pick(generator_, 6) == 0) return disk_.keep_power();
    disk_.cut_power(pick(generator_, 2) == 0 ? LossyDisk::Tail::kTorn : LossyDisk::Tail::kLost,
                    generator_);
  }

  unsigned deaths_at_points_ = 0;
};

TEST_P(CrashLivesTest, AcknowledgedSnapshotsSurviveAndNothingElseAppears) {
  const unsigned lives = kLives * test_scale();
  for (unsigned i = 0; i < lives && !HasFailure(); ++i) {
    const bool is_long = i % kLongLife == kLongLife / 2;
    const LossyDisk::Fate fate = is_long ? LossyDisk::Fate{} : draw_fate();
    SCOPED_TRACE(fmt::format("life {}, {}", i, fate.kill_at));
    live(fate, is_long ? kLongLoad : milliseconds(pick(generator_, kLongestLoad.count())));
    lose_power();
  }
  for (int i = 0; i < 2; ++i) {
    check_survivors();
    lose_power();
  }
  fmt::print(
      "{} kills, {} of them at named points; {} pushes and {} to parents, {} deletions, {} pulls, "
      "{} reads of others', {} of pinned, {} collections, {} tags moved\n",
      lives, deaths_at_points_, counts_.pushes.load(), counts_.diffs.load(),
      counts_.deletions.load(), counts_.pulls.load(), counts_.foreign_reads.load(),
      counts_.pinned_reads.load(), counts_.collections.load(), counts_.tag_moves.load());
  EXPECT_GT(deaths_at_points_, 0u);
  EXPECT_GT(counts_.pushes, 0u);
}

INSTANTIATE_TEST_SUITE_P(Stores, CrashLivesTest, testing::Range(0, 8));

/// A disk that fails for a while under load. What clients are told has a name; the server goes on
/// or ends with a message, and whatever was acknowledged before, meanwhile and after is there.
class FaultyDiskTest : public CrashTest {
 protected:
  static constexpr unsigned kRounds = 8;

  /// A number of operations, or as many as there are until the server has gone.
  void work(const LossyServer& server, const std::set<ErrorCode>& expected) {
    const std::uint64_t enough = counts_.operations + 30 + pick(generator_, 30);
    const Deadline deadline = Deadline::after(kPatience);
    const Load load(clients_, server.address, expected);
    while (counts_.operations < enough && is_running(server.program->pid())) {
      ASSERT_FALSE(deadline.passed());
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  /// Whether the server lives; one that has ended said why.
  bool lives(LossyServer& server) {
    if (is_running(server.program->pid())) return true;
    EXPECT_EQ(server.program->wait().value_or(-1), 1) << messages();
    EXPECT_NE(messages().find("[error]"), std::string::npos) << messages();
    return false;
  }
  /// Whether the server is to get over the fault or dies in it.
  enum class End { kRecovers, kDies };
  void meet(LossyDisk::Fault fault, ErrorCode expected, End end) {
    auto server = start({});  // with nothing in its caches
    ASSERT_TRUE(server);
    work(*server, {});
    disk_.begin(fault);
    work(*server, {expected});
    if (lives(*server)) {
      if (end == End::kRecovers) recover(*server, fault, expected);
      server->kill(disk_);
    }
    disk_.end(fault);
    disk_.cut_power(LossyDisk::Tail::kTorn, generator_);
    check_survivors();
  }

  void recover(const LossyServer& server, LossyDisk::Fault fault, ErrorCode expected) {
    disk_.end(fault);
    EXPECT_TRUE(succeeded(check_store(server.address)));
    const Deadline deadline = Deadline::after(kPatience);
    const std::uint64_t before = counts_.pushes;
    while (counts_.pushes == before && !deadline.passed()) work(server, {expected});
    EXPECT_GT(counts_.pushes, before) << messages();
    const std::uint64_t refused = counts_.refusals;
    work(server, {});
    EXPECT_EQ(counts_.refusals, refused);
  }
};

TEST_F(FaultyDiskTest, FullDiskLosesNothing) {
  for (unsigned i = 0; i < kRounds && !HasFailure(); ++i) {
    meet(LossyDisk::Fault::kFull, ErrorCode::kNoSpace, i % 2 == 1 ? End::kRecovers : End::kDies);
  }
  EXPECT_GT(counts_.refusals, 0u);
}

/// A read error in a flush may leave the store without writes until it is opened again.
TEST_F(FaultyDiskTest, ReadErrorsHaveANameAndPassWithTheNextStart) {
  for (unsigned i = 0; i < kRounds && !HasFailure(); ++i) {
    meet(LossyDisk::Fault::kUnreadable, ErrorCode::kIo, End::kDies);
  }
  EXPECT_GT(counts_.refusals, 0u);
}

}  // namespace
}  // namespace thaw::test
