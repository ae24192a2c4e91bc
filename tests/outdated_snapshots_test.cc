// What becomes of snapshots that a namespace's settings do not keep, whatever the clocks say.

#include <algorithm>
#include <set>

#include "pageserver/retention.h"
#include "pageserver/snapshots.h"
#include "tests/support/set_clocks.h"
#include "tests/support/stepped_control.h"
#include "tests/support/store_fixture.h"

namespace thaw::test {
namespace {

using std::chrono::hours;
using Names = std::set<std::string>;

constexpr hours kDay{24};
constexpr hours kYears{70 * 365 * 24};
constexpr std::uint64_t kWeekSeconds = 7 * 24 * 3600;

/// What a run notes and warns of.
class Notes final : public Unpaced {
 public:
  void add_finding(std::string finding) override { warnings.push_back(std::move(finding)); }
  void note(std::string line) override { notes.push_back(std::move(line)); }

  std::vector<std::string> warnings;
  std::vector<std::string> notes;
};

class OutdatedSnapshotsTest : public StoreTest {
 protected:
  OutdatedSnapshotsTest() { restart(); }

  /// The page server ends and begins again.
  void restart() {
    retention_.reset();
    reopen();
    time_.emplace(clocks_.source());
    time_->begin(*store_->last_time_unix_ms());
    retention_.emplace(*store_, pins_, *time_);
  }
  void push(const std::string& name) {
    const Bytes image = image_of("a");
    Push push(*store_, name_space_, spec(name, image));
    ASSERT_TRUE(succeeded(send(push, image)));
    const auto created = time_->wall().settled ? CreatedTime::kCredible : CreatedTime::kDoubtful;
    ASSERT_TRUE(succeeded(push.commit({}, time_->now_unix_ms(), created)));
  }
  void push_all(const Names& names) {
    for (const std::string& name : names) push(name);
  }
  Manifest show(const std::string& name) {
    return *decode_manifest(*store_->manifest(name_space_, name));
  }
  void set(const message::NamespaceSettings& settings) {
    ASSERT_TRUE(succeeded(store_->set_settings(name_space_, settings)));
  }
  RetentionReport retain(const RetentionRequest& request = {}) {
    RetentionReport report;
    EXPECT_TRUE(succeeded(retention_->run(name_space_, request, control_, report)));
    return report;
  }
  /// Time passes, and the upkeep looks every hour.
  void look_for(hours time) {
    for (hours passed{0}; passed < time; passed += hours(1)) {
      clocks_.pass(hours(1));
      retain();
    }
  }
  /// The server was away for a month, and the only snapshot should have gone after a week.
  void restart_with_an_old_one() {
    set({.keep_seconds = kWeekSeconds});
    look_for(kDay);
    push("a");
    clocks_.pass(30 * kDay);
    restart();
  }
  Names names() {
    Names names;
    const std::vector<Manifest> all = *all_manifests(*store_, name_space_);
    for (const Manifest& each : all) names.insert(each.spec.name);
    return names;
  }
  std::size_t marks() { return store_->outdated_marks(name_space_)->size(); }

  SetClocks clocks_;
  SnapshotPins pins_;
  std::optional<CredibleTime> time_;
  std::optional<Retention> retention_;
  Notes control_;
};

TEST_F(OutdatedSnapshotsTest, MarkedFirstAndDeletedADayLater) {
  set({.keep_seconds = kWeekSeconds});
  push("a");
  look_for(7 * kDay - hours(1));
  EXPECT_EQ(marks(), 0u);
  look_for(hours(1));
  EXPECT_EQ(marks(), 1u);
  look_for(hours(23));
  EXPECT_EQ(names(), Names{"a"});
  clocks_.pass(hours(1));
  EXPECT_EQ(retain().deleted, 1u);
  EXPECT_EQ(names(), Names{});
  EXPECT_EQ(marks(), 0u) << "the mark goes with the snapshot";
}

TEST_F(OutdatedSnapshotsTest, ClockYearsAheadForAMomentDeletesNothing) {
  set({.keep_seconds = kWeekSeconds});
  look_for(kDay);
  push_all({"a", "b", "c"});
  clocks_.shift(kYears);
  retain();
  push("then");
  clocks_.shift(-kYears);
  look_for(5 * kDay);
  EXPECT_EQ(names().size(), 4u);
  EXPECT_EQ(marks(), 0u);
  EXPECT_LT(show("then").created_unix_ms, clocks_.wall_unix_ms());
}

TEST_F(OutdatedSnapshotsTest, ClockSetRightWithinTheDayTakesTheMarksBack) {
  set({.keep_seconds = kWeekSeconds});
  look_for(kDay);
  push_all({"a", "b", "c"});
  clocks_.shift(kYears);
  push("d");
  look_for(30 * hours(1));
  EXPECT_EQ(marks(), 3u) << "it has run evenly for a day";
  clocks_.shift(-kYears);
  look_for(kDay - hours(1));
  EXPECT_EQ(marks(), 3u) << "a jump: nothing is decided";
  look_for(2 * kDay);
  EXPECT_EQ(marks(), 0u);
  EXPECT_EQ(names().size(), 4u);
  look_for(3 * kDay);
  EXPECT_EQ(marks(), 3u) << "ages are right again";
}

TEST_F(OutdatedSnapshotsTest, PushedWhileTheClockSaid1972AgesFromWhenItIsRight) {
  const auto right = clocks_.now.wall;
  clocks_.now.wall = hours(2 * 365 * 24);
  restart();
  set({.keep_seconds = kWeekSeconds});
  push("a");
  clocks_.now.wall = right;
  EXPECT_EQ(retain({.dry_run = true, .by_hand = true}).marked, 0u) << "nor by hand";
  look_for(kDay);
  restart();
  look_for(6 * kDay);
  EXPECT_EQ(marks(), 0u);
  look_for(kDay + hours(1));
  EXPECT_EQ(marks(), 1u);
  look_for(kDay);
  EXPECT_EQ(names(), Names{});
}

/// A host that was suspended, or whose clock begins with the time of its last stop.
TEST_F(OutdatedSnapshotsTest, PushedBeforeAClockBehindIsSetRightIsYoung) {
  look_for(kDay);
  push("before");
  restart();
  set({.keep_seconds = kWeekSeconds});
  push("behind");
  clocks_.shift(10 * kDay);
  push("after");
  look_for(7 * kDay);
  EXPECT_EQ(names(), (Names{"after", "behind"}));
  look_for(5 * kDay);
  EXPECT_EQ(names(), Names{});
}

TEST_F(OutdatedSnapshotsTest, CreatedTimesThatProveRightCount) {
  set({.keep_seconds = kWeekSeconds});
  push("a");
  EXPECT_EQ(store_->age_starts(name_space_)->size(), 1u);
  look_for(kDay);
  EXPECT_TRUE(store_->age_starts(name_space_)->empty());
  look_for(6 * kDay);
  EXPECT_EQ(marks(), 1u);
}

TEST_F(OutdatedSnapshotsTest, ServerThatStartsWithAWrongClockDeletesNothing) {
  set({.keep_seconds = kWeekSeconds});
  push_all({"a", "b"});
  clocks_.shift(kYears);
  restart();
  look_for(hours(12));
  push("c");
  EXPECT_LT(show("c").created_unix_ms, clocks_.wall_unix_ms() - 3600'000);
  clocks_.shift(-kYears);
  look_for(3 * kDay);
  EXPECT_EQ(names(), (Names{"a", "b", "c"}));
  EXPECT_EQ(marks(), 0u);
}

TEST_F(OutdatedSnapshotsTest, AfterAStartAgesWaitForADay) {
  restart_with_an_old_one();
  look_for(kDay - hours(1));
  EXPECT_EQ(marks(), 0u);
  look_for(hours(1));
  EXPECT_EQ(marks(), 1u);
}

TEST_F(OutdatedSnapshotsTest, MarksOutliveARestart) {
  set({.keep_seconds = kWeekSeconds});
  push("a");
  look_for(7 * kDay);
  EXPECT_EQ(marks(), 1u);
  restart();
  look_for(kDay - hours(1));
  EXPECT_EQ(names(), Names{"a"});
  look_for(hours(1));
  EXPECT_EQ(names(), Names{});
}

TEST_F(OutdatedSnapshotsTest, MarksOfBeforeAStartWaitForADayWhateverTheClockSays) {
  push_all({"a", "b"});
  set({.keep_last = 1});
  EXPECT_EQ(retain().marked, 1u);
  clocks_.shift(300 * kDay);
  restart();
  EXPECT_EQ(retain().pending, 1u);
  clocks_.pass(kDay - hours(1));
  EXPECT_EQ(retain().deleted, 0u);
  clocks_.pass(hours(1));
  EXPECT_EQ(retain().deleted, 1u);
}

TEST_F(OutdatedSnapshotsTest, OperatorNeedNotWaitForTheClock) {
  restart_with_an_old_one();
  EXPECT_EQ(retain().marked, 0u);
  EXPECT_EQ(retain({.dry_run = true, .by_hand = true}).marked, 1u);
  EXPECT_EQ(marks(), 0u);
  EXPECT_EQ(retain({.by_hand = true}).marked, 1u);
  EXPECT_EQ(marks(), 1u);
}

TEST_F(OutdatedSnapshotsTest, CreatedTimesNeverGoBack) {
  look_for(kDay);
  push("a");
  clocks_.shift(-kYears);
  push("b");
  restart();
  push("c");
  clocks_.pass(hours(2));
  push("d");
  clocks_.shift(2 * kYears);
  push("e");
  clocks_.shift(-kYears);
  push("f");
  std::vector<Manifest> all = *all_manifests(*store_, name_space_);
  std::ranges::sort(all, {}, &Manifest::snapshot);
  EXPECT_TRUE(std::ranges::is_sorted(all, {}, &Manifest::created_unix_ms));
  EXPECT_LE(all.back().created_unix_ms, clocks_.wall_unix_ms());
}

TEST_F(OutdatedSnapshotsTest, OrderNeedsNoClockButADayToo) {
  push_all({"a", "b"});
  set({.keep_last = 1});
  restart();
  EXPECT_EQ(retain().marked, 1u);
  clocks_.shift(kYears);
  clocks_.pass(kDay - hours(1));
  EXPECT_EQ(retain().pending, 1u) << "the jump is not a day";
  clocks_.shift(-kYears);
  clocks_.pass(hours(1));
  EXPECT_EQ(retain().deleted, 1u);
  EXPECT_EQ(names(), Names{"b"});
}

TEST_F(OutdatedSnapshotsTest, TagInTheDayBetweenKeepsIt) {
  push_all({"a", "b", "c", "d", "e", "f", "g", "h", "i"});
  set({.keep_last = 7});
  EXPECT_EQ(retain().marked, 2u);
  clocks_.pass(hours(20));
  ASSERT_TRUE(succeeded(store_->move_tag(name_space_, {"to:keep", "a"})));
  EXPECT_EQ(marks(), 1u) << "the mark goes at once";
  look_for(2 * kDay);
  EXPECT_EQ(names(), (Names{"a", "c", "d", "e", "f", "g", "h", "i"}));
  ASSERT_TRUE(succeeded(store_->remove_tag(name_space_, "to:keep")));
  look_for(kDay);
  EXPECT_TRUE(names().contains("a")) << "its day begins anew";
  look_for(hours(1));
  EXPECT_FALSE(names().contains("a"));
}

TEST_F(OutdatedSnapshotsTest, OtherSettingsTakeTheMarksBack) {
  push_all({"a", "b", "c"});
  set({.keep_last = 1});
  EXPECT_EQ(retain().marked, 2u);
  clocks_.pass(hours(23));
  set({.keep_last = 2});
  EXPECT_EQ(marks(), 0u);
  EXPECT_EQ(retain().marked, 1u);
  clocks_.pass(hours(1));
  EXPECT_EQ(retain().deleted, 0u);
  set({});
  look_for(3 * kDay);
  EXPECT_EQ(names(), (Names{"a", "b", "c"}));
}

TEST_F(OutdatedSnapshotsTest, SnapshotThatIsAmongTheLastAgainLosesItsMark) {
  push_all({"a", "b"});
  set({.keep_last = 1});
  EXPECT_EQ(retain().marked, 1u);
  remove("b");
  retain();
  EXPECT_EQ(marks(), 0u);
  look_for(2 * kDay);
  EXPECT_EQ(names(), Names{"a"});
}

TEST_F(OutdatedSnapshotsTest, OneRunDeletesNoMoreThanAShare) {
  for (int i = 10; i < 22; ++i) push(std::to_string(i));
  set({.keep_last = 2});
  EXPECT_EQ(retain().marked, 10u);
  clocks_.pass(kDay);
  const RetentionReport report = retain();
  EXPECT_EQ(report.deleted, 3u) << "a quarter of 12";
  EXPECT_EQ(report.postponed, 7u);
  EXPECT_EQ(names().size(), 9u);
  EXPECT_EQ(*names().begin(), "13") << "the oldest go first";
  ASSERT_EQ(control_.warnings.size(), 1u);
  EXPECT_NE(control_.warnings[0].find("thaw retain --now"), std::string::npos);

  restart();
  look_for(kDay - hours(1));
  EXPECT_EQ(names().size(), 9u) << "the next share goes a day later";
  EXPECT_EQ(control_.warnings.size(), 1u) << "it is said once";
  look_for(hours(1));
  EXPECT_EQ(names().size(), 7u);
  EXPECT_EQ(retain({.by_hand = true}).pending, 5u) << "an operator's run, too";
  EXPECT_EQ(retain({.by_hand = true, .at_once = true}).deleted, 5u);
}

TEST_F(OutdatedSnapshotsTest, RunThatIsStoppedHasUsedItsShare) {
  for (int i = 10; i < 22; ++i) push(std::to_string(i));
  set({.keep_last = 2});
  retain();
  clocks_.pass(kDay);
  SteppedControl stopped;
  stopped.stop_at_pace = 1;
  RetentionReport report;
  EXPECT_EQ(code_of(retention_->run(name_space_, {}, stopped, report)), ErrorCode::kStopped);
  EXPECT_EQ(report.deleted, 2u);
  EXPECT_EQ(retain().deleted, 1u);
  EXPECT_EQ(retain().deleted, 0u);
}

TEST_F(OutdatedSnapshotsTest, ThoseInUseHaveNoPartOfTheShare) {
  push_all({"a", "b", "c", "d", "e", "f"});
  set({.keep_last = 2});
  ASSERT_TRUE(succeeded(pins_.pin(*store_, name_space_, show("a").snapshot)));
  retain();
  clocks_.pass(kDay);
  EXPECT_EQ(retain().deleted, 1u);
  EXPECT_EQ(names(), (Names{"a", "c", "d", "e", "f"}));
}

TEST_F(OutdatedSnapshotsTest, OperatorDeletesAllAtOnce) {
  push_all({"a", "b", "c", "d", "e"});
  set({.keep_last = 2});
  EXPECT_EQ(retain({.dry_run = true, .by_hand = true, .at_once = true}).deleted, 3u);
  EXPECT_EQ(names().size(), 5u);
  const RetentionReport report = retain({.by_hand = true, .at_once = true});
  EXPECT_EQ(report.deleted, 3u);
  EXPECT_GT(report.garbage_bytes, 0u);
  EXPECT_EQ(names(), (Names{"d", "e"}));
}

TEST_F(OutdatedSnapshotsTest, SnapshotInUseGoesLater) {
  push_all({"a", "b"});
  set({.keep_last = 1});
  const SnapshotId snapshot = show("a").snapshot;
  ASSERT_TRUE(succeeded(pins_.pin(*store_, name_space_, snapshot)));
  retain();
  clocks_.pass(kDay);
  EXPECT_EQ(retain().in_use, 1u);
  pins_.unpin(name_space_, snapshot);
  EXPECT_EQ(retain().deleted, 1u);
}

TEST_F(OutdatedSnapshotsTest, EachStepIsNoted) {
  push_all({"a", "b"});
  set({.keep_last = 1});
  retain({.dry_run = true});
  retain();
  clocks_.pass(hours(6));
  retain();
  clocks_.pass(hours(18));
  retain();
  EXPECT_EQ(control_.notes,
            (std::vector<std::string>{"would be marked: a, deleted in 24 hours",
                                      "marked as outdated: a, deleted in 24 hours",
                                      "outdated: a, deleted in 18.0 hours", "deleted: a"}));
}

}  // namespace
}  // namespace thaw::test
