// Working sets over the wire: the real page server under clients that record, prefetch and lie.

#include <algorithm>
#include <array>
#include <map>
#include <thread>

#include <gtest/gtest.h>

#include "base/socket.h"
#include "format/hash.h"
#include "format/limits.h"
#include "format/pack.h"
#include "format/page_client.h"
#include "pageserver/limits.h"
#include "pageserver/rank.h"
#include "tests/support/page_connection.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr std::uint64_t kPages = 600;

class WorkingSetsTest : public testing::Test {
 protected:
  PageClient connect(const std::string& name_space = "default") {
    return PageClient::connect(*resolve_tcp(server_.address()), name_space).value();
  }
  static PageSpan page(const Bytes& image, std::size_t i) {
    return PageSpan(image.data() + i * kPageBytes, kPageBytes);
  }
  /// Pushes an image of at most limits::kMaxOfferPages pages.
  Result<Manifest> push(const std::string& name, const Bytes& image,
                        const std::string& parent = {}) {
    const std::size_t pages = image.size() / kPageBytes;
    TRY(client_.begin_push({.name = name,
                            .memory = {image.size()},
                            .state = {},
                            .regions = {},
                            .labels = {},
                            .cpu_vendor = {}},
                           parent));
    message::Offer offer{{0}, {pages}, empty_bitmap(pages)};
    std::vector<Sha256> hashes;
    std::vector<std::size_t> offered;
    for (std::size_t i = 0; i < pages; ++i) {
      if (is_zero_page(page(image, i))) {
        set_bit(offer.zero_bitmap, i);
        continue;
      }
      hashes.push_back(Hasher().hash(page(image, i)));
      offered.push_back(i);
    }
    const Bytes missing = TRY(client_.offer(offer, hashes));
    for (std::size_t i = 0; i < offered.size(); ++i) {
      if (!bit(missing, i)) continue;
      Bytes chunk;
      codec_.encode(page(image, offered[i]), kNoChunk, chunk);
      TRY(client_.upload(1, chunk));
    }
    return client_.commit();
  }
  /// Touches of `pages` pages of the memory at random times of half a second.
  static Recording record(std::mt19937_64& generator, const Manifest& manifest, std::size_t pages) {
    Recording recording{.content_hash = manifest.content_hash,
                        .created_unix_ms = generator() >> 20,
                        .regions = {},
                        .touches = {}};
    std::vector<std::uint64_t> all(manifest.spec.memory_pages().value);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
    std::ranges::shuffle(all, generator);
    std::uint32_t us = 0;
    for (std::size_t i = 0; i < pages; ++i) {
      us += static_cast<std::uint32_t>(pick(generator, 1'000'000 / pages));
      recording.touches.push_back({.page = {all[i]}, .us = us});
    }
    return recording;
  }
  /// Fetches and decodes every pack of a set, and compares it with the image.
  void expect_packs_hold(const WorkingSet& set, const Manifest& manifest, const Bytes& image) {
    const PageMap map = client_.page_map(manifest).value();
    const auto packs = packed_pages(set, map, manifest.spec.memory_pages());
    ASSERT_TRUE(succeeded(packs));
    PageConnection prefetch(server_.address(), message::Role::kPrefetch);
    PackCodec codec;
    std::size_t pages = 0;
    for (std::uint32_t i = 0; i < packs->size(); ++i) {
      const auto reply = prefetch.ask(message::GetPack{set.snapshot, set.generation, i});
      ASSERT_TRUE(std::holds_alternative<message::PackReply>(reply.message)) << i;
      EXPECT_EQ(reply.body.size(), set.packs[i].bytes);
      Bytes plain(bytes_of({(*packs)[i].size()}).value);
      ASSERT_TRUE(succeeded(codec.decode(reply.body, (*packs)[i], plain)));
      for (std::size_t k = 0; k < (*packs)[i].size(); ++k, ++pages) {
        EXPECT_TRUE(std::ranges::equal(page(plain, k), page(image, (*packs)[i][k].page.value)));
      }
    }
    EXPECT_LE(set.pack_bytes(), bytes_of({pages}).value) << "no more than the pages themselves";
    const auto beyond = static_cast<std::uint32_t>(packs->size());
    prefetch.send(message::GetPack{set.snapshot, set.generation, beyond});
    EXPECT_EQ(prefetch.receive_error(), ErrorCode::kNotFound);
  }
  std::vector<std::uint64_t> numbers(SnapshotId snapshot) {
    std::vector<std::uint64_t> found;
    for (const auto& summary : client_.working_set_report(snapshot).value().recordings) {
      found.push_back(summary.number);
    }
    return found;
  }

  ScratchDirectory directory_;
  PageServer server_{directory_.path("store")};
  PageClient client_ = connect();
  ChunkCodec codec_;
  std::mt19937_64 generator_ = seeded_generator();
};

TEST_F(WorkingSetsTest, RecordingsMakeASetWhosePacksAreTheImage) {
  const Bytes image = make_image(1, kPages);
  const Manifest manifest = push("a", image).value();
  EXPECT_EQ(code_of(client_.working_set(manifest.snapshot)), ErrorCode::kNotFound);
  std::vector<Recording> recordings;
  for (std::uint64_t number = 1; number <= 3; ++number) {
    recordings.push_back(record(generator_, manifest, 400));
    ASSERT_TRUE(succeeded(client_.put_recording(manifest.snapshot, recordings.back())));
    const auto set = client_.working_set(manifest.snapshot);
    ASSERT_TRUE(succeeded(set));
    EXPECT_EQ(set->snapshot, manifest.snapshot);
    EXPECT_EQ(set->generation, number);
    EXPECT_EQ(set->recordings, number);
    EXPECT_EQ(set->pages, rank(recordings));
    expect_packs_hold(*set, manifest, image);
    EXPECT_EQ(client_.recording(manifest.snapshot, number).value(), recordings.back());
  }
  EXPECT_EQ(code_of(client_.recording(manifest.snapshot, 4)), ErrorCode::kNotFound);
  const auto statistics = client_.statistics();
  ASSERT_TRUE(succeeded(statistics));
  EXPECT_GT(statistics->packs_served, 0u);
  EXPECT_GT(statistics->pack_bytes, client_.working_set(manifest.snapshot)->pack_bytes());
}

}  // namespace
}  // namespace thaw::test
