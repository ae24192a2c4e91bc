// What the fault handler knows of snapshots before their sessions begin, from the real page server.

#include "faulthandler/snapshot_source.h"

#include <cstring>
#include <filesystem>

#include <gtest/gtest.h>

#include "format/page_client.h"
#include "tests/support/programs.h"
#include "tests/support/raw_store.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

class SnapshotSourceTest : public testing::Test {
 protected:
  SnapshotSourceTest() { push(1); }

  std::string path(const std::string& name) const { return directory_.path(name); }
  void push(std::uint64_t seed) {
    write_file(path("image"), make_image(seed, 100));
    ASSERT_EQ(server_.thaw({"push", "snapshot", "--memory", path("image")}).exit_code, 0);
  }
  PreparedSnapshot prepare(MemoryUse use) {
    auto prepared = source_.prepare({"default", "snapshot", use});
    EXPECT_TRUE(succeeded(prepared));
    return std::move(prepared).value();
  }

  ScratchDirectory directory_;
  PageServer server_{path("store")};
  PageServers servers_{resolve_servers(server_.address(), {.insecure = true}, nullptr).value()};
  SnapshotSource source_{servers_, {1u << 20}};
};

TEST_F(SnapshotSourceTest, SessionsOfASnapshotShareWhatIsKnownOfIt) {
  const PreparedSnapshot first = prepare(MemoryUse::kOwn);
  EXPECT_EQ(first.places, nullptr) << "which only host images need";
  const PreparedSnapshot second = prepare(MemoryUse::kShared);
  const PreparedSnapshot third = prepare(MemoryUse::kShared);

  EXPECT_EQ(second.image, first.image);
  ASSERT_NE(second.places, nullptr);
  EXPECT_EQ(third.places, second.places) << "made once, before the session is the loop's";
  for (std::uint64_t page = 0; page < 100; ++page) {
    const ChunkId chunk = first.image->map.chunk_of({page});
    if (!chunk.valid()) continue;
    const auto place = second.places->find(chunk);
    ASSERT_TRUE(place) << page;
    EXPECT_EQ(first.image->map.chunk_of(*place), chunk);
  }
}

TEST_F(SnapshotSourceTest, NameStandsForOneContentOnly) {
  const std::string pinned =
      "snapshot@sha256:" + to_hex(prepare(MemoryUse::kOwn).image->manifest.content_hash);
  EXPECT_TRUE(succeeded(source_.prepare({"default", pinned})));
  ASSERT_EQ(server_.thaw({"rm", "snapshot"}).exit_code, 0);
  push(2);

  EXPECT_EQ(code_of(source_.prepare({"default", pinned})), ErrorCode::kHashMismatch);
}

TEST_F(SnapshotSourceTest, HashesOfPagesAreCountedAndTakenOver) {
  const auto held = [&] { return source_.budget().held(); };
  const PreparedSnapshot believed = prepare(MemoryUse::kOwn);
  const ByteCount map = held();
  const SnapshotWish wish{
      .name_space = "default",
      .snapshot = "snapshot@sha256:" + to_hex(believed.image->manifest.content_hash),
      .checked_by = CheckedBy::kContentHash};
  const auto checked = source_.prepare(wish);
  ASSERT_TRUE(succeeded(checked));
  ASSERT_NE(checked->image->page_hashes(), nullptr);
  EXPECT_NE(checked->image, believed.image) << "what is checked is another image";
  EXPECT_EQ(source_.prepare(wish)->image, checked->image);
  const ByteCount hashes = PageHashes::file_bytes(checked->image->map);
  EXPECT_EQ(hashes.value % sizeof(Sha256), 0u);
  EXPECT_GE(held(), map + map + hashes);

  SnapshotSource small(servers_, map + ByteCount{100});
  EXPECT_TRUE(succeeded(small.prepare({"default", "snapshot"})));
  EXPECT_EQ(code_of(small.prepare(wish)), ErrorCode::kLimitExceeded);

  const auto adopted = small.adopt(duplicate(checked->image->file).value(), MemoryUse::kOwn);
  ASSERT_TRUE(succeeded(adopted));
  ASSERT_NE(adopted->image->page_hashes(), nullptr);
  const Bytes image = make_image(1, 100);
  Hasher hasher;
  for (std::uint64_t i = 0; i < 100; ++i) {
    const auto page = ByteSpan(image).subspan(i * kPageBytes).first<kPageBytes>();
    EXPECT_TRUE(succeeded(adopted->image->hashes->check({i}, page, hasher))) << i;
    PlainPage other{};
    std::ranges::copy(page, other.begin());
    other.back() ^= std::byte{1};
    EXPECT_EQ(code_of(adopted->image->hashes->check({i}, other, hasher)), ErrorCode::kHashMismatch);
  }
}

TEST_F(SnapshotSourceTest, PageMapsOfAllSnapshotsHaveABudget) {
  const auto held = [&] { return source_.budget().held().value; };
  EXPECT_EQ(held(), 0u);
  {
    const PreparedSnapshot own = prepare(MemoryUse::kOwn);
    const std::uint64_t map = held();
    EXPECT_GE(map, own.image->map.memory().value);
    const PreparedSnapshot shared = prepare(MemoryUse::kShared);
    EXPECT_EQ(held(), map + shared.places->memory().value);
    const PreparedSnapshot third = prepare(MemoryUse::kShared);
    EXPECT_EQ(held(), map + shared.places->memory().value) << "shared";
  }
  EXPECT_EQ(held(), 0u);

  SnapshotSource small(servers_, {100});
  const auto refused = small.prepare({"default", "snapshot", MemoryUse::kOwn});
  EXPECT_EQ(code_of(refused), ErrorCode::kLimitExceeded);
  EXPECT_NE(refused.error().message().find("--index-mib"), std::string::npos);
  EXPECT_EQ(small.budget().held(), ByteCount{0});

  // What another process has begun goes on.
  const PreparedSnapshot kept = prepare(MemoryUse::kShared);
  const auto adopted = small.adopt(duplicate(kept.image->file).value(), MemoryUse::kShared);
  ASSERT_TRUE(succeeded(adopted));
  EXPECT_GT(small.budget().held(), small.budget().most());
}

/// The server's copy says that it holds more than it does.
TEST_F(SnapshotSourceTest, PageMapIsRefusedBeforeItTakesMemory) {
  constexpr std::uint32_t kPlainBytes = 900'000;
  ASSERT_EQ(server_.stop().value(), 0);
  {
    RawStore raw(path("store"));
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] != 'p') continue;
      std::string segment = raw.get("snapshot", key);
      std::memcpy(segment.data() + 8, &kPlainBytes, sizeof(kPlainBytes));
      raw.put("snapshot", key, segment);
    }
  }
  server_.start();
  EXPECT_EQ(code_of(SnapshotSource(servers_, {kPlainBytes}).prepare({"default", "snapshot"})),
            ErrorCode::kLimitExceeded);
  SnapshotSource large(servers_, {10 * kPlainBytes});
  EXPECT_EQ(code_of(large.prepare({"default", "snapshot"})), ErrorCode::kMalformed);
  EXPECT_EQ(large.budget().held(), ByteCount{0}) << "given back";
}

TEST_F(SnapshotSourceTest, SameNumbersOfAnotherStoreAreAnotherSnapshot) {
  const PreparedSnapshot first = prepare(MemoryUse::kShared);
  server_.kill();
  std::filesystem::rename(path("store"), path("old"));
  server_.start();
  push(1);
  const PreparedSnapshot second = prepare(MemoryUse::kShared);

  EXPECT_EQ(second.image->manifest.snapshot, first.image->manifest.snapshot);
  EXPECT_EQ(second.image->manifest.content_hash, first.image->manifest.content_hash);
  EXPECT_NE(second.image->origin.store, first.image->origin.store);
  EXPECT_NE(second.image, first.image);
  EXPECT_NE(second.places, first.places);
}

TEST_F(SnapshotSourceTest, DamagedWorkingSetIsReportedAndMadeAgain) {
  PageClient client = PageClient::connect(*resolve_tcp(server_.address()), "default").value();
  const Manifest manifest = client.show("snapshot").value();
  ASSERT_TRUE(succeeded(
      client.put_recording(manifest.snapshot, {.content_hash = manifest.content_hash,
                                               .created_unix_ms = 1,
                                               .regions = {},
                                               .touches = {{.page = {1}}, {.page = {2}}}})));
  ASSERT_EQ(prepare(MemoryUse::kOwn).set->page_count(), 2u);
  ASSERT_EQ(server_.stop().value(), 0);
  {
    RawStore raw(path("store"));
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] == 'w') raw.put("snapshot", key, "nonsense");
    }
  }
  server_.start();
  EXPECT_EQ(prepare(MemoryUse::kOwn).set, nullptr);
  const Deadline deadline = Deadline::after(kPatience);
  while (prepare(MemoryUse::kOwn).set == nullptr) ASSERT_FALSE(deadline.passed());
  EXPECT_EQ(prepare(MemoryUse::kOwn).set->page_count(), 2u);
}

}  // namespace
}  // namespace thaw::test
