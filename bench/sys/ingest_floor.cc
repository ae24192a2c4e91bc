#include "bench/sys/ingest_floor.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <set>
#include <thread>

#include <zstd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "bench/cpu.h"
#include "format/hash.h"

namespace thaw::bench {

namespace {

constexpr int kLevel = 1;
/// What a thread takes at a time.
constexpr std::size_t kBatchPages = 256;
constexpr std::size_t kHashedPages = 4096;

Result<std::vector<std::size_t>> data_pages(const std::string& path) {
  const UniqueFd file = TRY(open_for_reading(path));
  std::vector<std::size_t> pages;
  std::uint64_t offset = 0;
  while (const auto data = TRY(next_data(file, offset))) {
    for (offset = data->begin; offset < data->end; offset += kPageBytes) {
      pages.push_back(offset / kPageBytes);
    }
  }
  return pages;
}

class Compressor {
 public:
  Compressor() : context_(ZSTD_createCCtx(), &ZSTD_freeCCtx) { CHECK(context_ != nullptr); }

  /// Bytes of the page's frame.
  std::size_t compress(PageSpan page) {
    const std::size_t size = ZSTD_compressCCtx(context_.get(), frame_.data(), frame_.size(),
                                               page.data(), page.size(), kLevel);
    CHECK(ZSTD_isError(size) == 0);
    return size;
  }

 private:
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context_;
  Bytes frame_ = Bytes(ZSTD_compressBound(kPageBytes));
};

}  // namespace

Result<IngestFloor> IngestFloor::of(const std::vector<Source>& sources) {
  IngestFloor floor;
  Hasher hasher;
  std::set<Sha256> seen;
  for (const Source& source : sources) {
    for (const std::size_t index : TRY(data_pages(source.path))) {
      const PageSpan page = source.image.page(index);
      Page::Kind kind = Page::Kind::kZero;
      if (!is_zero_page(page)) {
        kind = seen.insert(hasher.hash(page)).second ? Page::Kind::kNew : Page::Kind::kKnown;
        ++floor.nonzero_;
      }
      floor.pages_.push_back({page, kind});
    }
  }
  floor.distinct_ = seen.size();
  if (seen.empty()) return fail(ErrorCode::kInvalidArgument, "all pages of the images are zero");
  return floor;
}

double IngestFloor::measure(Store store) const {
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    Hasher hasher;
    Compressor compressor;
    for (std::size_t first; (first = next.fetch_add(kBatchPages)) < pages_.size();) {
      for (std::size_t i = first; i < std::min(first + kBatchPages, pages_.size()); ++i) {
        if (is_zero_page(pages_[i].bytes)) continue;
        hasher.hash(pages_[i].bytes);
        if (store == Store::kEmpty && pages_[i].kind == Page::Kind::kNew) {
          compressor.compress(pages_[i].bytes);
        }
      }
    }
  };
  const Clock::time_point start = Clock::now();
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(work);
  }
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double IngestFloor::hash_us() const {
  const std::vector<PageSpan> pages = sample(kHashedPages);
  Hasher hasher;
  const double before = thread_cpu_us();
  for (const PageSpan page : pages) hasher.hash(page);
  return (thread_cpu_us() - before) / static_cast<double>(pages.size());
}

double IngestFloor::frame_bytes() const {
  Compressor compressor;
  std::size_t bytes = 0;
  for (const Page& page : pages_) {
    if (page.kind != Page::Kind::kNew) continue;
    bytes += std::min(compressor.compress(page.bytes), kPageBytes);
  }
  return static_cast<double>(bytes);
}

std::vector<PageSpan> IngestFloor::sample(std::size_t most) const {
  const std::size_t step = (nonzero_ + most - 1) / most;
  std::vector<PageSpan> pages;
  std::size_t at = 0;
  for (const Page& page : pages_) {
    if (page.kind != Page::Kind::kZero && at++ % step == 0) pages.push_back(page.bytes);
  }
  return pages;
}

}  // namespace thaw::bench
