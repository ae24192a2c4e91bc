// Working sets made on the real RocksDB, with the store changing in between.

#include <algorithm>
#include <array>

#include <gtest/gtest.h>

#include "format/pack.h"
#include "pageserver/limits.h"
#include "pageserver/rank.h"
#include "pageserver/verification.h"
#include "pageserver/working_sets.h"
#include "tests/support/finished_build.h"
#include "tests/support/programs.h"
#include "tests/support/raw_store.h"
#include "tests/support/stepped_control.h"
#include "tests/support/store_fixture.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

class WorkingSetBuildTest : public StoreTest {
 protected:
  WorkingSetStore& sets() { return store_->working_sets(); }

  /// Touches of the pages [first, end), in order, a millisecond apart.
  static Recording touching(const Manifest& manifest, std::uint64_t first, std::uint64_t end) {
    Recording recording{
        .content_hash = manifest.content_hash, .created_unix_ms = 5, .regions = {}, .touches = {}};
    for (std::uint64_t page = first; page < end; ++page) {
      recording.touches.push_back(
          {.page = {page}, .us = static_cast<std::uint32_t>(1000 * (page - first))});
    }
    return recording;
  }
  Result<WorkingSetBuild> begin(const Manifest& manifest, const Recording& recording,
                                std::size_t kept = 8) {
    return WorkingSetBuild::of_recording(*store_, name_space_, manifest.snapshot,
                                         encode_recording(recording), kept);
  }
  Result<WorkingSet> put(const Manifest& manifest, const Recording& recording,
                         std::size_t kept = 8) {
    WorkingSetBuild build = TRY(begin(manifest, recording, kept));
    TRY(build.prepare());
    const Bytes sealed = TRY(finish_build(build));
    return decode_working_set(sealed);
  }
  /// What whoever asks for the set gets when there is none.
  Result<WorkingSet> make_set(const Manifest& manifest) {
    WorkingSetBuild build =
        TRY(WorkingSetBuild::of_what_is_there(*store_, name_space_, manifest.snapshot));
    TRY(build.prepare());
    const Bytes sealed = TRY(finish_build(build));
    return decode_working_set(sealed);
  }
  WorkingSet stored_set(const Manifest& manifest) {
    return decode_working_set(*sets().working_set(name_space_, manifest.snapshot)).value();
  }
  /// Every page that its packs hold is the image's.
  void expect_packs_hold(const WorkingSet& set, const Manifest& manifest, const Bytes& image) {
    const auto packs =
        packed_pages(set, map_of(manifest, name_space_), manifest.spec.memory_pages());
    ASSERT_TRUE(succeeded(packs));
    for (std::uint32_t i = 0; i < packs->size(); ++i) {
      const auto read = sets().pack(name_space_, {set.snapshot, set.generation, i});
      ASSERT_TRUE(succeeded(read)) << i;
      Bytes plain(bytes_of({(*packs)[i].size()}).value);
      ASSERT_TRUE(succeeded(PackCodec().decode(read->pack, (*packs)[i], plain)));
      for (std::size_t k = 0; k < (*packs)[i].size(); ++k) {
        ASSERT_TRUE(std::ranges::equal(page(plain, k), page(image, (*packs)[i][k].page.value)));
      }
    }
  }

  const Bytes image_ = make_image(1, 200);
  const Manifest manifest_ = *store("a", image_, name_space_);
};

TEST_F(WorkingSetBuildTest, SameRecordingsMakeTheSameSet) {
  const Manifest twin = *store("twin", image_, name_space_);
  const Recording first = touching(manifest_, 0, 150);
  const Recording second = touching(manifest_, 50, 200);
  ASSERT_TRUE(succeeded(put(manifest_, first)));
  ASSERT_TRUE(succeeded(put(twin, second)));
  WorkingSet one = put(manifest_, second).value();
  WorkingSet other = put(twin, first).value();
  EXPECT_EQ(one.pages, rank(std::array{first, second}));
  other.snapshot = one.snapshot;
  EXPECT_EQ(one, other);
  for (std::uint32_t i = 0; i < one.packs.size(); ++i) {
    const PackRead a = *sets().pack(name_space_, {manifest_.snapshot, 2, i});
    const PackRead b = *sets().pack(name_space_, {twin.snapshot, 2, i});
    EXPECT_TRUE(std::ranges::equal(a.pack, b.pack)) << i;
  }
}

TEST_F(WorkingSetBuildTest, RecordingThatCameInBetweenIsRankedToo) {
  const Recording first = touching(manifest_, 0, 100);
  const Recording second = touching(manifest_, 20, 120);
  WorkingSetBuild slow = begin(manifest_, first).value();
  ASSERT_TRUE(succeeded(slow.prepare()));
  ASSERT_TRUE(succeeded(put(manifest_, second)));
  const WorkingSet set = decode_working_set(*finish_build(slow)).value();
  EXPECT_EQ(set.generation, 2u);
  EXPECT_EQ(set.pages, rank(std::array{first, second}));
  EXPECT_EQ(stored_set(manifest_), set);
  expect_packs_hold(set, manifest_, image_);
  const auto state = sets().state(name_space_, manifest_.snapshot).value();
  ASSERT_EQ(state.recordings.size(), 2u);
  EXPECT_EQ(state.recordings[1].set_pages, 100u) << "judged by the set that was there by then";
  EXPECT_EQ(state.recordings[1].set_hits, 80u);
}

TEST_F(WorkingSetBuildTest, DropInBetweenLeavesTheNewRecordingAlone) {
  ASSERT_TRUE(succeeded(put(manifest_, touching(manifest_, 0, 100))));
  const Recording second = touching(manifest_, 20, 120);
  WorkingSetBuild slow = begin(manifest_, second).value();
  ASSERT_TRUE(succeeded(slow.prepare()));
  ASSERT_TRUE(succeeded(sets().drop(name_space_, manifest_.snapshot)));
  const WorkingSet set = decode_working_set(*finish_build(slow)).value();
  EXPECT_EQ(set.generation, 2u) << "numbers are not used again";
  EXPECT_EQ(set.recordings, 1u);
  EXPECT_EQ(set.pages, rank(std::array{second}));
  expect_packs_hold(set, manifest_, image_);
}

TEST_F(WorkingSetBuildTest, SnapshotDeletedInBetweenIsNotFound) {
  WorkingSetBuild slow = begin(manifest_, touching(manifest_, 0, 100)).value();
  ASSERT_TRUE(succeeded(slow.prepare()));
  remove("a");
  EXPECT_EQ(code_of(finish_build(slow)), ErrorCode::kNotFound);
  EXPECT_EQ(sets().state(name_space_, manifest_.snapshot).value(), WorkingSetState{});
}

TEST_F(WorkingSetBuildTest, LastRecordingsAreKeptAndRanked) {
  std::vector<Recording> recordings;
  for (std::uint64_t i = 0; i < 5; ++i) {
    recordings.push_back(touching(manifest_, 10 * i, 10 * i + 50));
    const WorkingSet set = put(manifest_, recordings.back(), 3).value();
    if (recordings.size() > 3) recordings.erase(recordings.begin());
    EXPECT_EQ(set.recordings, recordings.size());
    EXPECT_EQ(set.pages, rank(recordings));
  }
  EXPECT_EQ(sets().state(name_space_, manifest_.snapshot)->recordings.size(), 3u);
  const WorkingSet alone = put(manifest_, touching(manifest_, 1, 9), 1).value();
  EXPECT_EQ(alone.recordings, 1u);
  EXPECT_EQ(sets().state(name_space_, manifest_.snapshot)->recordings.size(), 1u);
}

TEST_F(WorkingSetBuildTest, DamagedRecordingIsLeftOutAndGoes) {
  const Bytes image = make_image(1, 100);
  const Manifest manifest = *store("mine", image, name_space_);
  for (const std::uint64_t first : {0, 10, 20}) {
    ASSERT_TRUE(succeeded(put(manifest, touching(manifest, first, first + 5))));
  }
  // The first and the second; of the second nothing but its summary is left.
  change([](RawStore& raw) {
    int found = 0;
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] != 'r') continue;
      if (found == 0) raw.damage("snapshot", key);
      if (found++ == 1) raw.remove("snapshot", key);
    }
  });
  const auto set = put(manifest, touching(manifest, 30, 35));
  ASSERT_TRUE(succeeded(set));
  EXPECT_EQ(set->recordings, 2u);
  const WorkingSetState state = *sets().state(name_space_, manifest.snapshot);
  ASSERT_EQ(state.recordings.size(), 2u);
  EXPECT_EQ(state.recordings[0].number, 3u);
  EXPECT_EQ(state.recordings[1].number, 4u);
}

TEST_F(WorkingSetBuildTest, WithoutAReadableRecordingTheSetIsInherited) {
  const Bytes image = make_image(1, 100);
  const Manifest parent = *store("their-parent", image, name_space_);
  ASSERT_TRUE(succeeded(put(parent, touching(parent, 0, 5))));
  const Manifest child = *store("child", image, name_space_, parent.snapshot);
  ASSERT_TRUE(succeeded(put(child, touching(child, 10, 15))));
  ASSERT_TRUE(succeeded(sets().withdraw(name_space_, child.snapshot)));
  change([&](RawStore& raw) {
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] == 'r' && key[10] == static_cast<char>(child.snapshot.value)) {
        raw.damage("snapshot", key);
      }
    }
  });
  const auto set = make_set(child);
  ASSERT_TRUE(succeeded(set));
  EXPECT_EQ(set->pages.size(), 5u);
  EXPECT_EQ(set->pages[0].page.value, 0u);
  EXPECT_TRUE(sets().state(name_space_, child.snapshot)->recordings.empty());
}

TEST_F(WorkingSetBuildTest, ScrubNamesAndRemovesDamagedRecordings) {
  const Bytes image = make_image(1, 100);
  const Manifest manifest = *store("mine", image, name_space_);
  for (const std::uint64_t first : {0, 10}) {
    ASSERT_TRUE(succeeded(put(manifest, touching(manifest, first, first + 5))));
  }
  bool damaged = false;
  change([&](RawStore& raw) {
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] == 'r' && !std::exchange(damaged, true)) raw.damage("snapshot", key);
    }
  });
  const auto scrub = [&](SteppedControl& control) {
    return Verification(*store_, name_space_, control).run();
  };
  SteppedControl first;
  const auto report = scrub(first);
  ASSERT_TRUE(succeeded(report));
  EXPECT_EQ(report->recordings, 2u);
  EXPECT_EQ(report->damaged_recordings, 1u);
  EXPECT_FALSE(report->clean());
  ASSERT_EQ(first.findings.size(), 1u);
  EXPECT_TRUE(first.findings[0].starts_with("recording 1 of mine: ")) << first.findings[0];
  SteppedControl second;
  EXPECT_TRUE(scrub(second)->clean());
  EXPECT_EQ(sets().state(name_space_, manifest.snapshot)->recordings.size(), 1u);
}

TEST_F(WorkingSetBuildTest, RecordingWithoutTouchesMakesAnEmptySet) {
  const WorkingSet set = put(manifest_, touching(manifest_, 0, 0)).value();
  EXPECT_TRUE(set.pages.empty() && set.packs.empty());
  EXPECT_EQ(put(manifest_, touching(manifest_, 0, 9))->pages.size(), 9u);
}

TEST_F(WorkingSetBuildTest, NearestAncestorWithASetIsInheritedFrom) {
  Bytes changed = image_;
  for (std::size_t i = 30; i < 40; ++i) store_le(changed.data() + i * kPageBytes, 12345 + i);
  const Manifest child = *store("child", changed, name_space_, manifest_.snapshot);
  const Manifest grandchild = *store("grandchild", changed, name_space_, child.snapshot);
  EXPECT_EQ(code_of(make_set(grandchild)), ErrorCode::kNotFound);
  const WorkingSet original = put(manifest_, touching(manifest_, 20, 120)).value();

  const WorkingSet inherited = make_set(grandchild).value();

  EXPECT_EQ(inherited.snapshot, grandchild.snapshot);
  EXPECT_EQ(inherited.generation, 0u);
  EXPECT_EQ(inherited.recordings, 1u);
  std::vector<SetPage> unchanged = original.pages;
  std::erase_if(unchanged,
                [](const SetPage& page) { return page.page.value >= 30 && page.page.value < 40; });
  EXPECT_EQ(inherited.pages, unchanged);
  expect_packs_hold(inherited, grandchild, changed);
  EXPECT_EQ(code_of(sets().working_set(name_space_, child.snapshot)), ErrorCode::kNotFound);
  const Manifest last = *store("last", changed, name_space_, grandchild.snapshot);
  EXPECT_EQ(make_set(last)->pages, unchanged) << "also from a set that was inherited";
}

TEST_F(WorkingSetBuildTest, SetThatCameInBetweenIsNotInheritedOver) {
  const Manifest child = *store("child", image_, name_space_, manifest_.snapshot);
  ASSERT_TRUE(succeeded(put(manifest_, touching(manifest_, 0, 100))));
  WorkingSetBuild slow =
      WorkingSetBuild::of_what_is_there(*store_, name_space_, child.snapshot).value();
  ASSERT_TRUE(succeeded(slow.prepare()));
  const WorkingSet own = put(child, touching(child, 0, 10)).value();
  EXPECT_EQ(decode_working_set(*finish_build(slow)).value(), own);
  EXPECT_EQ(stored_set(child), own);
}

TEST_F(WorkingSetBuildTest, WithdrawnSetIsMadeAgainOfItsRecordings) {
  const Manifest child = *store("child", image_, name_space_, manifest_.snapshot);
  ASSERT_TRUE(succeeded(put(manifest_, touching(manifest_, 0, 200))));
  for (std::uint64_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(succeeded(put(child, touching(child, i, 50 + i), 3)));
  }
  const WorkingSet before = stored_set(child);
  const WorkingSetState state = sets().state(name_space_, child.snapshot).value();
  ASSERT_TRUE(succeeded(sets().withdraw(name_space_, child.snapshot)));
  EXPECT_EQ(make_set(child).value(), before) << "and nothing is inherited";
  EXPECT_EQ(sets().state(name_space_, child.snapshot).value(), state);
  expect_packs_hold(before, child, image_);

  ASSERT_TRUE(succeeded(sets().withdraw(name_space_, child.snapshot)));
  EXPECT_EQ(put(child, touching(child, 3, 53)).value(), before) << "one that is there already";
  ASSERT_TRUE(succeeded(sets().withdraw(name_space_, child.snapshot)));
  const WorkingSet next = put(child, touching(child, 9, 60), 3).value();
  EXPECT_EQ(next.generation, before.generation + 1);
  EXPECT_EQ(next.recordings, 3u);
}

TEST_F(WorkingSetBuildTest, SetWithdrawnInBetweenDoesNotLoseTheRecording) {
  const Recording first = touching(manifest_, 0, 100);
  const Recording second = touching(manifest_, 20, 120);
  ASSERT_TRUE(succeeded(put(manifest_, first)));
  WorkingSetBuild slow = begin(manifest_, second).value();
  ASSERT_TRUE(succeeded(slow.prepare()));
  ASSERT_TRUE(succeeded(sets().withdraw(name_space_, manifest_.snapshot)));
  const WorkingSet set = decode_working_set(*finish_build(slow)).value();
  EXPECT_EQ(set.pages, rank(std::array{first, second}));
  expect_packs_hold(set, manifest_, image_);
}

TEST_F(WorkingSetBuildTest, TooDistantAncestorIsNotFound) {
  ASSERT_TRUE(succeeded(put(manifest_, touching(manifest_, 0, 100))));
  Manifest descendant = manifest_;
  for (std::size_t i = 0; i <= limits::kMaxAncestors; ++i) {
    const std::string name = "descendant" + std::to_string(i);
    descendant = *store(name, image_, name_space_, descendant.snapshot);
  }
  EXPECT_EQ(code_of(make_set(descendant)), ErrorCode::kNotFound);
  remove("descendant0");
  const Manifest orphan = *decode_manifest(*store_->manifest(name_space_, "descendant1"));
  EXPECT_EQ(code_of(make_set(orphan)), ErrorCode::kNotFound) << "its parent is gone";
}

TEST_F(WorkingSetBuildTest, SetBeyondWhatIsHeldIsWrittenPackByPack) {
  auto generator = seeded_generator();
  const std::uint64_t pages = limits::kMaxHeldPackBytes / kPageBytes + 500;
  const Bytes image = random_bytes(generator, bytes_of({pages}).value);
  const Manifest manifest = *store("large", image, name_space_);
  const WorkingSet set = put(manifest, touching(manifest, 0, pages)).value();
  EXPECT_GT(set.pack_bytes(), limits::kMaxHeldPackBytes);
  EXPECT_EQ(store_->totals(name_space_)->pack_bytes, set.pack_bytes());
  expect_packs_hold(set, manifest, image);
}

class LargeWorkingSetTest : public WorkingSetBuildTest {
 protected:
  /// A build of which a part of the packs is stored.
  WorkingSetBuild half_stored() {
    WorkingSetBuild build = begin(large_, touching(large_, 0, kPages)).value();
    EXPECT_TRUE(succeeded(build.prepare()));
    EXPECT_EQ(build.write().value(), std::nullopt) << "more packs are to be made";
    EXPECT_GT(store_->totals(name_space_)->pack_bytes, 0u);
    return build;
  }
  void expect_nothing_stored() {
    EXPECT_EQ(store_->totals(name_space_)->recorded_bytes(), 0u);
    EXPECT_EQ(code_of(sets().pack(name_space_, {large_.snapshot, 1, 0})), ErrorCode::kNotFound);
  }

  static constexpr std::uint64_t kPages = limits::kMaxHeldPackBytes / kPageBytes + 500;
  const Bytes large_image_ = [] {
    auto generator = seeded_generator();
    return random_bytes(generator, bytes_of({kPages}).value);
  }();
  const Manifest large_ = *store("large", large_image_, name_space_);
};

TEST_F(LargeWorkingSetTest, DropInBetweenMakesAllPacksAgain) {
  WorkingSetBuild build = half_stored();
  ASSERT_TRUE(succeeded(sets().drop(name_space_, large_.snapshot)));
  const WorkingSet set = decode_working_set(*finish_build(build)).value();
  EXPECT_EQ(store_->totals(name_space_)->pack_bytes, set.pack_bytes());
  expect_packs_hold(set, large_, large_image_);
}

TEST_F(LargeWorkingSetTest, PacksOfAServerThatDiedAreDeletedAtTheNextStart) {
  static_cast<void>(half_stored());
  reopen();
  expect_nothing_stored();
  EXPECT_EQ(*store_->totals(name_space_), *store_->chunk_upkeep().count(name_space_));
}

TEST_F(LargeWorkingSetTest, RefusedSetLeavesNothing) {
  const std::uint64_t pushed = store_->totals(name_space_)->pushed_bytes();
  WorkingSetBuild build = half_stored();
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_bytes = pushed + kPageBytes})));
  EXPECT_TRUE(succeeded(build.prepare()));
  EXPECT_EQ(code_of(build.write()), ErrorCode::kQuotaExceeded);
  expect_nothing_stored();
}

TEST_F(LargeWorkingSetTest, DamageInBetweenLeavesNothing) {
  WorkingSetBuild build = half_stored();
  const ChunkId last = map_of(large_, name_space_).chunk_of({kPages - 1});
  ChunkSet lost;
  lost.insert(last);
  ASSERT_TRUE(succeeded(store_->chunk_upkeep().condemn(name_space_, lost)));
  ASSERT_TRUE(succeeded(store_->chunk_upkeep().sweep(name_space_, std::span(&last, 1))));
  EXPECT_EQ(code_of(finish_build(build)), ErrorCode::kCorrupt);
  expect_nothing_stored();
}

TEST_F(WorkingSetBuildTest, MissingOrDamagedChunkMakesNoSet) {
  const PageMap map = map_of(manifest_, name_space_);
  std::uint64_t first = 0;
  while (map.find({first}).zero()) ++first;
  const ChunkId chunk = map.chunk_of({first});
  change([&](RawStore& raw) { raw.damage("chunk", big_endian(chunk.value)); });
  EXPECT_EQ(code_of(put(manifest_, touching(manifest_, 0, 200))), ErrorCode::kCorrupt);
  change([&](RawStore& raw) { raw.remove("chunk", big_endian(chunk.value)); });
  EXPECT_EQ(code_of(put(manifest_, touching(manifest_, 0, 200))), ErrorCode::kCorrupt);
  EXPECT_EQ(sets().state(name_space_, manifest_.snapshot).value(), WorkingSetState{});
}

}  // namespace
}  // namespace thaw::test
