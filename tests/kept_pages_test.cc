// A push that keeps pages of its parent, on the real RocksDB.

#include <gtest/gtest.h>

#include "pageserver/push.h"
#include "tests/support/raw_store.h"
#include "tests/support/store_fixture.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

class KeptPagesTest : public StoreTest {
 protected:
  /// Offers pages from `first` on: '=' keeps the parent's, others are as in image_of(). Uploads
  /// what is needed.
  Result<void> offer(Push& push, std::size_t first, const std::string& text) {
    message::Offer offer{{first}, {text.size()}, empty_bitmap(text.size())};
    offer.kept_bitmap = empty_bitmap(text.size());
    std::vector<Sha256> hashes;
    Bytes offered;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '.') set_bit(offer.zero_bitmap, i);
      if (text[i] == '=') set_bit(offer.kept_bitmap, i);
      if (text[i] == '.' || text[i] == '=') continue;
      const Bytes content = image_of(text.substr(i, 1));
      offered.insert(offered.end(), content.begin(), content.end());
      hashes.push_back(hasher_.hash(content));
    }
    const auto needed = TRY(push.offer(offer, std::as_bytes(std::span(hashes))));
    for (std::size_t i = 0; i < hashes.size(); ++i) {
      if (!bit(needed.missing_bitmap, i)) continue;
      Bytes chunk;
      codec_.encode(page(offered, i), kNoChunk, chunk);
      TRY(push.check_upload(1, chunk));
      TRY(push.store_upload());
    }
    return {};
  }
  Push push_to(const Manifest& parent, std::size_t pages) {
    return {*store_, name_space_, spec("child", Bytes(pages * kPageBytes)), parent.snapshot};
  }
};

TEST_F(KeptPagesTest, ResultIsAFullSnapshot) {
  const Manifest parent = store("parent", image_of("abc..def"), name_space_).value();
  Push push = push_to(parent, 8);
  ASSERT_TRUE(succeeded(offer(push, 0, "=x=.=")));
  ASSERT_TRUE(succeeded(offer(push, 5, ".=a")));
  const Manifest child = push.commit().value();
  const Bytes whole = image_of("axc...ea");
  EXPECT_EQ(load(child, name_space_), whole);
  EXPECT_EQ(child.content_hash, store("whole", whole, name_space_)->content_hash);
  EXPECT_EQ(child.statistics.new_pages, 1u);
  EXPECT_EQ(child.statistics.zero_pages, 3u);
  EXPECT_EQ(child.statistics.duplicate_pages, 4u);
  EXPECT_EQ(child.statistics.changed_pages, 2u);
  EXPECT_EQ(child.statistics.became_zero_pages, 1u);
}

TEST_F(KeptPagesTest, FullPushToAParentIsComparedWithIt) {
  const Manifest parent = store("parent", image_of("abc.ef"), name_space_).value();
  const Manifest child = store("child", image_of("abxy..zz"), name_space_, parent.snapshot).value();
  EXPECT_EQ(child.statistics.changed_pages, 4u);
  EXPECT_EQ(child.statistics.became_zero_pages, 2u);
  const Manifest same = store("same", image_of("abc.ef"), name_space_, parent.snapshot).value();
  EXPECT_EQ(same.statistics.changed_pages, 0u);
  EXPECT_EQ(same.statistics.became_zero_pages, 0u);
  EXPECT_EQ(parent.statistics.changed_pages, 0u);
}

TEST_F(KeptPagesTest, KeptPagesWaitForOffersBeforeThem) {
  const Manifest parent = store("parent", image_of("abcd"), name_space_).value();
  Push push = push_to(parent, 4);
  const Bytes image = image_of("xb");
  const Sha256 hash = hasher_.hash(page(image, 0));
  ASSERT_TRUE(succeeded(push.offer({{0}, {1}, empty_bitmap(1)}, hash)));
  ASSERT_TRUE(succeeded(offer(push, 1, "===")));
  EXPECT_EQ(code_of(push.commit()), ErrorCode::kProtocol);
  Bytes chunk;
  codec_.encode(page(image, 0), kNoChunk, chunk);
  ASSERT_TRUE(succeeded(push.check_upload(1, chunk)));
  ASSERT_TRUE(succeeded(push.store_upload()));
  EXPECT_EQ(load(push.commit().value(), name_space_), image_of("xbcd"));
}

TEST_F(KeptPagesTest, RefusalsByName) {
  const Manifest parent = store("parent", image_of("abcd"), name_space_).value();
  Push orphan = push_to({}, 4);
  EXPECT_EQ(code_of(offer(orphan, 0, "=")), ErrorCode::kInvalidArgument);
  Push larger = push_to(parent, 5);
  EXPECT_EQ(code_of(offer(larger, 0, "=")), ErrorCode::kInvalidArgument);
  SnapshotSpec with_state = spec("child", Bytes(4 * kPageBytes));
  with_state.state = {kPageBytes};
  Push state(*store_, name_space_, with_state, parent.snapshot);
  ASSERT_TRUE(succeeded(offer(state, 0, "===")));
  EXPECT_EQ(code_of(offer(state, 3, "==")), ErrorCode::kInvalidArgument);
  Push push = push_to(parent, 4);
  EXPECT_EQ(code_of(offer(push, 1, "=")), ErrorCode::kProtocol);
  EXPECT_EQ(code_of(push.offer({{0}, {2}, empty_bitmap(2), Bytes(1, std::byte{1})}, {})),
            ErrorCode::kTruncated);
  EXPECT_EQ(code_of(push.offer({{0}, {1}, empty_bitmap(1), Bytes(1, std::byte{1})}, Bytes(32))),
            ErrorCode::kMalformed);
  Push late = push_to(parent, 4);
  remove("parent");
  EXPECT_EQ(code_of(offer(late, 0, "=")), ErrorCode::kNotFound);
}

TEST_F(KeptPagesTest, PushGoesOnWithoutAParentThatWasDeleted) {
  const Manifest parent = store("parent", image_of("abcd"), name_space_).value();
  Push push = push_to(parent, 4);
  ASSERT_TRUE(succeeded(offer(push, 0, "==")));
  remove("parent");
  ASSERT_TRUE(succeeded(offer(push, 2, "==")));
  EXPECT_EQ(load(push.commit().value(), name_space_), image_of("abcd"));
}

TEST_F(KeptPagesTest, PagesThatAreDamagedOrMissingAreNotKept) {
  const Manifest parent = store("parent", image_of("abcd"), name_space_).value();
  const ChunkId damaged = map_of(parent, name_space_).chunk_of({1});
  const ChunkId missing = map_of(parent, name_space_).chunk_of({2});
  change([&](RawStore& raw) {
    raw.damage("chunk", big_endian(damaged.value));
    raw.remove("chunk", big_endian(missing.value));
  });
  Push push = push_to(parent, 4);
  EXPECT_EQ(code_of(offer(push, 0, "==")), ErrorCode::kCorrupt);
  EXPECT_EQ(code_of(offer(push, 0, "=b=")), ErrorCode::kCorrupt);
  ASSERT_TRUE(succeeded(offer(push, 0, "=bx=")));
  EXPECT_EQ(push.commit()->statistics.changed_pages, 1u);
}

}  // namespace
}  // namespace thaw::test
