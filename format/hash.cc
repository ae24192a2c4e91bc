#include "format/hash.h"

#include <algorithm>

#include <openssl/evp.h>
#include <xxhash.h>

#include "base/check.h"
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

ContentHash::ContentHash() { hasher_.state_->begin(); }

void ContentHash::add(std::span<const Sha256> pages) {
  if (!pages.empty()) hasher_.state_->update(std::as_bytes(pages));
}

void ContentHash::add_zero_pages(PageCount count) {
  static const std::vector<Sha256> hashes(64, zero_page_hash());
  for (std::uint64_t left = count.value; left > 0;) {
    const std::uint64_t now = std::min<std::uint64_t>(left, hashes.size());
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

Sha256 ContentHash::finish() { return hasher_.state_->end(); }

}  // namespace thaw
