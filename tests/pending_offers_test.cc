// A push of which several offers wait for their uploads, on the real RocksDB.

#include <gtest/gtest.h>

#include "pageserver/push.h"
#include "tests/support/store_fixture.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

/// Offers and uploads of an image's parts, for a push of which several wait.
class PendingOffersTest : public StoreTest {
 protected:
  /// Offers pages of the image; returns which are needed.
  Result<std::vector<std::size_t>> offer(Push& push, const Bytes& image, std::size_t first,
                                         std::size_t count) {
    message::Offer offer{{first}, {count}, empty_bitmap(count)};
    std::vector<Sha256> hashes;
    std::vector<std::size_t> offered;
    for (std::size_t i = first; i < first + count; ++i) {
      if (is_zero_page(page(image, i))) {
        set_bit(offer.zero_bitmap, i - first);
        continue;
      }
      hashes.push_back(hasher_.hash(page(image, i)));
      offered.push_back(i);
    }
    const auto needed = TRY(push.offer(offer, std::as_bytes(std::span(hashes))));
    std::vector<std::size_t> missing;
    for (std::size_t i = 0; i < offered.size(); ++i) {
      if (bit(needed.missing_bitmap, i)) missing.push_back(offered[i]);
    }
    return missing;
  }
  Result<void> upload(Push& push, const Bytes& image, const std::vector<std::size_t>& pages) {
    Bytes chunks;
    for (const std::size_t i : pages) codec_.encode(page(image, i), kNoChunk, chunks);
    TRY(push.check_upload(static_cast<std::uint32_t>(pages.size()), chunks));
    return push.store_upload();
  }

  using Pages = std::vector<std::size_t>;
};

TEST_F(PendingOffersTest, UploadsBelongToTheOldest) {
  const Bytes image = image_of("abcdef");
  Push push(*store_, name_space_, spec("a", image));
  EXPECT_EQ(offer(push, image, 0, 2).value(), (Pages{0, 1}));
  EXPECT_EQ(offer(push, image, 2, 2).value(), (Pages{2, 3}));
  EXPECT_EQ(offer(push, image, 4, 2).value(), (Pages{4, 5}));
  EXPECT_EQ(code_of(upload(push, image, {2, 3})), ErrorCode::kHashMismatch);
  EXPECT_EQ(code_of(upload(push, image, {0, 1, 2})), ErrorCode::kProtocol) << "of two offers";
  ASSERT_TRUE(succeeded(upload(push, image, {0})));
  EXPECT_EQ(code_of(push.commit()), ErrorCode::kProtocol);
  ASSERT_TRUE(succeeded(upload(push, image, {1})));
  ASSERT_TRUE(succeeded(upload(push, image, {2, 3})));
  ASSERT_TRUE(succeeded(upload(push, image, {4, 5})));
  EXPECT_EQ(code_of(upload(push, image, {5})), ErrorCode::kProtocol) << "none is due";
  EXPECT_EQ(load(push.commit().value(), name_space_), image);
}

TEST_F(PendingOffersTest, PageIsAskedForOnceWhoeverHasIt) {
  const Bytes image = image_of(
      "aba.a"
      "bc.ca"
      "aaabd"
      "....."
      "abcda");
  Push push(*store_, name_space_, spec("a", image));
  EXPECT_EQ(offer(push, image, 0, 5).value(), (Pages{0, 1}));
  EXPECT_EQ(offer(push, image, 5, 5).value(), Pages{6});
  ASSERT_TRUE(succeeded(upload(push, image, {0, 1})));
  EXPECT_EQ(offer(push, image, 10, 5).value(), Pages{14});
  EXPECT_EQ(offer(push, image, 15, 5).value(), Pages{});
  EXPECT_EQ(offer(push, image, 20, 5).value(), Pages{});
  ASSERT_TRUE(succeeded(upload(push, image, {6})));
  ASSERT_TRUE(succeeded(upload(push, image, {14})));
  const Manifest manifest = push.commit().value();
  EXPECT_EQ(manifest.statistics.new_pages, 4u);
  EXPECT_EQ(manifest.statistics.zero_pages, 7u);
  EXPECT_EQ(load(manifest, name_space_), image);
  EXPECT_EQ(store_->totals(name_space_)->chunks, 4u);
}

TEST_F(PendingOffersTest, OneThatNeedsNothingWaitsForThoseBefore) {
  const Bytes image = image_of("ab.");
  const Bytes known(page(image, 1).begin(), page(image, 1).end());
  ASSERT_TRUE(succeeded(store("known", known, name_space_)));
  Push push(*store_, name_space_, spec("a", image));
  EXPECT_EQ(offer(push, image, 0, 1).value(), Pages{0});
  EXPECT_EQ(offer(push, image, 1, 1).value(), Pages{});
  EXPECT_EQ(offer(push, image, 2, 1).value(), Pages{});
  EXPECT_EQ(code_of(push.commit()), ErrorCode::kProtocol);
  ASSERT_TRUE(succeeded(upload(push, image, {0})));
  EXPECT_EQ(load(push.commit().value(), name_space_), image);
}

TEST_F(PendingOffersTest, TooManyAreRefusedAndThePushGoesOn) {
  const Bytes image = image_of("abcdefghijklmnopqrstuvwxyz");
  Push push(*store_, name_space_, spec("a", image));
  for (std::size_t i = 0; i < limits::kMaxPendingOffers; ++i) {
    ASSERT_EQ(offer(push, image, i, 1).value(), Pages{i});
  }
  const std::size_t next = limits::kMaxPendingOffers;
  EXPECT_EQ(code_of(offer(push, image, next, 1)), ErrorCode::kProtocol);
  EXPECT_EQ(code_of(offer(push, image, next + 1, 1)), ErrorCode::kProtocol);
  for (std::size_t i = 0; i < next; ++i) ASSERT_TRUE(succeeded(upload(push, image, {i})));
  EXPECT_EQ(offer(push, image, next, 26 - next)->size(), 26 - next);
}

TEST_F(PendingOffersTest, MemoryIsAskedForFirstAndGivenBack) {
  constexpr std::size_t kPages = 4096;
  SnapshotSpec wide;
  wide.name = "wide";
  wide.memory = bytes_of({3 * kPages});
  ByteCount asked{0};
  ByteCount most{1u << 20};
  Push push(*store_, name_space_, wide, {}, [&](ByteCount all) -> Result<void> {
    if (all > most) return fail(ErrorCode::kLimitExceeded, "no memory");
    asked = all;
    return {};
  });
  auto generator = seeded_generator();
  const auto offer_at = [&](std::size_t first) {
    const message::Offer offer{{first}, {kPages}, empty_bitmap(kPages)};
    return push.offer(offer, random_bytes(generator, kPages * sizeof(Sha256)));
  };
  ASSERT_TRUE(succeeded(offer_at(0)));
  EXPECT_GT(asked.value, kPages * 100) << "hashes, places, and what was asked for";
  EXPECT_EQ(code_of(offer_at(kPages)), ErrorCode::kLimitExceeded);
  most = {2u << 20};
  EXPECT_TRUE(succeeded(offer_at(kPages))) << "the one that was refused has changed nothing";

  const Bytes image = image_of("abcd");
  most = {64u << 10};
  Push small(*store_, name_space_, spec("small", image), {}, [&](ByteCount all) -> Result<void> {
    if (all > most) return fail(ErrorCode::kLimitExceeded, "no memory");
    asked = all;
    return {};
  });
  ASSERT_TRUE(succeeded(offer(small, image, 0, 4)));
  const ByteCount waiting = asked;
  most = waiting + ByteCount{3 * kPageBytes};
  EXPECT_EQ(code_of(upload(small, image, {0, 1, 2, 3})), ErrorCode::kLimitExceeded);
  ASSERT_TRUE(succeeded(upload(small, image, {0, 1})));
  ASSERT_TRUE(succeeded(upload(small, image, {2, 3})));
  EXPECT_LT(asked, waiting);
  EXPECT_TRUE(succeeded(small.commit()));
}

TEST_F(PendingOffersTest, PushCutMidwayLeavesPagesThatTheNextOneFinds) {
  const Bytes image = image_of("abcdef");
  {
    Push push(*store_, name_space_, spec("a", image));
    ASSERT_TRUE(succeeded(offer(push, image, 0, 3)));
    ASSERT_TRUE(succeeded(offer(push, image, 3, 3)));
    ASSERT_TRUE(succeeded(upload(push, image, {0, 1})));
  }
  EXPECT_EQ(code_of(store_->manifest(name_space_, "a")), ErrorCode::kNotFound);
  Push push(*store_, name_space_, spec("a", image));
  EXPECT_EQ(offer(push, image, 0, 6).value(), (Pages{2, 3, 4, 5}));
  ASSERT_TRUE(succeeded(upload(push, image, {2, 3, 4, 5})));
  EXPECT_EQ(load(push.commit().value(), name_space_), image);
}

TEST_F(PendingOffersTest, PageThatAnotherPushStoredMeanwhileIsNotStoredAgain) {
  const Bytes image = image_of("abab");
  Push slow(*store_, name_space_, spec("slow", image));
  ASSERT_EQ(offer(slow, image, 0, 2).value(), (Pages{0, 1}));
  ASSERT_EQ(offer(slow, image, 2, 2).value(), Pages{});
  ASSERT_TRUE(succeeded(store("fast", image, name_space_)));
  ASSERT_TRUE(succeeded(upload(slow, image, {0, 1})));
  const Manifest manifest = slow.commit().value();
  EXPECT_EQ(manifest.statistics.new_pages, 0u);
  EXPECT_EQ(load(manifest, name_space_), image);
  EXPECT_EQ(store_->totals(name_space_)->chunks, 2u);
}

}  // namespace
}  // namespace thaw::test
