#include "pageserver/usage.h"
#include "tests/support/programs.h"
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

  const std::uint64_t bytes = store_->totals(name_space_)->chunk_bytes;
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_bytes = bytes})));
  EXPECT_TRUE(succeeded(store("d", image, name_space_))) << "takes up nothing";
  auto generator = seeded_generator();
  const Bytes more = random_bytes(generator, 3 * kPageBytes);
  EXPECT_EQ(code_of(store("e", more, name_space_)), ErrorCode::kQuotaExceeded);
  EXPECT_EQ(store_->totals(name_space_)->chunk_bytes, bytes);
  ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {.quota_bytes = bytes + 4 * 4096})));
  EXPECT_TRUE(succeeded(store("e", more, name_space_)));
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
