#include "faulthandler/snapshot_image.h"

#include <algorithm>

#include "base/file.h"
#include "base/mapping.h"
#include "base/memory_file.h"
#include "format/limits.h"

namespace thaw {

namespace {

/// The file is a row of these: 8 bytes of length, and as many bytes.
void append_block(Bytes& to, ByteSpan block) {
  const std::size_t at = to.size();
  to.resize(at + sizeof(std::uint64_t));
  store_le(to.data() + at, std::uint64_t{block.size()});
  to.insert(to.end(), block.begin(), block.end());
}

Result<ByteSpan> take_block(ByteSpan& rest) {
  if (rest.size() < sizeof(std::uint64_t)) return fail(ErrorCode::kTruncated, "a snapshot's image");
  const auto length = load_le<std::uint64_t>(rest.data());
  rest = rest.subspan(sizeof(std::uint64_t));
  if (length > rest.size()) return fail(ErrorCode::kTruncated, "a snapshot's image");
  const ByteSpan block = rest.first(length);
  rest = rest.subspan(length);
  return block;
}

}  // namespace

ImageKey key_of(const SnapshotImage& image) {
  return {image.origin, image.manifest.snapshot,
          image.hashes ? std::optional(image.manifest.content_hash) : std::nullopt};
}

Result<void> keep_snapshot_image(SnapshotImage& image) {
  Bytes bytes;
  append_block(bytes, image.origin.store.bytes);
  append_block(bytes, as_bytes(image.origin.name_space));
  append_block(bytes, encode_manifest(image.manifest));
  append_block(bytes, image.cold.empty() ? Bytes() : encode_cold_map(image.cold));
  for (std::size_t i = 0; i < image.map.segment_count(); ++i) {
    append_block(bytes, image.map.encode_segment(i));
  }
  UniqueFd file = TRY(create_memory_file("thaw-snapshot", {bytes.size()}));
  TRY(write_at(file, bytes, 0));
  image.file = std::move(file);
  return {};
}

Result<void> fetch_page_hashes(PageClient& client, SnapshotImage& image) {
  const ByteCount size = PageHashes::file_bytes(image.map);
  Bytes head(sizeof(std::uint64_t));
  store_le(head.data(), size.value);
  std::uint64_t end = TRY(file_size(image.file)).value;
  TRY(write_at(image.file, head, end));
  end += head.size();
  const ByteCount begin{end};
  TRY(fetch_page_hashes(client, image.manifest, image.map, [&](ByteSpan hashes) -> Result<void> {
    TRY(write_at(image.file, hashes, end));
    end += hashes.size();
    return {};
  }));
  image.hashes = TRY(PageHashes::open(image.file, begin, size, image.map));
  return {};
}

Result<SnapshotImage> read_snapshot_image(UniqueFd file) {
  const ByteCount size = TRY(file_size(file));
  const Mapping mapping = TRY(Mapping::private_file(file, size));
  ByteSpan rest = mapping.bytes();
  SnapshotImage image;
  const ByteSpan store = TRY(take_block(rest));
  if (store.size() != image.origin.store.bytes.size()) {
    return fail(ErrorCode::kMalformed, "a store id of {} bytes", store.size());
  }
  std::ranges::copy(store, image.origin.store.bytes.begin());
  image.origin.name_space = as_text(TRY(take_block(rest)));
  image.manifest = TRY(decode_manifest(TRY(take_block(rest))));
  const ByteSpan cold = TRY(take_block(rest));
  if (!cold.empty()) {
    image.cold = TRY(decode_cold_map(cold, image.manifest.spec.memory_pages()));
  }
  const PageCount pages = image.manifest.spec.image_pages();
  while (!rest.empty() && image.map.size() < pages) {
    TRY(image.map.append_segment(TRY(take_block(rest)), pages - image.map.size()));
  }
  if (image.map.size() != pages) return fail(ErrorCode::kMalformed, "a page map that ends early");
  if (!rest.empty()) {
    const ByteSpan hashes = TRY(take_block(rest));
    const ByteCount offset{size.value - rest.size() - hashes.size()};
    image.hashes = TRY(PageHashes::open(file, offset, {hashes.size()}, image.map));
  }
  if (!rest.empty()) return fail(ErrorCode::kMalformed, "bytes after a snapshot's image");
  image.file = std::move(file);
  return image;
}

}  // namespace thaw
