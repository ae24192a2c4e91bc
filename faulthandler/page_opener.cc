#include "faulthandler/page_opener.h"

namespace thaw {

Result<void> PageOpener::open_chunk(ByteSpan chunk, const PackPage& page, const PageHashes* hashes,
                                    MutablePageSpan to) {
  TRY(chunks_.decode(chunk, page.chunk, to));
  return hashes != nullptr ? hashes->check(page.page, to, hasher_) : Result<void>();
}

Result<void> PageOpener::open_chunks(ByteSpan chunks, std::span<const PackPage> pages,
                                     const PageHashes* hashes, MutableByteSpan to) {
  for (const PackPage& page : pages) {
    const MutablePageSpan plain = to.first<kPageBytes>();
    chunks = TRY(chunks_.decode_next(chunks, page.chunk, plain));
    if (hashes != nullptr) TRY(hashes->check(page.page, plain, hasher_));
    to = to.subspan(kPageBytes);
  }
  if (!chunks.empty()) return fail(ErrorCode::kMalformed, "bytes after the last chunk");
  return {};
}

Result<void> PageOpener::open_pack(PackCodec& codec, ByteSpan sealed,
                                   std::span<const PackPage> pages, const PageHashes* hashes,
                                   MutableByteSpan to) {
  TRY(codec.decode(sealed, pages, to));
  for (std::size_t i = 0; hashes != nullptr && i < pages.size(); ++i) {
    TRY(hashes->check(pages[i].page, to.subspan(i * kPageBytes).first<kPageBytes>(), hasher_));
  }
  return {};
}

std::optional<PageSpan> PageOpener::find(const ChunkSource& local, const PackPage& page,
                                         const PageHashes* hashes) {
  const auto content = local.find(page.chunk);
  const bool wrong = content && hashes != nullptr && !hashes->check(page.page, *content, hasher_);
  return wrong ? std::nullopt : content;
}

}  // namespace thaw
