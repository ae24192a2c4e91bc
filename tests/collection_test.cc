#include "pageserver/collection.h"

#include <set>

#include "pageserver/snapshots.h"
#include "tests/support/raw_store.h"
#include "tests/support/stepped_control.h"
#include "tests/support/store_fixture.h"

namespace thaw::test {
namespace {

class CollectionTest : public StoreTest {
 protected:
  Result<CollectionReport> collect() {
    return Collection(*store_, name_space_, pins_, pushes_, control_).run();
  }
  Result<CollectionReport> dry_run() {
    return Collection(*store_, name_space_, pins_, pushes_, control_).dry_run();
  }
  std::uint64_t chunks() { return store_->totals(name_space_)->chunks; }
  Bytes random_image(std::size_t pages) { return random_bytes(generator_, pages * kPageBytes); }
  Manifest stored(const std::string& name, const Bytes& image) {
    auto manifest = store(name, image, name_space_);
    EXPECT_TRUE(succeeded(manifest));
    return *manifest;
  }

  std::mt19937_64 generator_ = seeded_generator();
  SnapshotPins pins_;
  LivePushes pushes_;
  SteppedControl control_;
};

TEST_F(CollectionTest, ChunksOfNoSnapshotGo) {
  const Bytes shared = random_image(40);
  Bytes both = shared;
  const Bytes more = random_image(3000);
  both.insert(both.end(), more.begin(), more.end());
  const Manifest kept = stored("kept", shared);
  const std::uint64_t bytes_before = store_->totals(name_space_)->chunk_bytes;
  const Manifest gone = stored("gone", both);
  EXPECT_EQ(collect()->dead_chunks, 0u);
  remove("gone");

  const auto planned = dry_run();
  ASSERT_TRUE(succeeded(planned));
  EXPECT_EQ(planned->dead_chunks, 3000u);
  EXPECT_EQ(planned->dead_bytes, gone.statistics.new_chunk_bytes);
  EXPECT_EQ(chunks(), 3040u) << "a dry run deletes nothing";

  const auto report = collect();
  ASSERT_TRUE(succeeded(report));
  EXPECT_EQ(report->dead_chunks, planned->dead_chunks);
  EXPECT_EQ(report->dead_bytes, planned->dead_bytes);
  EXPECT_EQ(chunks(), 40u);
  EXPECT_EQ(store_->totals(name_space_)->chunk_bytes, bytes_before);
  EXPECT_EQ(load(kept, name_space_), shared);
  EXPECT_TRUE(store_->chunk_upkeep().condemned(name_space_)->empty());

  const Manifest again = stored("again", both);
  EXPECT_EQ(again.statistics.new_pages, 3000u) << "a push does not meet what was deleted";
  EXPECT_EQ(load(again, name_space_), both);
}

TEST_F(CollectionTest, OtherNamespacesAreLeftAlone) {
  const NamespaceId other = *store_->open_namespace("other");
  const Bytes image = random_image(10);
  const Manifest theirs = *store("a", image, other);
  stored("a", image);
  remove("a");
  EXPECT_EQ(collect()->dead_chunks, 10u);
  EXPECT_EQ(load(theirs, other), image);
  EXPECT_EQ(store_->totals(other)->chunks, 10u);
}

TEST_F(CollectionTest, PushesUnderWayKeepWhatTheyStandOn) {
  const Bytes image = random_image(50);
  stored("gone", image);
  remove("gone");
  Push push(*store_, name_space_, spec("pushed", image));
  pushes_.add(push);
  ASSERT_EQ(*send(push, image), 0u) << "all of it is there";
  const auto collected = collect();
  ASSERT_TRUE(succeeded(collected));
  EXPECT_EQ(collected->dead_chunks, 0u);
  EXPECT_EQ(collected->live_chunks, 50u);
  EXPECT_TRUE(store_->chunk_upkeep().condemned(name_space_)->empty());
  EXPECT_EQ(stored("twin", image).statistics.new_pages, 0u) << "the hashes still lead there";
  const auto manifest = push.commit();
  pushes_.remove(push);
  ASSERT_TRUE(succeeded(manifest));
  EXPECT_EQ(load(*manifest, name_space_), image);
}

/// What a push meets after it was first asked is condemned and spared: no hash leads there.
TEST_F(CollectionTest, PushesKeepWhatTheyMeetMeanwhile) {
  const Bytes image = random_image(50);
  stored("gone", image);
  remove("gone");
  Push push(*store_, name_space_, spec("pushed", image));
  pushes_.add(push);
  control_.before_write = [&](int write) {
    // The one that condemns.
    if (write != 1) return;
    EXPECT_EQ(send(push, image), 0u);
  };
  EXPECT_EQ(collect()->dead_chunks, 0u);
  control_.before_write = nullptr;
  const auto manifest = push.commit();
  pushes_.remove(push);
  ASSERT_TRUE(succeeded(manifest));
  EXPECT_EQ(load(*manifest, name_space_), image);

  // Yet they are deleted when their time comes.
  const Manifest twin = stored("twin", image);
  EXPECT_EQ(twin.statistics.new_pages, 50u);
  EXPECT_EQ(collect()->dead_chunks, 0u);
  remove("pushed");
  EXPECT_EQ(collect()->dead_chunks, 50u);
  EXPECT_EQ(load(twin, name_space_), image);
}

/// A push of few pages again and again, out of order, with a collection after each of its offers.
TEST_F(CollectionTest, APushMeetsItsOwnPagesAgain) {
  constexpr std::size_t kDistinct = 40;
  constexpr std::size_t kOffers = 30;
  constexpr std::size_t kPerOffer = 20;
  const Bytes distinct = random_image(kDistinct);
  Bytes image;
  std::set<std::size_t> drawn;
  for (std::size_t i = 0; i < kOffers * kPerOffer; ++i) {
    const std::size_t from = pick(generator_, kDistinct);
    drawn.insert(from);
    const PageSpan content = page(distinct, from);
    image.insert(image.end(), content.begin(), content.end());
  }
  Push push(*store_, name_space_, spec("pushed", image));
  pushes_.add(push);
  for (std::size_t first = 0; first < kOffers * kPerOffer; first += kPerOffer) {
    ASSERT_TRUE(succeeded(send(push, image, first, kPerOffer)));
    ASSERT_TRUE(succeeded(collect()));
  }
  EXPECT_EQ(chunks(), drawn.size());
  const auto manifest = push.commit();
  pushes_.remove(push);
  ASSERT_TRUE(succeeded(manifest));
  EXPECT_EQ(manifest->statistics.new_pages, drawn.size());
  EXPECT_EQ(load(*manifest, name_space_), image);
}

/// At every step of a collection another push begins, and is committed at every later one.
TEST_F(CollectionTest, PushesMayComeAtAnyStep) {
  const Bytes image = random_image(30);
  for (int begin = 0; begin < 5; ++begin) {
    for (int commit = begin; commit < 6; ++commit) {
      stored("gone", image);
      remove("gone");
      Push push(*store_, name_space_, spec("pushed", image));
      Result<Manifest> manifest = fail(ErrorCode::kNotFound, "not committed");
      const auto finish = [&] {
        manifest = push.commit();
        pushes_.remove(push);
      };
      control_.writes = 0;
      control_.before_write = [&](int write) {
        if (write == begin) {
          pushes_.add(push);
          ASSERT_TRUE(succeeded(send(push, image)));
        }
        if (write == commit) finish();
      };
      ASSERT_TRUE(succeeded(collect()));
      ASSERT_GT(control_.writes, begin);
      if (!manifest) finish();
      control_.before_write = nullptr;
      ASSERT_TRUE(succeeded(manifest));
      EXPECT_EQ(load(*manifest, name_space_), image) << begin << ", " << commit;
      remove("pushed");
      ASSERT_TRUE(succeeded(collect()));
      EXPECT_EQ(chunks(), 0u);
    }
  }
}

/// Before any step of a collection a push brings a page out of quarantine, and is dropped.
TEST_F(CollectionTest, NoHashLeadsToWhatIsDeleted) {
  const Bytes healed = random_image(1);
  for (int step = 0; step < 5; ++step) {
    const Manifest damaged = stored("damaged", healed);
    stored("gone", random_image(1500));
    const KnownPage page{hasher_.hash(healed), map_of(damaged, name_space_).chunk_of({0})};
    ASSERT_TRUE(succeeded(store_->chunk_upkeep().quarantine(name_space_, std::span(&page, 1))));
    remove("damaged");
    remove("gone");
    control_.writes = 0;
    control_.before_write = [&](int write) {
      if (write != step) return;
      Push push(*store_, name_space_, spec("dropped", healed));
      pushes_.add(push);
      ASSERT_TRUE(succeeded(send(push, healed)));
      pushes_.remove(push);
    };
    ASSERT_TRUE(succeeded(collect()));
    ASSERT_GT(control_.writes, step);
    control_.before_write = nullptr;
    const Manifest again = stored("again", healed);
    EXPECT_EQ(load(again, name_space_), healed) << step;
    remove("again");
    ASSERT_TRUE(succeeded(collect()));
    EXPECT_EQ(chunks(), 0u) << step;
  }
}

TEST_F(CollectionTest, OneThatWasCutOffIsFinishedByTheNext) {
  const Bytes kept_image = random_image(20);
  const Manifest kept = stored("kept", kept_image);
  for (int stop = 0;; ++stop) {
    stored("gone", random_image(2500));
    remove("gone");
    control_.paces = 0;
    control_.stop_at_pace = stop;
    const auto stopped = collect();
    if (stopped) break;
    EXPECT_EQ(stopped.error().code(), ErrorCode::kStopped);
    control_.stop_at_pace = -1;
    reopen();
    ASSERT_TRUE(succeeded(collect()));
    EXPECT_EQ(chunks(), 20u) << "stopped at " << stop;
    EXPECT_EQ(load(kept, name_space_), kept_image);
    ASSERT_LT(stop, 100);
  }
}

TEST_F(CollectionTest, PinnedSnapshotsStayUntilTheyAreNot) {
  const Bytes image = random_image(10);
  const Manifest manifest = stored("a", image);
  ASSERT_TRUE(succeeded(pins_.pin(*store_, name_space_, manifest.snapshot)));
  EXPECT_FALSE(*remove_unless_pinned(*store_, pins_, name_space_, manifest.snapshot));
  ASSERT_TRUE(succeeded(store_->retire(name_space_, "a")));
  EXPECT_EQ(code_of(store_->manifest(name_space_, "a")), ErrorCode::kNotFound);
  EXPECT_EQ(store_->named_snapshots(name_space_), 0u);
  EXPECT_EQ(collect()->dead_chunks, 0u);
  EXPECT_EQ(load(manifest, name_space_), image) << "whoever restores it goes on";

  const Bytes other = random_image(10);
  const Manifest next = stored("a", other);
  pins_.unpin(name_space_, manifest.snapshot);
  EXPECT_EQ(collect()->dead_chunks, 10u);
  EXPECT_EQ(load(next, name_space_), other) << "of the same name";
  EXPECT_EQ(decode_manifest(*store_->manifest(name_space_, "a"))->snapshot, next.snapshot);
  EXPECT_EQ(code_of(pins_.pin(*store_, name_space_, manifest.snapshot)), ErrorCode::kNotFound);
}

TEST_F(CollectionTest, LostChunksDoNotDisturbTheTotals) {
  const Bytes image = random_image(3);
  const Manifest manifest = stored("a", image);
  const ChunkId lost = map_of(manifest, name_space_).chunk_of({1});
  store_.reset();
  RawStore(directory_.path("store")).remove("chunk", big_endian(lost.value));
  reopen();
  remove("a");
  EXPECT_EQ(collect()->dead_chunks, 3u);
  EXPECT_LE(chunks(), 1u);
  stored("b", image);
  remove("b");
  ASSERT_TRUE(succeeded(collect()));
  EXPECT_LE(chunks(), 1u) << "what was lost, and no huge number";
}

TEST_F(CollectionTest, DamagedPageMapStopsIt) {
  const Bytes image = random_image(10);
  const Manifest manifest = stored("a", image);
  change([](RawStore& raw) {
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] == 'p') raw.put("snapshot", key, "nonsense");
    }
  });
  EXPECT_EQ(code_of(collect()), ErrorCode::kCorrupt);
  EXPECT_EQ(chunks(), 10u) << "nothing is deleted on a guess";
}

}  // namespace
}  // namespace thaw::test
