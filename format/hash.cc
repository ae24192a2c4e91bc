#include "format/hash.h"

#include <openssl/evp.h>

#include "base/check.h"

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

const Sha256& zero_page_hash() {
  static const Sha256 hash = Hasher().hash(PlainPage{});
  return hash;
}

ContentHash::ContentHash() { hasher_.state_->begin(); }

void ContentHash::add(const Sha256& page) { hasher_.state_->update(page); }

void ContentHash::add_zero_pages(PageCount count) {
  for (std::uint64_t i = 0; i < count.value; ++i) add(zero_page_hash());
}

Sha256 ContentHash::finish() { return hasher_.state_->end(); }

}  // namespace thaw
