#include "faulthandler/page_hashes.h"

#include <algorithm>
#include <bit>

#include "format/limits.h"

namespace thaw {

namespace {

constexpr std::uint64_t kWordPages = 64;

/// Calls `visit` with each run of [first, end).
template <typename Visit>
void for_each_run(const PageMap& map, PageIndex first, PageIndex end, Visit visit) {
  for (PageMap::Cursor cursor(map, first); !cursor.at_end(); cursor.next()) {
    PageMap::Run run = cursor.rest();
    if (run.first >= end) return;
    run.length = std::min(run.length, end - run.first);
    visit(run);
  }
}

PageCount stored_pages(const PageMap& map, PageIndex first, PageIndex end) {
  PageCount stored{0};
  for_each_run(map, first, end, [&](const PageMap::Run& run) {
    if (!run.zero()) stored += run.length;
  });
  return stored;
}

}  // namespace

ByteCount PageHashes::file_bytes(const PageMap& map) {
  return {stored_pages(map, {0}, {map.size().value}).value * sizeof(Sha256)};
}

ByteCount PageHashes::index_bytes(PageCount pages) {
  const std::uint64_t words = (pages.value + kWordPages - 1) / kWordPages;
  return {words * (sizeof(std::uint64_t) + sizeof(std::uint32_t))};
}

Result<PageHashes> PageHashes::open(const UniqueFd& file, ByteCount offset, ByteCount size,
                                    const PageMap& map) {
  if (size != file_bytes(map)) {
    return fail(ErrorCode::kMalformed, "{} bytes of page hashes, wanted {}", size.value,
                file_bytes(map).value);
  }
  Mapping mapping = TRY(Mapping::private_file(file, offset + size));
  const ByteSpan bytes = ByteSpan(mapping.bytes()).subspan(offset.value);
  PageHashes hashes(std::move(mapping), bytes);
  hashes.stored_.resize((map.size().value + kWordPages - 1) / kWordPages);
  for_each_run(map, {0}, {map.size().value}, [&](const PageMap::Run& run) {
    for (std::uint64_t i = 0; i < run.length.value && !run.zero(); ++i) {
      const std::uint64_t page = run.first.value + i;
      hashes.stored_[page / kWordPages] |= std::uint64_t{1} << page % kWordPages;
    }
  });
  std::uint32_t before = 0;
  for (const std::uint64_t word : hashes.stored_) {
    hashes.before_.push_back(before);
    before += static_cast<std::uint32_t>(std::popcount(word));
  }
  return hashes;
}

const Sha256* PageHashes::find(PageIndex page) const {
  const std::uint64_t word = stored_[page.value / kWordPages];
  const std::uint64_t bit = std::uint64_t{1} << page.value % kWordPages;
  if ((word & bit) == 0) return nullptr;
  const std::uint64_t at = before_[page.value / kWordPages] +
                           static_cast<std::uint64_t>(std::popcount(word & (bit - 1)));
  // SAFETY: a Sha256 is an array of bytes, and there is one for each bit that is set.
  return reinterpret_cast<const Sha256*>(hashes_.data()) + at;
}

Result<void> PageHashes::check(PageIndex page, PageSpan plain, Hasher& hasher) const {
  const Sha256* const hash = find(page);
  const bool right = hash != nullptr ? hasher.hash(plain) == *hash : is_zero_page(plain);
  if (right) return {};
  return fail(ErrorCode::kHashMismatch, "page {} is not the one that the content hash names",
              page.value);
}

Result<void> fetch_page_hashes(PageClient& client, const Manifest& manifest, const PageMap& map,
                               const HashSink& sink) {
  ContentHash content(manifest.content_form);
  const PageIndex end{map.size().value};
  std::uint32_t segment = 0;
  for (PageIndex first{0}; first < end; first += PageCount{limits::kSegmentPages}, ++segment) {
    const PageIndex behind = std::min(end, first + PageCount{limits::kSegmentPages});
    const PageCount stored = stored_pages(map, first, behind);
    std::span<const Sha256> hashes;
    if (stored.value > 0) {
      hashes = TRY(client.page_hashes(manifest.snapshot, segment, stored));
      TRY(sink(std::as_bytes(hashes)));
    }
    for_each_run(map, first, behind, [&](const PageMap::Run& run) {
      if (run.zero()) return content.add_zero_pages(run.length);
      content.add(hashes.first(run.length.value));
      hashes = hashes.subspan(run.length.value);
    });
  }
  if (content.finish(manifest.spec) == manifest.content_hash) return {};
  return fail(ErrorCode::kHashMismatch,
              "the page server's page map and hashes of {} are not what its content hash names",
              manifest.spec.name);
}

}  // namespace thaw
