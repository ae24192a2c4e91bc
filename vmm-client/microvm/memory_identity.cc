#include "vmm-client/microvm/memory_identity.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/file.h"
#include "format/hash.h"
#include "vmm-client/microvm/limits.h"

namespace thaw {

namespace {

ByteSpan page_in(ByteSpan memory, PageIndex page) {
  return memory.subspan(offset_of(page).value, kPageBytes);
}

/// Threads that hash the pieces of a file.
class FileHasher {
 public:
  FileHasher(const UniqueFd& file, ByteCount size)
      : file_(file),
        size_(size.value),
        hashes_((size.value + kIdentityPieceBytes - 1) / kIdentityPieceBytes) {}

  Result<std::uint64_t> run() {
    {
      const unsigned threads =
          std::clamp(std::thread::hardware_concurrency(), 1u, limits::kMaxImageThreads);
      std::vector<std::jthread> pool;
      pool.reserve(threads);
      for (unsigned i = 0; i < threads; ++i) pool.emplace_back([this] { hash_pieces(); });
    }
    if (failure_) return std::unexpected(*failure_);
    return name_content(hashes_);
  }

 private:
  void hash_pieces() {
    Bytes buffer(std::min(kIdentityPieceBytes, size_));
    for (std::size_t i; !failed_ && (i = next_++) < hashes_.size();) {
      const std::size_t at = i * kIdentityPieceBytes;
      const MutableByteSpan piece =
          MutableByteSpan(buffer).first(std::min(kIdentityPieceBytes, size_ - at));
      const auto read = read_at(file_, piece, at);
      if (read) {
        hashes_[i] = hash_piece(piece);
        continue;
      }
      const std::lock_guard lock(mutex_);
      failure_ = read.error();
      failed_ = true;
    }
  }

  const UniqueFd& file_;
  const std::size_t size_;
  std::vector<std::uint64_t> hashes_;  // each written by one thread
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::optional<Error> failure_;  // guarded by mutex_ while threads run
};

}  // namespace

std::uint64_t hash_piece(ByteSpan piece) { return fast_hash(piece); }

std::uint64_t name_content(const std::vector<std::uint64_t>& pieces) {
  Bytes bytes(pieces.size() * sizeof(std::uint64_t));
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    store_le(bytes.data() + i * sizeof(std::uint64_t), pieces[i]);
  }
  return fast_hash(bytes);
}

Result<void> check_content(const UniqueFd& file, ByteCount size, std::uint64_t content) {
  const std::uint64_t found = TRY(FileHasher(file, size).run());
  if (found == content) return {};
  return fail(ErrorCode::kChecksumMismatch,
              "this memory was not captured with this state: its content is {:016x}, not {:016x}",
              found, content);
}

std::vector<PageWitness> take_witnesses(const std::vector<std::uint64_t>& addresses,
                                        ByteSpan memory) {
  std::vector<PageWitness> witnesses;
  for (const std::uint64_t address : addresses) {
    const PageIndex page = page_of(ImageOffset{address});
    const bool known = std::ranges::any_of(
        witnesses, [&](const PageWitness& witness) { return witness.page == page; });
    if (known || address >= memory.size()) continue;
    witnesses.push_back({page, hash_piece(page_in(memory, page))});
  }
  return witnesses;
}

Result<void> check_witnesses(const std::vector<PageWitness>& witnesses, ByteSpan memory) {
  for (const PageWitness& witness : witnesses) {
    CHECK(witness.page.value < memory.size() / kPageBytes);
    if (hash_piece(page_in(memory, witness.page)) == witness.hash) continue;
    return fail(ErrorCode::kChecksumMismatch,
                "this memory was not captured with this state: its page {} is another",
                witness.page.value);
  }
  return {};
}

}  // namespace thaw
