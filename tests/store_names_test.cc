#include "pageserver/collection.h"
#include "pageserver/usage.h"
#include "tests/support/programs.h"
#include "tests/support/raw_store.h"
#include "tests/support/store_fixture.h"

namespace thaw::test {
namespace {

using message::Tag;

class StoreNamesTest : public StoreTest {
 protected:
  SnapshotId snapshot_of(const std::string& name) {
    const auto sealed = store_->manifest(name_space_, name);
    return sealed ? decode_manifest(*sealed)->snapshot : SnapshotId{};
  }
  /// reopen() makes the namespace if it is not there.
  void reopen_as_it_is() {
    store_.reset();
    store_ = open_rocks_store(directory_.path("store"), {0}).value();
  }
};

TEST_F(StoreNamesTest, TagsMove) {
  const Manifest a = *store("a", make_image(1, 5), name_space_);
  const Manifest b = *store("b", make_image(2, 5), name_space_);
  ASSERT_TRUE(succeeded(store_->move_tag(name_space_, {"app:new", "a"})));
  EXPECT_EQ(snapshot_of("app:new"), a.snapshot);
  ASSERT_TRUE(succeeded(store_->move_tag(name_space_, {"app:new", "b"})));
  ASSERT_TRUE(succeeded(store_->move_tag(name_space_, {"app:old", "a"})));
  reopen();
  EXPECT_EQ(snapshot_of("app:new"), b.snapshot);
  EXPECT_EQ(*store_->tags(name_space_, "", 10),
            (std::vector<Tag>{{"app:new", "b"}, {"app:old", "a"}}));
  EXPECT_EQ(*store_->tags(name_space_, "app:new", 10), (std::vector<Tag>{{"app:old", "a"}}));
  EXPECT_EQ(store_->tags(name_space_, "", 1)->size(), 1u);

  EXPECT_EQ(code_of(store_->move_tag(name_space_, {"app:new", "c"})), ErrorCode::kNotFound);
  EXPECT_EQ(snapshot_of("app:new"), b.snapshot);
  ASSERT_TRUE(succeeded(store_->remove_tag(name_space_, "app:old")));
  EXPECT_EQ(code_of(store_->remove_tag(name_space_, "app:old")), ErrorCode::kNotFound);
  remove("b");
  EXPECT_EQ(snapshot_of("app:new"), SnapshotId{});
  EXPECT_TRUE(store_->tags(name_space_, "", 10)->empty());
}

TEST_F(StoreNamesTest, OutdatedOnesAreMarked) {
  const SnapshotId a = store("a", make_image(1, 5), name_space_)->snapshot;
  const SnapshotId b = store("b", make_image(2, 5), name_space_)->snapshot;
  const SnapshotId c = store("c", make_image(3, 5), name_space_)->snapshot;
  const NamespaceTotals totals = *store_->totals(name_space_);
  const auto mark_all = [&] {
    ASSERT_TRUE(succeeded(store_->mark_outdated(name_space_, {{a, 10}, {b, 20}, {c, 30}})));
  };
  mark_all();
  reopen();
  EXPECT_EQ(*store_->outdated_marks(name_space_), (OutdatedMarks{{a, 10}, {b, 20}, {c, 30}}));
  EXPECT_EQ(*store_->totals(name_space_), totals) << "they take up nothing of the quota";
  EXPECT_TRUE(store_->outdated_marks(*store_->open_namespace("other"))->empty());
  ASSERT_TRUE(succeeded(store_->unmark_outdated(name_space_, std::vector{a})));
  ASSERT_TRUE(succeeded(store_->move_tag(name_space_, {"app:new", "b"})));
  EXPECT_EQ(*store_->outdated_marks(name_space_), (OutdatedMarks{{c, 30}}));
  mark_all();
  ASSERT_TRUE(succeeded(store_->retire(name_space_, "a")));
  remove("c");
  EXPECT_EQ(*store_->outdated_marks(name_space_), (OutdatedMarks{{b, 20}}));
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.keep_last = 1})));
  EXPECT_TRUE(store_->outdated_marks(name_space_)->empty());
}

TEST_F(StoreNamesTest, DoubtfulCreatedTimesAreKnown) {
  const Bytes image = make_image(1, 5);
  Push push(*store_, name_space_, spec("a", image));
  ASSERT_TRUE(succeeded(send(push, image)));
  const SnapshotId a = push.commit({}, 1, CreatedTime::kDoubtful)->snapshot;
  const SnapshotId b = store("b", image, name_space_)->snapshot;
  reopen();
  EXPECT_EQ(*store_->age_starts(name_space_), (AgeStarts{{a, 0}}));
  ASSERT_TRUE(succeeded(store_->set_age_starts(name_space_, {{a, 5}, {b, 6}})));
  EXPECT_EQ(*store_->age_starts(name_space_), (AgeStarts{{a, 5}, {b, 6}}));
  ASSERT_TRUE(succeeded(store_->remove_age_starts(name_space_, std::vector{b})));
  EXPECT_EQ(*store_->age_starts(name_space_), (AgeStarts{{a, 5}}));
  remove("a");
  EXPECT_TRUE(store_->age_starts(name_space_)->empty());
}

TEST_F(StoreNamesTest, LargestTimeIsKept) {
  EXPECT_EQ(*store_->last_time_unix_ms(), 0u);
  ASSERT_TRUE(succeeded(store_->set_last_time(100)));
  ASSERT_TRUE(succeeded(store_->set_last_time(50)));
  EXPECT_EQ(*store_->last_time_unix_ms(), 100u);
  const Manifest a = *store("a", make_image(1, 5), name_space_);
  reopen();
  EXPECT_EQ(*store_->last_time_unix_ms(), a.created_unix_ms);
}

TEST_F(StoreNamesTest, LabelsChange) {
  const Bytes image = make_image(1, 5);
  const Manifest before = *store("a", image, name_space_);
  const auto after = store_->set_labels(name_space_, "a", {{"k", "v"}});
  ASSERT_TRUE(succeeded(after));
  Manifest wanted = before;
  wanted.spec.labels = {{"k", "v"}};
  EXPECT_EQ(*after, wanted);
  EXPECT_EQ(*decode_manifest(*store_->manifest(name_space_, "a")), wanted);
  EXPECT_EQ(code_of(store_->set_labels(name_space_, "b", {})), ErrorCode::kNotFound);
}

TEST_F(StoreNamesTest, SettingsAreKept) {
  EXPECT_EQ(*store_->settings(name_space_), message::NamespaceSettings{});
  const message::NamespaceSettings settings{1, 2, 3, 4, "app"};
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, settings)));
  reopen();
  EXPECT_EQ(*store_->settings(name_space_), settings);
  EXPECT_EQ(*store_->settings(*store_->open_namespace("other")), message::NamespaceSettings{});
}

TEST_F(StoreNamesTest, QuotasAreKept) {
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_snapshots = 2})));
  const Bytes image = make_image(1, 5);
  ASSERT_TRUE(succeeded(store("a", image, name_space_)));
  ASSERT_TRUE(succeeded(store("b", image, name_space_)));
  EXPECT_EQ(code_of(store("c", image, name_space_)), ErrorCode::kQuotaExceeded);
  remove("a");
  EXPECT_TRUE(succeeded(store("c", image, name_space_)));

  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {})));
  const std::uint64_t before = store_->totals(name_space_)->pushed_bytes();
  ASSERT_TRUE(succeeded(store("d", image, name_space_))) << "takes up names alone";
  const NamespaceTotals totals = *store_->totals(name_space_);
  const std::uint64_t snapshot = totals.pushed_bytes() - before;
  EXPECT_GT(snapshot, 100u);
  EXPECT_LT(snapshot, kPageBytes);
  const auto set_quota = [&](std::uint64_t bytes) {
    ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_bytes = bytes})));
  };
  auto generator = seeded_generator();
  const Bytes more = random_bytes(generator, 3 * kPageBytes);
  set_quota(totals.bytes() + kPageBytes);
  EXPECT_EQ(code_of(store("e", more, name_space_)), ErrorCode::kQuotaExceeded);
  EXPECT_EQ(store_->totals(name_space_)->chunk_bytes, totals.chunk_bytes);
  set_quota(totals.bytes() + 4 * kPageBytes);
  EXPECT_TRUE(succeeded(store("e", more, name_space_)));
}

TEST_F(StoreNamesTest, ManySmallSnapshotsUseUpTheQuota) {
  const Bytes image = make_image(1, 5);
  ASSERT_TRUE(succeeded(store("first", image, name_space_)));
  const std::uint64_t quota = store_->totals(name_space_)->bytes() + 3 * kPageBytes;
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_bytes = quota})));
  int stored = 0;
  std::optional<ErrorCode> refused;
  for (; !refused && stored < 1000; ++stored) {
    refused = code_of(store("again" + std::to_string(stored), image, name_space_));
  }
  EXPECT_EQ(refused, ErrorCode::kQuotaExceeded);
  EXPECT_GT(stored, 3);
  EXPECT_LE(store_->totals(name_space_)->bytes(), quota);
  reopen();
  EXPECT_EQ(*store_->totals(name_space_), *store_->chunk_upkeep().count(name_space_));
  remove("again0");
  EXPECT_TRUE(succeeded(store("again0", image, name_space_))) << "what was deleted is given back";
}

TEST_F(StoreNamesTest, TagsAndLabelsCountUnlessTheyBecomeLess) {
  ASSERT_TRUE(succeeded(store("a", make_image(1, 5), name_space_)));
  ASSERT_TRUE(succeeded(store_->move_tag(name_space_, {"app:one", "a"})));
  ASSERT_TRUE(succeeded(store_->set_labels(name_space_, "a", {{"k", "v"}})));
  const std::uint64_t bytes = store_->totals(name_space_)->bytes();
  // Lowered below what there is.
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_bytes = bytes / 2})));
  EXPECT_EQ(code_of(store_->move_tag(name_space_, {"app:two", "a"})), ErrorCode::kQuotaExceeded);
  auto generator = seeded_generator();
  const Bytes noise = random_bytes(generator, 500);
  EXPECT_EQ(code_of(store_->set_labels(name_space_, "a", {{"k", std::string(as_text(noise))}})),
            ErrorCode::kQuotaExceeded);
  EXPECT_TRUE(succeeded(store_->move_tag(name_space_, {"app:one", "a"}))) << "no more than before";
  EXPECT_TRUE(succeeded(store_->set_labels(name_space_, "a", {})));
  EXPECT_TRUE(succeeded(store_->remove_tag(name_space_, "app:one")));
  EXPECT_LT(store_->totals(name_space_)->bytes(), bytes);
}

TEST_F(StoreNamesTest, RefusedCommitMayBeRepeated) {
  const Bytes image = make_image(1, 5);
  Push push(*store_, name_space_, spec("a", image));
  ASSERT_TRUE(succeeded(send(push, image)));
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_bytes = 1})));
  EXPECT_EQ(code_of(push.commit()), ErrorCode::kQuotaExceeded);
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {})));
  const auto manifest = push.commit();
  ASSERT_TRUE(succeeded(manifest));
  EXPECT_EQ(manifest->content_hash, store("b", image, name_space_)->content_hash);
}

TEST_F(StoreNamesTest, NamespaceThatIsEmptyIsRemovedAndItsNumberGivenAgain) {
  const Manifest manifest = *store("a", make_image(1, 5), name_space_);
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_snapshots = 9})));
  EXPECT_EQ(code_of(store_->remove_namespace("default")), ErrorCode::kBusy);
  remove("a");
  EXPECT_EQ(code_of(store_->remove_namespace("default")), ErrorCode::kBusy) << "chunks are left";
  SnapshotPins pins(Nanoseconds{0});
  LivePushes pushes;
  Unpaced control;
  ASSERT_TRUE(succeeded(Collection(*store_, name_space_, pins, pushes, control).run()));
  EXPECT_EQ(code_of(store_->remove_namespace("other")), ErrorCode::kNotFound);
  ASSERT_TRUE(succeeded(store_->remove_namespace("default")));
  reopen_as_it_is();
  EXPECT_EQ(*store_->find_namespace("default"), std::nullopt);
  EXPECT_EQ(code_of(store_->remove_namespace("default")), ErrorCode::kNotFound);

  const NamespaceId other = *store_->open_namespace("other");
  EXPECT_NE(other, name_space_) << "while there are others";
  store_.reset();
  RawStore(directory_.path("store")).put("meta", "namespaces", big_endian(0xffff));
  reopen_as_it_is();
  const NamespaceId again = *store_->open_namespace("again");
  EXPECT_EQ(again, name_space_);
  EXPECT_EQ(*store_->settings(again), message::NamespaceSettings{});
  EXPECT_EQ(*store_->totals(again), NamespaceTotals{});
  const Manifest next = *store("a", make_image(1, 5), again);
  EXPECT_GT(next.snapshot, manifest.snapshot) << "ids are not given again";
  EXPECT_GT(map_of(next, again).find({0}).chunk, ChunkId::of(again.value, 0, 1));
  EXPECT_EQ(store_->open_namespace("again"), again);
}

TEST_F(StoreNamesTest, UsageIsCountedInPages) {
  auto generator = seeded_generator();
  Bytes image = random_bytes(generator, 10 * kPageBytes);
  Bytes bigger = image;
  bigger.insert(bigger.end(), image.begin(), image.begin() + 2 * kPageBytes);  // twice
  const Bytes own = random_bytes(generator, 4 * kPageBytes);
  bigger.insert(bigger.end(), own.begin(), own.end());
  bigger.resize(bigger.size() + 8 * kPageBytes);  // zeros
  const Manifest a = *store("a", image, name_space_);
  const Manifest b = *store("b", bigger, name_space_);
  Unpaced control;
  constexpr std::uint64_t kStoredPage = kPageBytes + kChunkHeaderBytes;  // random ones are raw
  EXPECT_EQ(*usage(*store_, name_space_, a.snapshot, control),
            (message::Usage{1, 10 * 4096, 0, 0, 10 * 4096, 10 * kStoredPage, 0}));
  EXPECT_EQ(*usage(*store_, name_space_, b.snapshot, control),
            (message::Usage{1, 24 * 4096, 8 * 4096, 2 * 4096, 14 * 4096, 14 * kStoredPage,
                            4 * kStoredPage}));
  EXPECT_EQ(*usage(*store_, name_space_, {}, control),
            (message::Usage{2, 34 * 4096, 8 * 4096, 12 * 4096, 14 * 4096, 14 * kStoredPage,
                            14 * kStoredPage}));
  EXPECT_EQ(code_of(usage(*store_, name_space_, SnapshotId{99}, control)), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace thaw::test
