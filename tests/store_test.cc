// A push's core on the real RocksDB.

#include <array>
#include <filesystem>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "format/limits.h"
#include "pageserver/peer.h"
#include "pageserver/push.h"
#include "pageserver/sys/rocks_store.h"
#include "tests/support/programs.h"
#include "tests/support/raw_store.h"
#include "tests/support/store_fixture.h"
#include "tests/support/test_support.h"
#include "tests/support/unsupported_store.h"

namespace thaw::test {
namespace {

TEST_F(StoreTest, ImageComesBackAfterReopening) {
  const Bytes image = make_image(1, 300);
  const Manifest manifest = *store("a", image, name_space_);
  reopen();
  const Manifest found = *decode_manifest(*store_->manifest(name_space_, "a"));
  EXPECT_EQ(found, manifest);
  EXPECT_EQ(load(found, name_space_), image);
}

TEST_F(StoreTest, ColdMapComesAndGoesWithItsSnapshot) {
  const ColdMap cold{{{1}, {3}}, {{7}, {1}}};
  const Bytes image = image_of("ab..cdef");
  Push push(*store_, name_space_, spec("a", image));
  ASSERT_TRUE(succeeded(send(push, image)));
  EXPECT_EQ(code_of(push.set_cold_map(encode_cold_map({{{7}, {2}}}))), ErrorCode::kMalformed);
  ASSERT_TRUE(succeeded(push.set_cold_map(encode_cold_map(cold))));
  const Manifest manifest = push.commit().value();
  EXPECT_EQ(manifest.statistics.cold_pages, 2u) << "zeros do not count";
  EXPECT_EQ(store("b", image, name_space_)->statistics.cold_pages, 0u);
  reopen();
  EXPECT_EQ(decode_cold_map(*store_->cold_map(name_space_, manifest.snapshot), {8}).value(), cold);
  EXPECT_EQ(code_of(store_->cold_map(name_space_, {manifest.snapshot.value + 1})),
            ErrorCode::kNotFound);
  remove("a");
  EXPECT_EQ(code_of(store_->cold_map(name_space_, manifest.snapshot)), ErrorCode::kNotFound);
  EXPECT_TRUE(store_->strays(name_space_)->empty());
}

TEST_F(StoreTest, OptionalChunksComeFromMemoryAlone) {
  auto generator = seeded_generator();
  const Bytes image = random_bytes(generator, 600 * kPageBytes);
  const PageMap map = map_of(*store("a", image, name_space_), name_space_);
  reopen();  // which moves it from the log into tables
  const std::array<ChunkId, 2> near{map.chunk_of({10}), map.chunk_of({300})};
  const std::array<ChunkId, 2> far{map.chunk_of({300}), map.chunk_of({10})};
  ChunkRead cold;
  const auto read_cold = [&] {
    cold = {};  // which pins what the store has in memory
    store_.reset();
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path("store"))) {
      const UniqueFd file(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
      EXPECT_EQ(::fdatasync(file.get()), 0);
      EXPECT_EQ(::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    }
    reopen();
    cold = *store_->read_chunks(near, 1);
  };
  read_cold();
  // On a busy machine the kernel may hold on to pages for a moment.
  for (int again = 0; again < 5 && cold.chunks.size() == 2; ++again) read_cold();
  if (cold.chunks.size() == 2) GTEST_SKIP() << "this file system keeps its files in memory";
  ASSERT_EQ(cold.chunks.size(), 1u) << "the required one is read, the other one is not";
  PlainPage plain;
  EXPECT_TRUE(succeeded(codec_.decode(cold.chunks[0], near[0], plain)));
  EXPECT_TRUE(std::ranges::equal(plain, page(image, 10)));
  ASSERT_EQ(store_->read_chunks(far, 0)->chunks.size(), 2u);
  const ChunkRead warm = *store_->read_chunks(near, 1);
  ASSERT_EQ(warm.chunks.size(), 2u);
  EXPECT_TRUE(succeeded(codec_.decode(warm.chunks[1], near[1], plain)));
  EXPECT_TRUE(std::ranges::equal(plain, page(image, 300)));
}

TEST_F(StoreTest, MissingChunkIsNamedAndAnOptionalOneLeftOut) {
  const PageMap map = map_of(*store("a", make_image(1, 30), name_space_), name_space_);
  std::uint64_t first = 0;
  while (map.find({first}).zero()) ++first;
  const std::array<ChunkId, 2> ids{map.chunk_of({first}),
                                   ChunkId{map.chunk_of({first}).value + 9999}};
  EXPECT_EQ(code_of(store_->read_chunks(ids, 0)), ErrorCode::kNotFound);
  EXPECT_EQ(store_->read_chunks(ids, 1)->chunks.size(), 1u);
}

TEST_F(StoreTest, EachDistinctPageIsStoredOnce) {
  const Bytes image = make_image(1, 300);
  const Manifest first = *store("a", image, name_space_);
  const Manifest second = *store("b", image, name_space_);
  EXPECT_GT(first.statistics.zero_pages, 0u);
  EXPECT_GT(first.statistics.duplicate_pages, 0u);
  EXPECT_EQ(second.statistics.new_pages, 0u);
  EXPECT_EQ(store_->totals(name_space_)->chunks, first.statistics.new_pages);
  EXPECT_EQ(store_->totals(name_space_)->chunk_bytes, first.statistics.new_chunk_bytes);
  EXPECT_EQ(first.content_hash, second.content_hash);
  EXPECT_NE(first.snapshot, second.snapshot);
}

TEST_F(StoreTest, NeighbouringPagesHaveNeighbouringIds) {
  auto generator = seeded_generator();
  const Manifest manifest = *store("a", random_bytes(generator, 50 * kPageBytes), name_space_);
  EXPECT_EQ(map_of(manifest, name_space_).run_count(), 1u);
}

TEST_F(StoreTest, IdsAreNeverGivenOutTwice) {
  auto generator = seeded_generator();
  const auto last_id = [&](const std::string& name) {
    const Manifest manifest = *store(name, random_bytes(generator, 4 * kPageBytes), name_space_);
    return map_of(manifest, name_space_).chunk_of({3});
  };
  const ChunkId before = last_id("a");
  reopen();
  EXPECT_GT(last_id("b"), before);
}

TEST_F(StoreTest, NamespacesShareNothing) {
  const NamespaceId other = *store_->open_namespace("other");
  const Bytes image = make_image(1, 100);
  const Manifest ours = *store("a", image, name_space_);
  const Manifest theirs = *store("a", image, other);
  EXPECT_EQ(theirs.statistics.new_pages, ours.statistics.new_pages);
  EXPECT_EQ(load(theirs, other), image);

  ServerCommon server(StoreId{});
  Peer peer(*store_, server);
  ASSERT_TRUE(succeeded(peer.hello(message::Hello{.name_space = "default"})));
  const Message request = message::GetChunks{{ChunkId::of(other.value, 0, 1)}};
  EXPECT_EQ(code_of(peer.handle(request, {})), ErrorCode::kWrongNamespace);
}

TEST_F(StoreTest, TakenNameIsRefusedAtTheCommit) {
  const Bytes image = make_image(1, 20);
  Push late(*store_, name_space_, spec("a", image));
  ASSERT_TRUE(succeeded(send(late, image)));
  ASSERT_TRUE(succeeded(store("a", image, name_space_)));
  EXPECT_EQ(code_of(late.commit()), ErrorCode::kAlreadyExists);
  EXPECT_EQ(store_->manifests(name_space_, "", {10, SIZE_MAX})->size(), 1u);
}

TEST_F(StoreTest, DeletedSnapshotIsGoneAndItsChunksStay) {
  const Bytes image = make_image(1, 20);
  ASSERT_TRUE(succeeded(store("a", image, name_space_)));
  const std::uint64_t chunks = store_->totals(name_space_)->chunks;
  remove("a");
  EXPECT_EQ(code_of(store_->manifest(name_space_, "a")), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(store_->page_map_segment(name_space_, {1}, 0)), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(store_->remove(name_space_, {1})), ErrorCode::kNotFound);
  EXPECT_EQ(store_->totals(name_space_)->chunks, chunks);
  EXPECT_EQ(store("a", image, name_space_)->statistics.new_pages, 0u);
}

TEST_F(StoreTest, LyingClientsAreRefusedByName) {
  auto generator = seeded_generator();
  const Bytes image = random_bytes(generator, 2 * kPageBytes);
  const std::vector<Sha256> hashes{hasher_.hash(page(image, 0)), hasher_.hash(page(image, 1))};
  const ByteSpan both = std::as_bytes(std::span(hashes));
  const message::Offer offer{{0}, {2}, empty_bitmap(2)};
  Bytes wrong;
  codec_.encode(page(image, 1), kNoChunk, wrong);
  Push push(*store_, name_space_, spec("a", image));

  EXPECT_EQ(code_of(push.check_upload(1, wrong)), ErrorCode::kProtocol);
  EXPECT_EQ(code_of(push.commit()), ErrorCode::kProtocol);
  EXPECT_EQ(code_of(push.offer({{1}, {1}, empty_bitmap(1)}, both.first(32))), ErrorCode::kProtocol);
  EXPECT_EQ(code_of(push.offer({{0}, {3}, empty_bitmap(3)}, both)), ErrorCode::kProtocol);
  EXPECT_EQ(code_of(push.offer(offer, both.first(63))), ErrorCode::kTruncated);
  ASSERT_TRUE(succeeded(push.offer(offer, both)));
  EXPECT_EQ(code_of(push.offer(offer, both)), ErrorCode::kProtocol) << "not the next pages";
  EXPECT_EQ(code_of(push.check_upload(1, wrong)), ErrorCode::kHashMismatch);
  EXPECT_EQ(code_of(push.check_upload(3, wrong)), ErrorCode::kProtocol);
  EXPECT_EQ(code_of(push.check_upload(1, ByteSpan(wrong).first(40))), ErrorCode::kTruncated);
  EXPECT_EQ(code_of(push.commit()), ErrorCode::kProtocol);

  Push honest(*store_, name_space_, spec("a", image));
  ASSERT_TRUE(succeeded(send(honest, image)));
  EXPECT_EQ(load(*honest.commit(), name_space_), image);
}

/// Has every page: each two beside each other as far apart as can be.
class FarChunks final : public UnsupportedStore {
  Result<std::vector<ChunkId>> find_chunks(NamespaceId, std::span<const Sha256> hashes) override {
    std::vector<ChunkId> found;
    for (std::size_t i = 0; i < hashes.size(); ++i) {
      found.push_back(i % 2 == 0 ? ChunkId::of(0, 0, 1) : ChunkId::of(0xffff, 0xff, 1));
    }
    return found;
  }
};

/// Pages that are known cost a run each and no byte on the wire but their hash.
TEST(Push, OfTooManyRunsIsRefusedBeforeItTakesMoreMemory) {
  constexpr std::uint64_t kOffered = limits::kMaxOfferPages;
  FarChunks store;
  SnapshotSpec spec;
  spec.name = "wide";
  spec.memory = bytes_of({2000 * kOffered});
  ByteCount asked{0};
  const auto admit = [&](ByteCount all) -> Result<void> {
    asked = all;
    return {};
  };
  Push push(store, {1}, spec, {}, admit);
  const std::vector<Sha256> hashes(kOffered);
  message::Offer offer{{0}, {kOffered}, empty_bitmap(kOffered)};
  std::optional<ErrorCode> refused;
  while (!refused && offer.first.value < 2000 * kOffered) {
    refused = code_of(push.offer(offer, std::as_bytes(std::span(hashes))));
    offer.first += offer.count;
  }
  EXPECT_EQ(refused, ErrorCode::kTooLarge);
  EXPECT_EQ(code_of(push.commit()), ErrorCode::kTooLarge);
  EXPECT_GT(asked.value, limits::kMaxMapBytes);
  EXPECT_LE(asked.value, limits::kMaxMapBytes + kOffered * 14) << "an offer more at most";
}

TEST_F(StoreTest, PageMapOfTheParentIsCountedBeforeItIsRead) {
  const Manifest parent = *store("parent", image_of("abcabc"), name_space_);
  const auto refuse = [&](ByteCount all) -> Result<void> {
    EXPECT_EQ(all, map_of(parent, name_space_).memory());
    return fail(ErrorCode::kLimitExceeded, "no memory");
  };
  const Bytes image = image_of("abc");
  Push push(*store_, name_space_, spec("child", image), parent.snapshot, refuse);
  EXPECT_EQ(code_of(send(push, image)), ErrorCode::kLimitExceeded);
}

TEST_F(StoreTest, StoreInUseIsRefused) {
  EXPECT_EQ(code_of(open_rocks_store(directory_.path("store"), {0})), ErrorCode::kBusy);
}

TEST_F(StoreTest, NewerStoreIsRefused) {
  store_.reset();
  RawStore(directory_.path("store")).put("meta", "version", big_endian(5));
  EXPECT_EQ(code_of(open_rocks_store(directory_.path("store"), {0})), ErrorCode::kBadVersion);
}

TEST_F(StoreTest, StoresOfOlderVersionsAreTakenOver) {
  const Bytes image = make_image(1, 30);
  const Manifest manifest = *store("a", image, name_space_);
  for (const std::uint64_t version : {1, 2, 3}) {
    store_.reset();
    RawStore(directory_.path("store")).put("meta", "version", big_endian(version));
    reopen();
    EXPECT_EQ(load(manifest, name_space_), image);
    store_.reset();
    EXPECT_EQ(RawStore(directory_.path("store")).get("meta", "version"), big_endian(4));
  }
  RawStore(directory_.path("store")).put("meta", "version", big_endian(0));
  EXPECT_EQ(code_of(open_rocks_store(directory_.path("store"), {0})), ErrorCode::kBadVersion);
}

}  // namespace
}  // namespace thaw::test
