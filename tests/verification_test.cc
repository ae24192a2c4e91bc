#include "pageserver/verification.h"

#include "pageserver/collection.h"
#include "pageserver/store_check.h"
#include "tests/support/programs.h"
#include "tests/support/raw_store.h"
#include "tests/support/stepped_control.h"
#include "tests/support/store_fixture.h"

namespace thaw::test {
namespace {

class VerificationTest : public StoreTest {
 protected:
  Result<VerificationReport> verify() {
    control_.findings.clear();
    return Verification(*store_, name_space_, control_).run();
  }
  /// Changes a chunk behind the store's back.
  void damage(ChunkId id) {
    change([&](RawStore& raw) { raw.damage("chunk", big_endian(id.value)); });
  }

  std::mt19937_64 generator_ = seeded_generator();
  SteppedControl control_;
};

TEST_F(VerificationTest, WholeStoreIsClean) {
  ASSERT_TRUE(succeeded(store("a", make_image(1, 3000), name_space_)));
  const auto report = verify();
  ASSERT_TRUE(succeeded(report));
  EXPECT_TRUE(report->clean());
  EXPECT_EQ(report->chunks, store_->totals(name_space_)->chunks);
  EXPECT_EQ(report->bytes, store_->totals(name_space_)->chunk_bytes);
  EXPECT_EQ(report->snapshots, 1u);
  EXPECT_EQ(report->unindexed, 0u);
}

TEST_F(VerificationTest, DamagedAndMissingChunksAreNamedAndHealed) {
  const Bytes image = random_bytes(generator_, 20 * kPageBytes);
  const Bytes half(image.begin(), image.begin() + 10 * kPageBytes);
  const Manifest whole = *store("whole", image, name_space_);
  ASSERT_TRUE(succeeded(store("half", half, name_space_)));
  ASSERT_TRUE(succeeded(store("other", make_image(7, 30), name_space_)));
  const PageMap map = map_of(whole, name_space_);
  const ChunkId in_both = map.chunk_of({3});
  const ChunkId in_one = map.chunk_of({15});
  damage(in_both);
  change([&](RawStore& raw) { raw.remove("chunk", big_endian(in_one.value)); });

  for (const int round : {1, 2}) {
    const auto report = verify();
    ASSERT_TRUE(succeeded(report)) << round;
    EXPECT_EQ(report->damaged, 2u);
    EXPECT_EQ(report->affected, 2u);
    ASSERT_EQ(control_.findings.size(), 2u);
    EXPECT_NE(control_.findings[0].find(fmt::format("{:#x}", in_both.value)), std::string::npos);
    EXPECT_NE(control_.findings[0].find("in whole, half"), std::string::npos)
        << control_.findings[0];
    EXPECT_NE(control_.findings[1].find("in whole"), std::string::npos) << control_.findings[1];
    EXPECT_EQ(store_->chunk_upkeep().quarantined(name_space_)->size(), 2u);
  }

  // Neither can be met by a push, which brings both again.
  const auto healing = store("healing", image, name_space_);
  ASSERT_TRUE(succeeded(healing));
  EXPECT_EQ(healing->statistics.new_pages, 2u);
  EXPECT_EQ(load(whole, name_space_), image);
  EXPECT_TRUE(store_->chunk_upkeep().quarantined(name_space_)->empty());
  EXPECT_TRUE(verify()->clean());
  EXPECT_EQ(store("again", image, name_space_)->statistics.new_pages, 0u);
}

/// A chunk that was condemned while a push stood on it, and has no hash any more.
TEST_F(VerificationTest, DamageIsFoundInWhatWasCondemned) {
  const Bytes image = random_bytes(generator_, 5 * kPageBytes);
  ASSERT_TRUE(succeeded(store("gone", image, name_space_)));
  remove("gone");
  Push push(*store_, name_space_, spec("a", image));
  SnapshotPins pins;
  LivePushes pushes;
  pushes.add(push);
  ASSERT_TRUE(succeeded(send(push, image)));
  EXPECT_EQ(Collection(*store_, name_space_, pins, pushes, control_).run()->dead_chunks, 0u);
  pushes.remove(push);
  const auto manifest = push.commit();
  ASSERT_TRUE(succeeded(manifest));
  EXPECT_TRUE(verify()->clean());

  damage(map_of(*manifest, name_space_).chunk_of({2}));
  const auto report = verify();
  ASSERT_TRUE(succeeded(report));
  EXPECT_EQ(report->damaged, 1u);
  EXPECT_EQ(report->affected, 1u);
  ASSERT_EQ(control_.findings.size(), 1u);
  EXPECT_NE(control_.findings[0].find("in a"), std::string::npos) << control_.findings[0];
}

TEST_F(VerificationTest, OfWhatIsReportedOnlyTheDamagedIsPutIntoQuarantine) {
  const Bytes image = random_bytes(generator_, 10 * kPageBytes);
  const Manifest manifest = *store("a", image, name_space_);
  const PageMap map = map_of(manifest, name_space_);
  damage(map.chunk_of({3}));
  damage(map.chunk_of({4}));
  const ChunkId never_stored = ChunkId::of(name_space_.value, 0, 1u << 30);
  const Verification::Suspects suspects{
      .chunks = {map.chunk_of({2}), map.chunk_of({3}), never_stored},
      .snapshots = {manifest.snapshot, {77}}};
  const auto report = Verification(*store_, name_space_, control_).run_on(suspects);
  ASSERT_TRUE(succeeded(report));
  EXPECT_EQ(report->chunks, 2u);
  EXPECT_EQ(report->damaged, 1u);
  EXPECT_EQ(report->snapshots, 1u);
  const auto quarantined = store_->chunk_upkeep().quarantined(name_space_);
  ASSERT_EQ(quarantined->size(), 1u);
  EXPECT_EQ(quarantined->front().chunk, map.chunk_of({3}));
  EXPECT_EQ(store("b", image, name_space_)->statistics.new_pages, 1u) << "which heals it";
  EXPECT_EQ(verify()->damaged, 1u) << "the one that nobody reported";
}

TEST_F(VerificationTest, DamagedPageMapThatIsReportedIsNamed) {
  const Manifest manifest = *store("a", make_image(1, 30), name_space_);
  change([&](RawStore& raw) {
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] == 'p') raw.put("snapshot", key, "nonsense");
    }
  });
  const auto report = Verification(*store_, name_space_, control_)
                          .run_on({.chunks = {}, .snapshots = {manifest.snapshot}});
  ASSERT_TRUE(succeeded(report));
  EXPECT_EQ(report->affected, 1u);
  EXPECT_EQ(control_.findings.size(), 1u);
}

/// Whatever becomes of a chunk, the totals are those of what is there.
TEST_F(VerificationTest, HealedChunksAreCountedOnce) {
  const Bytes image = random_bytes(generator_, 2 * kPageBytes);
  const Manifest manifest = *store("a", image, name_space_);
  const PageMap map = map_of(manifest, name_space_);
  change([&](RawStore& raw) {
    raw.remove("chunk", big_endian(map.chunk_of({0}).value));
    raw.put("chunk", big_endian(map.chunk_of({1}).value), "short");
  });
  ASSERT_TRUE(succeeded(check_store(*store_, true)));
  EXPECT_EQ(store_->totals(name_space_)->chunks, 1u);
  ASSERT_TRUE(succeeded(store("b", image, name_space_)));
  EXPECT_TRUE(check_store(*store_, false)->problems.empty());
  remove("a");
  remove("b");
  SnapshotPins pins;
  LivePushes pushes;
  ASSERT_TRUE(succeeded(Collection(*store_, name_space_, pins, pushes, control_).run()));
  EXPECT_EQ(store_->totals(name_space_)->chunks, 0u);
  EXPECT_EQ(store_->totals(name_space_)->chunk_bytes, 0u);
}

TEST_F(VerificationTest, DamagedSnapshotsAreNamed) {
  ASSERT_TRUE(succeeded(store("a", make_image(1, 30), name_space_)));
  change([&](RawStore& raw) {
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] == 'p') raw.put("snapshot", key, "nonsense");
    }
  });
  const auto report = verify();
  ASSERT_TRUE(succeeded(report));
  EXPECT_EQ(report->affected, 1u);
  ASSERT_EQ(control_.findings.size(), 1u);
  EXPECT_NE(control_.findings[0].find("snapshot 1"), std::string::npos) << control_.findings[0];
}

TEST_F(VerificationTest, LostHashesAreFoundAgain) {
  const Bytes image = random_bytes(generator_, 5 * kPageBytes);
  ASSERT_TRUE(succeeded(store("a", image, name_space_)));
  change([&](RawStore& raw) { raw.remove("hash", raw.keys("hash").front()); });
  EXPECT_EQ(verify()->unindexed, 1u);
  EXPECT_EQ(store("b", image, name_space_)->statistics.new_pages, 0u);
}

TEST_F(VerificationTest, SecondChunkOfAPageIsCollectedOneDay) {
  const Bytes image = random_bytes(generator_, 5 * kPageBytes);
  ASSERT_TRUE(succeeded(store("a", image, name_space_)));
  change([&](RawStore& raw) { raw.remove("hash", raw.keys("hash").front()); });
  EXPECT_EQ(store("b", image, name_space_)->statistics.new_pages, 1u);
  EXPECT_EQ(verify()->unindexed, 1u);
  remove("a");
  SnapshotPins pins;
  LivePushes pushes;
  EXPECT_EQ(Collection(*store_, name_space_, pins, pushes, control_).run()->dead_chunks, 1u);
}

TEST_F(VerificationTest, StoppedOneIsTakenUp) {
  const Bytes image = random_bytes(generator_, 3000 * kPageBytes);
  const Manifest manifest = *store("a", image, name_space_);
  const ChunkId bad = map_of(manifest, name_space_).chunk_of({10});
  damage(bad);
  control_.stop_at_pace = 0;
  EXPECT_EQ(code_of(verify()), ErrorCode::kStopped);
  control_.stop_at_pace = 2;  // the first two steps are not done again
  control_.paces = 0;
  const auto report = verify();
  ASSERT_TRUE(succeeded(report));
  EXPECT_LT(report->chunks, 3000u);
  ASSERT_EQ(control_.findings.size(), 1u) << "what the first part found is still there";
  EXPECT_EQ(report->affected, 1u);
}

}  // namespace
}  // namespace thaw::test
