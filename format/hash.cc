#include "format/hash.h"

#include <algorithm>

#include <openssl/evp.h>
#include <xxhash.h>

#include "base/check.h"
#include "format/limits.h"
#include "format/wire.h"

namespace thaw {

struct Hasher::State {
  std::unique_ptr<EVP_MD, void (*)(EVP_MD*)> algorithm{EVP_MD_fetch(nullptr, "SHA256", nullptr),
                                                       &EVP_MD_free};
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context{EVP_MD_CTX_new(), &EVP_MD_CTX_free};

  void begin() { CHECK(EVP_DigestInit_ex2(context.get(), algorithm.get(), nullptr) == 1); }
  void update(ByteSpan bytes) {
    CHECK(EVP_DigestUpdate(context.get(), bytes.data(), bytes.size()) == 1);
  }
  Sha256 end() {
    Sha256 digest;
    // SAFETY: SHA-256 writes exactly the 32 bytes that digest has.
    CHECK(EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(digest.data()),
                             nullptr) == 1);
    return digest;
  }
};

Hasher::Hasher() : state_(std::make_unique<State>()) {
  CHECK(state_->algorithm != nullptr && state_->context != nullptr);
}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;

Sha256 Hasher::hash(ByteSpan bytes) {
  state_->begin();
  state_->update(bytes);
  return state_->end();
}

std::uint64_t fast_hash(ByteSpan bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

const Sha256& zero_page_hash() {
  static const Sha256 hash = Hasher().hash(PlainPage{});
  return hash;
}

namespace {

/// What comes before the segments' hashes, so that no other hash of ours is over the same bytes.
constexpr std::string_view kSegmentsMark{"thaw-segments-1\0", 16};

const Sha256& zero_segment_hash() {
  static const Sha256 hash = [] {
    const std::vector<Sha256> pages(limits::kSegmentPages, zero_page_hash());
    return Hasher().hash(std::as_bytes(std::span(pages)));
  }();
  return hash;
}

}  // namespace

ContentHash::ContentHash(ContentForm form) : form_(form) { hasher_.state_->begin(); }

void ContentHash::add(std::span<const Sha256> pages) {
  while (!pages.empty()) {
    std::uint64_t now = pages.size();
    if (form_ == ContentForm::kSegments) now = std::min(now, limits::kSegmentPages - in_segment_);
    hasher_.state_->update(std::as_bytes(pages.first(now)));
    pages = pages.subspan(now);
    in_segment_ += now;
    const bool ends = form_ == ContentForm::kSegments && in_segment_ == limits::kSegmentPages;
    if (ends) end_segment();
  }
}

void ContentHash::end_segment() {
  segments_.push_back(hasher_.state_->end());
  hasher_.state_->begin();
  in_segment_ = 0;
}

void ContentHash::add_zero_pages(PageCount count) {
  static const std::vector<Sha256> hashes(64, zero_page_hash());
  for (std::uint64_t left = count.value; left > 0;) {
    const bool whole_segment =
        form_ == ContentForm::kSegments && in_segment_ == 0 && left >= limits::kSegmentPages;
    if (whole_segment) {
      segments_.push_back(zero_segment_hash());
      left -= limits::kSegmentPages;
      continue;
    }
    std::uint64_t now = std::min<std::uint64_t>(left, hashes.size());
    if (form_ == ContentForm::kSegments) now = std::min(now, limits::kSegmentPages - in_segment_);
    add(std::span(hashes).first(now));
    left -= now;
  }
}

void ContentHash::add_pages(ByteSpan zero_bitmap, PageCount count, std::span<const Sha256> others) {
  for (std::size_t first = 0; first < count.value;) {
    const bool zero = bit(zero_bitmap, first);
    std::size_t end = first + 1;
    while (end < count.value && bit(zero_bitmap, end) == zero) ++end;
    if (zero) {
      add_zero_pages({end - first});
    } else {
      add(others.first(end - first));
      others = others.subspan(end - first);
    }
    first = end;
  }
}

Sha256 ContentHash::finish(const SnapshotSpec& spec) {
  if (form_ == ContentForm::kFlat) return hasher_.state_->end();
  if (in_segment_ > 0) end_segment();
  const ByteSpan mark = as_bytes(kSegmentsMark);
  Bytes whole(mark.begin(), mark.end());
  // Where the state begins is content too: pages of the one must not come as the other.
  for (const ByteCount size : {spec.memory, spec.state}) {
    whole.resize(whole.size() + sizeof(std::uint64_t));
    store_le(whole.data() + whole.size() - sizeof(std::uint64_t), size.value);
  }
  const ByteSpan segments = std::as_bytes(std::span(segments_));
  whole.insert(whole.end(), segments.begin(), segments.end());
  hasher_.state_->begin();
  hasher_.state_->update(whole);
  return hasher_.state_->end();
}

}  // namespace thaw
