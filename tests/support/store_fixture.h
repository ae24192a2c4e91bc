#pragma once

#include <memory>
#include <random>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "format/hash.h"
#include "pageserver/push.h"
#include "pageserver/sys/rocks_store.h"
#include "tests/support/raw_store.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/test_support.h"

namespace thaw::test {

/// A store on the real RocksDB, and images that come and go by the core of a push.
class StoreTest : public testing::Test {
 protected:
  StoreTest() { reopen(); }

  void reopen() {
    store_.reset();
    auto opened = open_rocks_store(directory_.path("store"), {0});
    ASSERT_TRUE(succeeded(opened));
    store_ = *std::move(opened);
    name_space_ = *store_->open_namespace("default");
  }

  /// Changes the store behind its back.
  template <typename Change>
  void change(Change change) {
    store_.reset();
    {
      RawStore raw(directory_.path("store"));
      change(raw);
    }
    reopen();
  }

  static SnapshotSpec spec(const std::string& name, const Bytes& image) {
    return {.name = name,
            .memory = {image.size()},
            .state = {},
            .regions = {},
            .labels = {},
            .cpu_vendor = {}};
  }
  static PageSpan page(const Bytes& image, std::size_t i) {
    return PageSpan(image.data() + i * kPageBytes, kPageBytes);
  }
  /// Offers the whole image in one step and uploads what is missing; returns how many pages were.
  Result<std::size_t> send(Push& push, const Bytes& image) {
    return send(push, image, 0, image.size() / kPageBytes);
  }
  /// The same of a part of it, the next one.
  Result<std::size_t> send(Push& push, const Bytes& image, std::size_t first, std::size_t pages) {
    message::Offer offer{{first}, {pages}, empty_bitmap(pages)};
    std::vector<Sha256> hashes;
    std::vector<std::size_t> offered;
    for (std::size_t i = first; i < first + pages; ++i) {
      if (is_zero_page(page(image, i))) {
        set_bit(offer.zero_bitmap, i - first);
        continue;
      }
      hashes.push_back(hasher_.hash(page(image, i)));
      offered.push_back(i);
    }
    const auto needed = TRY(push.offer(offer, std::as_bytes(std::span(hashes))));
    std::size_t uploaded = 0;
    for (std::size_t i = 0; i < offered.size(); ++i) {
      if (!bit(needed.missing_bitmap, i)) continue;
      Bytes chunk;
      codec_.encode(page(image, offered[i]), kNoChunk, chunk);
      TRY(push.check_upload(1, chunk));
      TRY(push.store_upload());
      ++uploaded;
    }
    return uploaded;
  }
  /// Pages that do not compress, one for each letter; equal letters are equal pages, '.' is zero.
  static Bytes image_of(std::string_view text) {
    Bytes image;
    for (const char letter : text) {
      std::mt19937_64 generator(static_cast<unsigned char>(letter));
      const Bytes content = letter == '.' ? Bytes(kPageBytes) : random_bytes(generator, kPageBytes);
      image.insert(image.end(), content.begin(), content.end());
    }
    return image;
  }
  Result<Manifest> store(const std::string& name, const Bytes& image, NamespaceId in,
                         SnapshotId parent = {}) {
    Push push(*store_, in, spec(name, image), parent);
    TRY(send(push, image));
    return push.commit();
  }
  PageMap map_of(const Manifest& manifest, NamespaceId in) {
    PageMap map;
    for (std::uint32_t i = 0; map.size() < manifest.spec.image_pages(); ++i) {
      const Bytes segment = *store_->page_map_segment(in, manifest.snapshot, i);
      EXPECT_TRUE(map.append_segment(segment, manifest.spec.image_pages()));
    }
    return map;
  }
  /// The image as a reader finds it in the store.
  Bytes load(const Manifest& manifest, NamespaceId in) {
    const PageMap map = map_of(manifest, in);
    Bytes image(bytes_of(map.size()).value);
    for (std::uint64_t i = 0; i < map.size().value; ++i) {
      const ChunkId id = map.chunk_of({i});
      if (!id.valid()) continue;
      const auto read = store_->read_chunks(std::span(&id, 1), 0);
      EXPECT_TRUE(succeeded(read));
      if (!read) return {};
      EXPECT_TRUE(succeeded(codec_.decode(
          read->chunks[0], id, MutablePageSpan(image.data() + i * kPageBytes, kPageBytes))));
    }
    return image;
  }

  void remove(const std::string& name) {
    const Manifest manifest = *decode_manifest(*store_->manifest(name_space_, name));
    ASSERT_TRUE(succeeded(store_->remove(name_space_, manifest.snapshot)));
  }

  ScratchDirectory directory_;
  std::unique_ptr<Store> store_;
  NamespaceId name_space_;
  ChunkCodec codec_;
  Hasher hasher_;
};

}  // namespace thaw::test
