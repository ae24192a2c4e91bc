// What pages are by their hashes, made of the chunks of the real RocksDB.

#include "pageserver/page_hash_lists.h"

#include <gtest/gtest.h>

#include "tests/support/raw_store.h"
#include "tests/support/store_fixture.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

class PageHashListsTest : public StoreTest {
 protected:
  Result<PageHashLists::List> get(const Manifest& manifest, std::uint32_t segment = 0) {
    return lists_.get(*store_, name_space_, manifest.snapshot, segment);
  }
  Bytes hashes_of(const std::string& letters) {
    Bytes all;
    for (const char letter : letters) {
      const Sha256 hash = hasher_.hash(image_of(std::string(1, letter)));
      all.insert(all.end(), hash.begin(), hash.end());
    }
    return all;
  }

  PageHashLists lists_{{2 * (3 * sizeof(Sha256) + limits::kKeptListBytes)}};
};

TEST_F(PageHashListsTest, NameThePagesThatAreNotZeroInOrder) {
  const Manifest manifest = store("a", image_of("b.ab..c"), name_space_).value();
  const auto list = get(manifest);
  ASSERT_TRUE(succeeded(list));
  EXPECT_EQ(**list, hashes_of("babc"));
  EXPECT_EQ(get(manifest).value(), *list) << "made once";
  EXPECT_EQ(code_of(get(manifest, 1)), ErrorCode::kNotFound);

  remove("a");
  EXPECT_EQ(code_of(get(manifest)), ErrorCode::kNotFound) << "whatever is kept";
}

TEST_F(PageHashListsTest, BelongToTheirSegment) {
  Bytes image((limits::kSegmentPages + 1) * kPageBytes);
  std::ranges::copy(image_of("ab"), image.end() - 2 * kPageBytes);
  const Manifest manifest = store("a", image, name_space_).value();
  EXPECT_EQ(**get(manifest, 0), hashes_of("a"));
  EXPECT_EQ(**get(manifest, 1), hashes_of("b"));
}

TEST_F(PageHashListsTest, ThoseUsedLastAreKeptWithinBounds) {
  std::vector<Manifest> manifests;
  std::vector<PageHashLists::List> lists;
  for (const std::string text : {"abc", "abd", "abe"}) {
    manifests.push_back(store(text, image_of(text), name_space_).value());
    lists.push_back(get(manifests.back()).value());
    get(manifests.front()).value();
  }
  EXPECT_LE(lists_.kept().value, 2 * (3 * sizeof(Sha256) + limits::kKeptListBytes));
  EXPECT_EQ(get(manifests[0]).value(), lists[0]);
  EXPECT_EQ(get(manifests[2]).value(), lists[2]);
  EXPECT_NE(get(manifests[1]).value(), lists[1]) << "made again";
}

TEST_F(PageHashListsTest, DamagedChunkIsNamed) {
  const Manifest manifest = store("a", image_of("abc"), name_space_).value();
  change([](RawStore& raw) { raw.damage("chunk", raw.keys("chunk").at(1)); });
  EXPECT_EQ(code_of(get(manifest)), ErrorCode::kCorrupt);
  change([](RawStore& raw) { raw.remove("chunk", raw.keys("chunk").at(1)); });
  EXPECT_EQ(code_of(get(manifest)), ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace thaw::test
