// Damaged packs and working sets in the real RocksDB.

#include "pageserver/pack_check.h"

#include "pageserver/store_check.h"
#include "pageserver/verification.h"
#include "pageserver/working_sets.h"
#include "tests/support/finished_build.h"
#include "tests/support/programs.h"
#include "tests/support/raw_store.h"
#include "tests/support/stepped_control.h"
#include "tests/support/store_fixture.h"

namespace thaw::test {
namespace {

class PackCheckTest : public StoreTest {
 protected:
  WorkingSetStore& sets() { return store_->working_sets(); }
  /// Takes in a recording that touches the pages [first, 200).
  Result<WorkingSet> record(const Manifest& manifest, std::uint64_t first) {
    Recording recording{
        .content_hash = manifest.content_hash, .created_unix_ms = 5, .regions = {}, .touches = {}};
    for (std::uint64_t page = first; page < 200; ++page) recording.touches.push_back({{page}, 0});
    return finish(WorkingSetBuild::of_recording(*store_, name_space_, manifest.snapshot,
                                                encode_recording(recording), 8));
  }
  /// What whoever asks for a set gets when there is none.
  Result<WorkingSet> make_again(const Manifest& manifest) {
    return finish(WorkingSetBuild::of_what_is_there(*store_, name_space_, manifest.snapshot));
  }
  static Result<WorkingSet> finish(Result<WorkingSetBuild> begun) {
    WorkingSetBuild build = TRY(std::move(begun));
    TRY(build.prepare());
    return decode_working_set(TRY(finish_build(build)));
  }
  /// The sealed set that is there; nothing: none is.
  std::optional<Bytes> set_of(const Manifest& manifest) {
    return if_found(sets().working_set(name_space_, manifest.snapshot)).value();
  }
  bool has_pack(std::uint64_t generation, std::uint32_t number) {
    return sets().pack(name_space_, {manifest_.snapshot, generation, number}).has_value();
  }

  std::string key_of(const PackId& id) const {
    return big_endian(name_space_.value).substr(6) + big_endian(id.snapshot.value) +
           big_endian(id.generation) + big_endian(id.number).substr(4);
  }
  void damage(const PackId& id) {
    change([&](RawStore& raw) { raw.damage("pack", key_of(id)); });
  }
  void damage_sets() {
    change([](RawStore& raw) {
      for (const std::string& key : raw.keys("snapshot")) {
        if (key[0] == 'w') raw.put("snapshot", key, "nonsense");
      }
    });
  }

  Result<VerificationReport> verify() {
    control_.findings.clear();
    return Verification(*store_, name_space_, control_).run();
  }
  Result<VerificationReport> look_at(std::set<PackId> packs) {
    control_.findings.clear();
    return Verification(*store_, name_space_, control_)
        .run_on({.chunks = {}, .snapshots = {}, .packs = std::move(packs)});
  }

  const Bytes image_ = make_image(1, 200);
  const Manifest manifest_ = *store("a", image_, name_space_);
  const Manifest other_ = *store("other", image_, name_space_);
  const WorkingSet set_ = *record(manifest_, 0);
  const WorkingSet other_set_ = *record(other_, 50);
  const PackId second_{manifest_.snapshot, 1, 1};
  SteppedControl control_;
};

TEST_F(PackCheckTest, WholePacksAreReadAndStay) {
  const auto report = verify();
  ASSERT_TRUE(succeeded(report));
  EXPECT_TRUE(report->clean());
  EXPECT_GE(set_.packs.size(), 3u);
  EXPECT_EQ(report->packs, set_.packs.size() + other_set_.packs.size());
  EXPECT_EQ(report->bytes, store_->totals(name_space_)->chunk_bytes);
  EXPECT_EQ(set_of(manifest_), encode_working_set(set_));
}

TEST_F(PackCheckTest, SetOfADamagedPackIsNamedAndMadeAgain) {
  damage(second_);
  const auto report = verify();
  ASSERT_TRUE(succeeded(report));
  EXPECT_FALSE(report->clean());
  EXPECT_EQ(report->damaged_sets, 1u);
  EXPECT_EQ(report->damaged, 0u);
  EXPECT_EQ(report->affected, 0u);
  ASSERT_EQ(control_.findings.size(), 1u);
  EXPECT_NE(control_.findings[0].find("the working set of a, pack 1: "), std::string::npos)
      << control_.findings[0];
  EXPECT_EQ(set_of(manifest_), std::nullopt);
  EXPECT_FALSE(has_pack(1, 0)) << "none of its packs is served any more";
  EXPECT_FALSE(has_pack(1, 1));
  EXPECT_EQ(set_of(other_), encode_working_set(other_set_));

  EXPECT_EQ(make_again(manifest_).value(), set_);
  EXPECT_TRUE(verify()->clean());
}

TEST_F(PackCheckTest, MissingPackIsFoundToo) {
  change([&](RawStore& raw) { raw.remove("pack", key_of(second_)); });
  EXPECT_EQ(verify()->damaged_sets, 1u);
  EXPECT_EQ(make_again(manifest_).value(), set_);
  EXPECT_TRUE(verify()->clean());
}

TEST_F(PackCheckTest, DamagedSetIsFoundAndStandsInNoRecordingsWay) {
  damage_sets();
  EXPECT_FALSE(record(manifest_, 10)) << "it is to be judged by the set";
  EXPECT_EQ(verify()->damaged_sets, 2u);
  ASSERT_EQ(control_.findings.size(), 2u);
  EXPECT_NE(control_.findings[0].find("the working set of a: "), std::string::npos)
      << control_.findings[0];
  EXPECT_EQ(record(manifest_, 10)->recordings, 2u);
  EXPECT_EQ(make_again(other_).value(), other_set_);
  EXPECT_TRUE(verify()->clean());
}

TEST_F(PackCheckTest, SetOfAPackInWhichAChunkIsDamagedTooWaitsForThatToBeHealed) {
  const auto pages = packed_pages(set_, map_of(manifest_, name_space_), {200}).value()[1];
  const ChunkId chunk = pages.front().chunk;
  damage(second_);
  change([&](RawStore& raw) { raw.put("chunk", big_endian(chunk.value), "short"); });
  const auto report = verify();
  EXPECT_EQ(report->damaged, 1u);
  EXPECT_EQ(report->damaged_sets, 1u);
  EXPECT_EQ(code_of(make_again(manifest_)), ErrorCode::kCorrupt);
  ASSERT_TRUE(succeeded(store("healing", image_, name_space_)));
  EXPECT_EQ(make_again(manifest_).value(), set_);
  EXPECT_TRUE(verify()->clean());
}

TEST_F(PackCheckTest, OfWhatIsReportedOnlyTheDamagedIsWithdrawn) {
  damage(second_);
  const PackId whole{manifest_.snapshot, 1, 0};
  const auto nothing = look_at({whole,
                                {manifest_.snapshot, 1, 1000},
                                {manifest_.snapshot, 2, 1},
                                {manifest_.snapshot, 0, 1},
                                {{77}, 1, 1},
                                {other_.snapshot, 1, 1}});
  ASSERT_TRUE(succeeded(nothing));
  EXPECT_EQ(nothing->packs, 2u);
  EXPECT_TRUE(nothing->clean());
  EXPECT_TRUE(control_.findings.empty());
  EXPECT_EQ(set_of(manifest_), encode_working_set(set_));

  const auto report = look_at({whole, second_, {other_.snapshot, 1, 1}});
  ASSERT_TRUE(succeeded(report));
  EXPECT_EQ(report->damaged_sets, 1u);
  EXPECT_EQ(control_.findings.size(), 1u);
  EXPECT_EQ(set_of(manifest_), std::nullopt);
  EXPECT_EQ(set_of(other_), encode_working_set(other_set_));
}

TEST_F(PackCheckTest, DamagedSetOfAReportedSnapshotIsWithdrawn) {
  damage_sets();
  const auto report = Verification(*store_, name_space_, control_)
                          .run_on({.chunks = {}, .snapshots = {manifest_.snapshot}});
  EXPECT_EQ(report->damaged_sets, 1u);
  EXPECT_EQ(set_of(manifest_), std::nullopt);
  EXPECT_NE(set_of(other_), std::nullopt);
}

TEST_F(PackCheckTest, SetThatCameInBetweenStays) {
  damage(second_);
  std::optional<WorkingSet> newer;
  control_.before_write = [&](int) { newer = record(manifest_, 20).value(); };
  ASSERT_TRUE(succeeded(look_at({second_})));
  EXPECT_EQ(set_of(manifest_), encode_working_set(*newer));
  EXPECT_TRUE(verify()->clean());
}

TEST_F(PackCheckTest, NothingIsLeftOfASnapshotThatIsDeletedInBetween) {
  damage(second_);
  control_.before_write = [&](int) { remove("a"); };
  ASSERT_TRUE(succeeded(look_at({second_})));
  EXPECT_EQ(sets().state(name_space_, manifest_.snapshot).value(), WorkingSetState{});
  EXPECT_TRUE(store_->strays(name_space_)->empty());
}

TEST_F(PackCheckTest, CheckOfTheStoreNamesItAndRepairsIt) {
  damage(second_);
  EXPECT_EQ(check_store(*store_, false)->problems.size(), 1u);
  EXPECT_NE(set_of(manifest_), std::nullopt);
  EXPECT_EQ(check_store(*store_, true)->problems.size(), 1u);
  EXPECT_EQ(set_of(manifest_), std::nullopt);
  EXPECT_TRUE(check_store(*store_, false)->problems.empty());
}

TEST_F(PackCheckTest, ScrubThatIsStoppedAmongThePacksDoesNotReadTheChunksAgain) {
  control_.stop_at_pace = 2;  // the chunks are one step
  EXPECT_EQ(code_of(verify()), ErrorCode::kStopped);
  damage(second_);
  const auto report = verify();
  ASSERT_TRUE(succeeded(report));
  EXPECT_EQ(report->chunks, 0u);
  EXPECT_EQ(report->damaged_sets, 1u);
}

}  // namespace
}  // namespace thaw::test
