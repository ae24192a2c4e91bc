#include "vmm-client/microvm/memory_image.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "format/chunk.h"
#include "vmm-client/microvm/limits.h"
#include "vmm-client/microvm/memory_identity.h"

namespace thaw {

namespace {

/// What a thread takes at a time.
constexpr std::size_t kBlockBytes = kIdentityPieceBytes;

class ImageWriter {
 public:
  ImageWriter(ByteSpan memory, const std::vector<bool>& changed, const UniqueFd& file)
      : memory_(memory),
        changed_(changed),
        file_(file),
        hashes_((memory.size() + kBlockBytes - 1) / kBlockBytes) {}

  Result<MemoryImageStatistics> write() {
    {
      const unsigned threads =
          std::clamp(std::thread::hardware_concurrency(), 1u, limits::kMaxImageThreads);
      std::vector<std::jthread> pool;
      pool.reserve(threads);
      for (unsigned i = 0; i < threads; ++i) pool.emplace_back([this] { write_blocks(); });
    }
    if (failure_) return std::unexpected(*failure_);
    return MemoryImageStatistics{.data = {data_},
                                 .holes = {memory_.size() - data_},
                                 .content = changed_.empty() ? name_content(hashes_) : 0};
  }

 private:
  void write_blocks() {
    for (std::size_t at; !failed_ && (at = next_.fetch_add(kBlockBytes)) < memory_.size();) {
      const auto written = write_block(at, std::min(at + kBlockBytes, memory_.size()));
      if (written) continue;
      const std::lock_guard lock(mutex_);
      failure_ = written.error();
      failed_ = true;
    }
  }

  bool is_hole(std::size_t at) const {
    if (!changed_.empty()) return !changed_[at / kPageBytes];
    return is_zero_page(PageSpan(memory_.subspan(at, kPageBytes)));
  }

  /// Neighbouring pages that are no holes go into one write.
  Result<void> write_block(std::size_t begin, std::size_t end) {
    if (changed_.empty()) {
      hashes_[begin / kBlockBytes] = hash_piece(memory_.subspan(begin, end - begin));
    }
    std::size_t run = begin;
    for (std::size_t at = begin; at < end; at += kPageBytes) {
      if (!is_hole(at)) continue;
      TRY(write_run(run, at));
      run = at + kPageBytes;
    }
    return write_run(run, end);
  }
  Result<void> write_run(std::size_t begin, std::size_t end) {
    if (begin == end) return {};
    data_ += end - begin;
    return write_at(file_, memory_.subspan(begin, end - begin), begin);
  }

  const ByteSpan memory_;
  const std::vector<bool>& changed_;  // empty: not known
  const UniqueFd& file_;
  std::vector<std::uint64_t> hashes_;  // of the blocks, each written by one thread
  std::atomic<std::size_t> next_ = 0;
  std::atomic<std::size_t> data_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::optional<Error> failure_;  // guarded by mutex_ while threads run
};

}  // namespace

Result<MemoryImageStatistics> write_memory_image(ByteSpan memory, const UniqueFd& file,
                                                 const std::vector<bool>& changed) {
  CHECK(memory.size() % kPageBytes == 0);
  CHECK(changed.empty() || changed.size() == memory.size() / kPageBytes);
  TRY(resize_file(file, {memory.size()}));
  return ImageWriter(memory, changed, file).write();
}

}  // namespace thaw
