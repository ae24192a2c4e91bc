#include "bench/sys/library_floors.h"

#include <algorithm>

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/table.h>
#include <zstd.h>

#include "base/check.h"
#include "base/clock.h"
#include "bench/cpu.h"
#include "bench/figures.h"

namespace thaw::bench {

namespace {

/// What the page server gives its cache.
constexpr std::size_t kBlockCacheBytes = 64u << 20;

/// Measures `operation(i)` for each i below `repetitions`; it returns whether it succeeded.
template <typename Operation>
Result<FloorSample> measure_each(std::size_t repetitions, const char* what, Operation operation) {
  std::vector<double> us(repetitions);
  const double before = thread_cpu_us();
  for (std::size_t i = 0; i < repetitions; ++i) {
    const Clock::time_point start = Clock::now();
    if (!operation(i)) return fail(ErrorCode::kIo, "{} failed", what);
    us[i] = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  }
  const double cpu_us = thread_cpu_us() - before;
  return FloorSample{
      .us = median(us), .own_cpu_us = cpu_us / static_cast<double>(repetitions), .peer_cpu_us = 0};
}

}  // namespace

Result<FloorSample> measure_decompression(const std::vector<PageSpan>& pages) {
  std::vector<Bytes> frames;
  for (const PageSpan page : pages) {
    Bytes frame(ZSTD_compressBound(page.size()));
    const std::size_t size =
        ZSTD_compress(frame.data(), frame.size(), page.data(), page.size(), /*level=*/1);
    if (ZSTD_isError(size) != 0 || size >= page.size()) continue;
    frame.resize(size);
    frames.push_back(std::move(frame));
  }
  if (frames.empty()) {
    return fail(ErrorCode::kInvalidArgument, "no page of the image can be compressed");
  }
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                     &ZSTD_freeDCtx);
  CHECK(context != nullptr);
  PlainPage plain;
  return measure_each(frames.size(), "decompressing", [&](std::size_t i) {
    return ZSTD_decompressDCtx(context.get(), plain.data(), plain.size(), frames[i].data(),
                               frames[i].size()) == plain.size();
  });
}

Result<double> measure_group_decompression(const std::vector<PageSpan>& pages) {
  constexpr std::size_t kGroup = 16;
  Bytes plain(kGroup * kPageBytes);
  std::vector<Bytes> frames;
  for (std::size_t first = 0; first + kGroup <= pages.size(); first += kGroup) {
    for (std::size_t i = 0; i < kGroup; ++i) {
      std::ranges::copy(pages[first + i],
                        plain.begin() + static_cast<std::ptrdiff_t>(i * kPageBytes));
    }
    Bytes frame(ZSTD_compressBound(plain.size()));
    const std::size_t size =
        ZSTD_compress(frame.data(), frame.size(), plain.data(), plain.size(), /*level=*/1);
    CHECK(ZSTD_isError(size) == 0);
    frame.resize(size);
    frames.push_back(std::move(frame));
  }
  if (frames.empty()) return fail(ErrorCode::kInvalidArgument, "{} pages", pages.size());
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                     &ZSTD_freeDCtx);
  const FloorSample sample = TRY(measure_each(frames.size(), "decompressing", [&](std::size_t i) {
    return ZSTD_decompressDCtx(context.get(), plain.data(), plain.size(), frames[i].data(),
                               frames[i].size()) == plain.size();
  }));
  return sample.us / kGroup;
}

struct ChunkReads::Database {
  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* chunks = nullptr;
  std::vector<std::string> keys;

  ~Database() {
    if (chunks != nullptr) db->DestroyColumnFamilyHandle(chunks);
  }
};

ChunkReads::ChunkReads(std::unique_ptr<Database> database) : database_(std::move(database)) {}
ChunkReads::ChunkReads(ChunkReads&&) noexcept = default;
ChunkReads::~ChunkReads() = default;

Result<ChunkReads> ChunkReads::open(const std::string& store) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  rocksdb::ColumnFamilyOptions family;
  family.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  rocksdb::DBOptions options;
  options.max_open_files = -1;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(
      options, store, {{"default", {}}, {"chunk", family}}, &handles, &raw);
  if (!status.ok()) return fail(ErrorCode::kIo, "opening {}: {}", store, status.ToString());
  auto database = std::make_unique<Database>();
  database->db.reset(raw);
  database->db->DestroyColumnFamilyHandle(handles[0]);
  database->chunks = handles[1];
  const std::unique_ptr<rocksdb::Iterator> chunks(raw->NewIterator({}, database->chunks));
  for (chunks->SeekToFirst(); chunks->Valid(); chunks->Next()) {
    database->keys.push_back(chunks->key().ToString());
  }
  if (!chunks->status().ok() || database->keys.empty()) {
    return fail(ErrorCode::kIo, "reading {}: {}", store, chunks->status().ToString());
  }
  return ChunkReads(std::move(database));
}

Result<FloorSample> ChunkReads::measure(std::mt19937_64& generator, std::size_t repetitions) {
  std::uniform_int_distribution<std::size_t> any(0, database_->keys.size() - 1);
  std::vector<std::size_t> order(repetitions);
  for (std::size_t& place : order) place = any(generator);
  rocksdb::PinnableSlice value;
  return measure_each(repetitions, "reading a chunk", [&](std::size_t i) {
    value.Reset();
    return database_->db
        ->Get(rocksdb::ReadOptions(), database_->chunks, database_->keys[order[i]], &value)
        .ok();
  });
}

}  // namespace thaw::bench
