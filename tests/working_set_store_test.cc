// Recordings, working sets and packs in the real RocksDB.

#include <algorithm>
#include <limits>

#include <gtest/gtest.h>

#include "format/recording.h"
#include "pageserver/limits.h"
#include "pageserver/quota.h"
#include "tests/support/programs.h"
#include "tests/support/raw_store.h"
#include "tests/support/store_fixture.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

class WorkingSetStoreTest : public StoreTest {
 protected:
  WorkingSetStore& sets() { return store_->working_sets(); }

  SnapshotId snapshot(const std::string& name) {
    PageMap map;
    map.append_zero({4});
    Manifest manifest;
    manifest.spec = spec(name, Bytes(4 * kPageBytes));
    return store_->publish(name_space_, manifest, map, {}).value().snapshot;
  }
  /// What a pack holds in these tests.
  static Bytes pack_of(const PackId& id) {
    return Bytes(100 * id.generation + id.number + 1, std::byte{0x77});
  }
  Result<void> put_packs(SnapshotId of, std::uint64_t generation, std::uint32_t count) {
    std::vector<Bytes> packs;
    for (std::uint32_t i = 0; i < count; ++i) packs.push_back(pack_of({of, generation, i}));
    return sets().put_packs(name_space_, {of, generation, 0}, packs);
  }
  /// What the store says it has is what it has.
  void expect_exact_totals() {
    EXPECT_EQ(*store_->totals(name_space_), *store_->chunk_upkeep().count(name_space_));
  }
  void TearDown() override { expect_exact_totals(); }
  std::uint64_t recorded_bytes() { return store_->totals(name_space_)->recorded_bytes(); }
  void set_quota(std::uint64_t bytes) {
    ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_bytes = bytes})));
  }
  static WorkingSet set_of(SnapshotId of, std::uint64_t generation, std::uint32_t packs) {
    WorkingSet set;
    set.snapshot = of;
    set.generation = generation;
    for (std::uint32_t i = 0; i < packs; ++i) {
      set.pages.push_back({.page = {i}});
      set.packs.push_back({1, static_cast<std::uint32_t>(pack_of({of, generation, i}).size())});
    }
    return set;
  }
  static NewRecording recording(std::uint64_t number, std::uint64_t oldest_kept) {
    return {.summary = {.number = number,
                        .created_unix_ms = 1'700'000'000'000 + number,
                        .pages = 10,
                        .set_pages = 8,
                        .set_hits = 7},
            .sealed = Bytes(50, static_cast<std::byte>(number)),
            .oldest_kept = oldest_kept};
  }
  /// A set whose generation is the number of its recording.
  Result<WorkingSet> publish(SnapshotId of, std::uint64_t number, std::uint32_t packs,
                             std::uint64_t oldest_kept = 0) {
    TRY(put_packs(of, number, packs));
    WorkingSet set = set_of(of, number, packs);
    TRY(sets().publish(name_space_, set, recording(number, oldest_kept)));
    return set;
  }
  bool has_pack(const PackId& id) {
    const auto read = sets().pack(name_space_, id);
    if (read) {
      EXPECT_TRUE(std::ranges::equal(read->pack, pack_of(id)));
    }
    return read.has_value();
  }
  std::vector<std::uint64_t> recordings(SnapshotId of) {
    std::vector<std::uint64_t> numbers;
    const WorkingSetState state = sets().state(name_space_, of).value();
    numbers.reserve(state.recordings.size());
    for (const auto& summary : state.recordings) numbers.push_back(summary.number);
    return numbers;
  }
  std::uint64_t pack_bytes() { return store_->totals(name_space_)->pack_bytes; }

  SnapshotId a_ = snapshot("a");
};

using Numbers = std::vector<std::uint64_t>;

TEST_F(WorkingSetStoreTest, NothingIsThereAtFirst) {
  EXPECT_EQ(sets().state(name_space_, a_).value(), WorkingSetState{});
  EXPECT_EQ(sets().counters(name_space_, a_).value(), message::PrefetchCounters{});
  EXPECT_EQ(code_of(sets().working_set(name_space_, a_)), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(sets().recording(name_space_, a_, 1)), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(sets().pack(name_space_, {a_, 1, 0})), ErrorCode::kNotFound);
  EXPECT_TRUE(succeeded(sets().drop(name_space_, a_)));
}

TEST_F(WorkingSetStoreTest, SetComesBackWithItsRecordingAfterReopening) {
  const WorkingSet set = publish(a_, 1, 3).value();
  reopen();
  EXPECT_EQ(decode_working_set(*sets().working_set(name_space_, a_)).value(), set);
  EXPECT_EQ(sets().recording(name_space_, a_, 1).value(), recording(1, 0).sealed);
  EXPECT_EQ(sets().state(name_space_, a_).value(),
            (WorkingSetState{
                .last_recording = 1, .recordings = {recording(1, 0).summary}, .generation = 1}));
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_TRUE(has_pack({a_, 1, i}));
  EXPECT_FALSE(has_pack({a_, 1, 3}));
  EXPECT_EQ(pack_bytes(), set.pack_bytes());
}

TEST_F(WorkingSetStoreTest, PacksOfTheSetBeforeStayAndOlderOnesGo) {
  std::vector<WorkingSet> published;
  for (std::uint64_t generation = 1; generation <= 4; ++generation) {
    published.push_back(publish(a_, generation, 3).value());
    EXPECT_TRUE(has_pack({a_, generation, 2}));
    EXPECT_EQ(has_pack({a_, generation - 1, 2}), generation > 1);
    EXPECT_FALSE(generation > 1 && has_pack({a_, generation - 2, 2}));
  }
  EXPECT_EQ(pack_bytes(), published[2].pack_bytes() + published[3].pack_bytes());
}

TEST_F(WorkingSetStoreTest, PacksWhoseSetNeverCameGoWithTheNext) {
  ASSERT_TRUE(succeeded(publish(a_, 2, 2)));
  ASSERT_TRUE(succeeded(put_packs(a_, 5, 9)));
  const WorkingSet set = publish(a_, 5, 1).value();
  EXPECT_TRUE(has_pack({a_, 5, 0}));
  EXPECT_FALSE(has_pack({a_, 5, 1})) << "left over from the first try";
  ASSERT_TRUE(succeeded(put_packs(a_, 6, 2)));
  ASSERT_TRUE(succeeded(publish(a_, 9, 1)));
  EXPECT_FALSE(has_pack({a_, 6, 0}));
  EXPECT_TRUE(has_pack({a_, 5, 0}));
  EXPECT_EQ(pack_bytes(), set.pack_bytes() + set_of(a_, 9, 1).pack_bytes());
}

TEST_F(WorkingSetStoreTest, OlderRecordingsAreDeleted) {
  for (std::uint64_t number = 1; number <= 4; ++number) {
    ASSERT_TRUE(succeeded(publish(a_, number, 1, number < 3 ? 0 : number - 1)));
  }
  EXPECT_EQ(recordings(a_), (Numbers{3, 4}));
  EXPECT_EQ(code_of(sets().recording(name_space_, a_, 2)), ErrorCode::kNotFound);
  EXPECT_TRUE(succeeded(sets().recording(name_space_, a_, 3)));
}

TEST_F(WorkingSetStoreTest, NumbersAreNotUsedAgainAfterADrop) {
  ASSERT_TRUE(succeeded(publish(a_, 7, 2)));
  ASSERT_TRUE(succeeded(sets().add(name_space_, a_, {.sessions = 1})));
  ASSERT_TRUE(succeeded(sets().drop(name_space_, a_)));
  EXPECT_EQ(sets().state(name_space_, a_).value(),
            (WorkingSetState{.last_recording = 7, .recordings = {}, .generation = {}}));
  EXPECT_EQ(code_of(sets().working_set(name_space_, a_)), ErrorCode::kNotFound);
  EXPECT_EQ(sets().counters(name_space_, a_).value(), message::PrefetchCounters{});
  EXPECT_FALSE(has_pack({a_, 7, 0}));
  EXPECT_EQ(pack_bytes(), 0u);
}

TEST_F(WorkingSetStoreTest, WithdrawnSetLeavesItsRecordings) {
  const SnapshotId b = snapshot("b");
  ASSERT_TRUE(succeeded(publish(b, 1, 2)));
  for (std::uint64_t number = 1; number <= 3; ++number) {
    ASSERT_TRUE(succeeded(publish(a_, number, 2)));
  }
  ASSERT_TRUE(succeeded(sets().add(name_space_, a_, {.sessions = 1})));
  ASSERT_TRUE(succeeded(sets().withdraw(name_space_, a_)));
  reopen();
  EXPECT_EQ(code_of(sets().working_set(name_space_, a_)), ErrorCode::kNotFound);
  for (const std::uint64_t generation : {2, 3}) EXPECT_FALSE(has_pack({a_, generation, 0}));
  const WorkingSetState state = sets().state(name_space_, a_).value();
  EXPECT_EQ(state.generation, std::nullopt);
  EXPECT_EQ(state.last_recording, 3u);
  EXPECT_EQ(recordings(a_), (Numbers{1, 2, 3}));
  EXPECT_EQ(sets().counters(name_space_, a_)->sessions, 1u);
  EXPECT_TRUE(has_pack({b, 1, 1})) << "another snapshot's";
  EXPECT_EQ(pack_bytes(), set_of(b, 1, 2).pack_bytes());
  ASSERT_TRUE(succeeded(put_packs(a_, 3, 2)));
  ASSERT_TRUE(succeeded(sets().publish(name_space_, set_of(a_, 3, 2), std::nullopt)));
  EXPECT_TRUE(has_pack({a_, 3, 1}));
  EXPECT_EQ(pack_bytes(), set_of(b, 1, 2).pack_bytes() + set_of(a_, 3, 2).pack_bytes());
}

TEST_F(WorkingSetStoreTest, InheritedSetHasNoRecording) {
  ASSERT_TRUE(succeeded(put_packs(a_, 0, 2)));
  ASSERT_TRUE(succeeded(sets().publish(name_space_, set_of(a_, 0, 2), std::nullopt)));
  EXPECT_EQ(sets().state(name_space_, a_)->generation, 0u);
  EXPECT_TRUE(has_pack({a_, 0, 1}));
  ASSERT_TRUE(succeeded(publish(a_, 1, 1)));
  EXPECT_TRUE(has_pack({a_, 0, 1})) << "of the set before";
  ASSERT_TRUE(succeeded(publish(a_, 2, 1)));
  EXPECT_FALSE(has_pack({a_, 0, 0}));
}

TEST_F(WorkingSetStoreTest, CountersAreSummedAndDoNotWrap) {
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  ASSERT_TRUE(succeeded(sets().add(name_space_, a_, {1, 2, 3, 4, 5, 6})));
  ASSERT_TRUE(succeeded(sets().add(name_space_, a_, {1, 10, 100, 1000, 10'000, kMost - 5})));
  const message::PrefetchCounters sum{2, 12, 103, 1004, 10'005, kMost};
  EXPECT_EQ(sets().counters(name_space_, a_).value(), sum);
  reopen();
  EXPECT_EQ(sets().counters(name_space_, a_).value(), sum);
}

TEST_F(WorkingSetStoreTest, EverythingGoesWithTheSnapshotAndNothingElseDoes) {
  const SnapshotId b = snapshot("b");
  const SnapshotId c = snapshot("c");
  for (const SnapshotId each : {a_, b, c}) {
    ASSERT_TRUE(succeeded(publish(each, 1, 2)));
    ASSERT_TRUE(succeeded(sets().add(name_space_, each, {.sessions = 1})));
  }
  remove("b");
  EXPECT_EQ(sets().state(name_space_, b).value(), WorkingSetState{});
  EXPECT_EQ(sets().counters(name_space_, b).value(), message::PrefetchCounters{});
  EXPECT_EQ(code_of(sets().working_set(name_space_, b)), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(sets().recording(name_space_, b, 1)), ErrorCode::kNotFound);
  EXPECT_FALSE(has_pack({b, 1, 0}));
  for (const SnapshotId each : {a_, c}) {
    EXPECT_TRUE(succeeded(sets().working_set(name_space_, each)));
    EXPECT_EQ(recordings(each), Numbers{1});
    EXPECT_EQ(sets().counters(name_space_, each)->sessions, 1u);
    EXPECT_TRUE(has_pack({each, 1, 1}));
  }
  EXPECT_EQ(pack_bytes(), 2 * set_of(a_, 1, 2).pack_bytes());
  EXPECT_TRUE(succeeded(store_->manifest(name_space_, "c")));
  const NamespaceId other = *store_->open_namespace("other");
  EXPECT_EQ(code_of(sets().working_set(other, a_)), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(sets().pack(other, {a_, 1, 0})), ErrorCode::kNotFound);
}

TEST_F(WorkingSetStoreTest, FullDiskTakesNothingAndGivesBack) {
  ASSERT_TRUE(succeeded(publish(a_, 1, 2)));
  store_.reset();
  store_ = open_rocks_store(directory_.path("store"), {std::uint64_t{1} << 60}).value();
  EXPECT_EQ(code_of(put_packs(a_, 2, 1)), ErrorCode::kNoSpace);
  EXPECT_EQ(code_of(sets().publish(name_space_, set_of(a_, 2, 0), recording(2, 0))),
            ErrorCode::kNoSpace);
  EXPECT_EQ(code_of(sets().add(name_space_, a_, {.sessions = 1})), ErrorCode::kNoSpace);
  EXPECT_TRUE(has_pack({a_, 1, 1})) << "what was there stays";
  EXPECT_EQ(recordings(a_), Numbers{1});
  EXPECT_TRUE(succeeded(sets().drop(name_space_, a_)));
  EXPECT_FALSE(has_pack({a_, 1, 1}));
}

TEST_F(WorkingSetStoreTest, PacksWhoseSetWasNotPublishedAreCountedAndDiscarded) {
  const WorkingSet set = publish(a_, 1, 2).value();
  ASSERT_TRUE(succeeded(put_packs(a_, 2, 3)));
  EXPECT_GT(pack_bytes(), set.pack_bytes());
  expect_exact_totals();
  ASSERT_TRUE(succeeded(sets().discard_packs(name_space_, a_)));
  EXPECT_FALSE(has_pack({a_, 2, 0}));
  EXPECT_TRUE(has_pack({a_, 1, 1}));
  EXPECT_EQ(pack_bytes(), set.pack_bytes());

  ASSERT_TRUE(succeeded(put_packs(a_, 2, 3)));
  reopen();
  EXPECT_EQ(pack_bytes(), set.pack_bytes()) << "the process before did not come to publish them";
}

TEST_F(WorkingSetStoreTest, SetIsRefusedWhosePacksAreNotAllThere) {
  ASSERT_TRUE(succeeded(put_packs(a_, 1, 2)));
  EXPECT_EQ(code_of(sets().publish(name_space_, set_of(a_, 1, 3), recording(1, 0))),
            ErrorCode::kBusy);
  ASSERT_TRUE(succeeded(sets().withdraw(name_space_, a_)));
  EXPECT_EQ(code_of(sets().publish(name_space_, set_of(a_, 1, 2), recording(1, 0))),
            ErrorCode::kBusy);
  EXPECT_EQ(sets().state(name_space_, a_).value(), WorkingSetState{});
}

TEST_F(WorkingSetStoreTest, PacksGiveWayToPushes) {
  ASSERT_TRUE(succeeded(publish(a_, 90, 2)));
  ASSERT_GT(recorded_bytes(), 4 * kPageBytes);
  const std::uint64_t pushed = store_->totals(name_space_)->pushed_bytes();
  set_quota(pushed + 2 * kPageBytes);
  EXPECT_TRUE(succeeded(store("one-page", image_of("x"), name_space_)));
  EXPECT_EQ(recorded_bytes(), 19u) << "the last number of a recording stays";
  EXPECT_EQ(code_of(sets().working_set(name_space_, a_)), ErrorCode::kNotFound);
  EXPECT_FALSE(has_pack({a_, 90, 0}));
  EXPECT_EQ(code_of(store("two-more", image_of("yz"), name_space_)), ErrorCode::kQuotaExceeded);
  ASSERT_LE(store_->totals(name_space_)->bytes(), pushed + 2 * kPageBytes);
}

TEST_F(WorkingSetStoreTest, RefusedPushTakesNoSet) {
  ASSERT_TRUE(succeeded(publish(a_, 3, 2)));
  set_quota(store_->totals(name_space_)->pushed_bytes() + kPageBytes);
  EXPECT_EQ(code_of(store("three-pages", image_of("xyz"), name_space_)), ErrorCode::kQuotaExceeded);
  EXPECT_TRUE(has_pack({a_, 3, 1}));
}

TEST_F(WorkingSetStoreTest, SetsOfOlderSnapshotsGiveWayToNewOnesAndNotTheOtherWayRound) {
  const SnapshotId b = snapshot("b");
  const SnapshotId c = snapshot("c");
  ASSERT_TRUE(succeeded(publish(a_, 90, 2)));
  const std::uint64_t one = recorded_bytes();
  // Room for two sets, and for what names them.
  set_quota(limits::kWorkingSetPart * (2 * one + 400));
  ASSERT_TRUE(succeeded(publish(b, 90, 2)));
  EXPECT_TRUE(has_pack({a_, 90, 1}));
  ASSERT_TRUE(succeeded(publish(c, 90, 2)));
  EXPECT_FALSE(has_pack({a_, 90, 1}));
  EXPECT_TRUE(has_pack({b, 90, 1}));
  expect_exact_totals();
  EXPECT_EQ(code_of(publish(a_, 91, 2)), ErrorCode::kQuotaExceeded);
  ASSERT_TRUE(succeeded(sets().discard_packs(name_space_, a_)));
  EXPECT_TRUE(has_pack({b, 90, 1}) && has_pack({c, 90, 1}));
  remove("b");
  EXPECT_TRUE(succeeded(publish(a_, 92, 2))) << "what was deleted is given back";
}

TEST_F(WorkingSetStoreTest, RecordingsCountAsPacksDo) {
  ASSERT_TRUE(succeeded(publish(a_, 1, 1)));
  set_quota(limits::kWorkingSetPart * recorded_bytes());
  NewRecording large = recording(2, 0);
  large.sealed.resize(100'000);
  EXPECT_EQ(code_of(sets().publish(name_space_, set_of(a_, 2, 0), large)),
            ErrorCode::kQuotaExceeded);
  EXPECT_EQ(recordings(a_), Numbers{1});
}

TEST_F(WorkingSetStoreTest, ShareWithoutAQuotaGrowsWithWhatPushesStore) {
  constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
  EXPECT_EQ(working_set_share(0, 0), limits::kLeastWorkingSetShare);
  EXPECT_EQ(working_set_share(0, 7 * kGiB), 7 * kGiB);
  EXPECT_EQ(working_set_share(8 * kGiB, 0), 2 * kGiB);
  EXPECT_EQ(working_set_share(8 * kGiB, 7 * kGiB), kGiB) << "what pushes leave";
  EXPECT_EQ(working_set_share(8 * kGiB, 9 * kGiB), 0u) << "the quota was lowered";
}

TEST_F(WorkingSetStoreTest, StoreThatCountedLessIsCountedOnce) {
  ASSERT_TRUE(succeeded(store("image", make_image(1, 50), name_space_)));
  ASSERT_TRUE(succeeded(publish(a_, 1, 2)));
  const NamespaceTotals before = *store_->totals(name_space_);
  EXPECT_GT(before.document_bytes, 0u);
  change([&](RawStore& raw) {
    raw.put("meta", "version", big_endian(3));
    const std::string in = big_endian(name_space_.value).substr(6);
    for (const char* kind : {"d", "r"}) raw.remove("meta", kind + in);
  });
  EXPECT_EQ(*store_->totals(name_space_), before);
}

TEST_F(WorkingSetStoreTest, StoreOfVersionOneIsTakenOver) {
  const Bytes image = make_image(1, 50);
  const Manifest manifest = store("image", image, name_space_).value();
  // As the version without packs left it.
  change([](RawStore& raw) {
    raw.put("meta", "version", big_endian(1));
    raw.drop_family("pack");
  });
  EXPECT_EQ(load(manifest, name_space_), image);
  ASSERT_TRUE(succeeded(publish(manifest.snapshot, 1, 2)));
  reopen();
  EXPECT_TRUE(has_pack({manifest.snapshot, 1, 1}));
}

}  // namespace
}  // namespace thaw::test
