#include "bench/filled_store.h"

#include <filesystem>
#include <map>
#include <thread>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/output.h"
#include "base/partial_file.h"
#include "bench/figures.h"
#include "format/hash.h"
#include "pageserver/sys/rocks_store.h"

namespace thaw::bench {

namespace {

constexpr const char* kNamespace = "default";
constexpr std::uint64_t kHashSeed = 1;
constexpr std::size_t kBatch = 1024;
constexpr std::size_t kDescriptionBytes = 4096;
constexpr std::size_t kPieceBytes = 1u << 20;
/// RocksDB rewrites its files in the background, and is done when they stay as they are.
constexpr std::chrono::milliseconds kQuiet{500};
constexpr std::chrono::minutes kMostUpkeep{20};

std::string files_path(const std::string& directory) { return directory + "/store"; }
std::string description_path(const std::string& directory) { return directory + "/filled"; }

/// The same for every store that is filled alike by programs that seal alike.
std::string describe(std::size_t chunks, const std::vector<PageSpan>& pages) {
  ChunkCodec codec;
  Bytes sealed;
  for (const PageSpan page : pages) codec.encode(page, kNoChunk, sealed);
  return fmt::format("{} chunks of {}", chunks, to_hex(Hasher().hash(sealed)));
}

std::vector<Bytes> seal(const std::vector<PageSpan>& pages) {
  ChunkCodec codec;
  std::vector<Bytes> sealed(pages.size());
  for (std::size_t i = 0; i < pages.size(); ++i) codec.encode(pages[i], kNoChunk, sealed[i]);
  return sealed;
}

std::map<std::string, std::uintmax_t> file_sizes(const std::string& directory) {
  std::map<std::string, std::uintmax_t> sizes;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::error_code gone_meanwhile;
    sizes[entry.path().string()] = entry.file_size(gone_meanwhile);
  }
  return sizes;
}

Result<void> wait_until_quiet(const std::string& directory) {
  const Deadline deadline = Deadline::after(kMostUpkeep);
  auto before = file_sizes(directory);
  while (!deadline.passed()) {
    std::this_thread::sleep_for(kQuiet);
    auto now = file_sizes(directory);
    if (now == before) return {};
    before = std::move(now);
  }
  return fail(ErrorCode::kTimeout, "RocksDB still rewrites its files in {}", directory);
}

/// For each file that chunks are read from. The others are small, and closing its lock would unlock
/// it.
Result<void> for_each_table(const std::string& directory, Result<void> (*act)(const UniqueFd&)) {
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() != ".sst") continue;
    // RocksDB may have merged a small one with others meanwhile.
    const auto file = TRY(if_found(open_for_reading(entry.path().string())));
    if (file) TRY(act(*file));
  }
  return {};
}

/// A directory with nothing in it but one for the store's files.
Result<void> make_empty(const std::string& directory) {
  std::error_code error;
  std::filesystem::remove_all(directory, error);
  if (!error) std::filesystem::create_directories(files_path(directory), error);
  if (error) return fail_errno("make " + directory, error.value());
  return {};
}

Result<void> read_all(const UniqueFd& file) {
  const std::uint64_t size = TRY(file_size(file)).value;
  Bytes piece(kPieceBytes);
  for (std::uint64_t at = 0; at < size; at += kPieceBytes) {
    const std::size_t length = std::min<std::uint64_t>(kPieceBytes, size - at);
    TRY(read_at(file, MutableByteSpan(piece).first(length), at));
  }
  return {};
}

Result<void> evict(const UniqueFd& file) {
  // Only what is on the disk can go.
  if (::fdatasync(file.get()) != 0) return fail_errno("sync a table");
  if (const int error = ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED)) {
    return fail_errno("evict a table", error);
  }
  return {};
}

/// By the calling thread so far.
double disk_bytes_read() {
  constexpr double kBlockBytes = 512;
  rusage usage{};
  CHECK(::getrusage(RUSAGE_THREAD, &usage) == 0);
  return static_cast<double>(usage.ru_inblock) * kBlockBytes;
}

}  // namespace

FilledStore::FilledStore(std::string directory, std::size_t chunks)
    : directory_(std::move(directory)), chunks_(chunks) {}
FilledStore::FilledStore(FilledStore&&) noexcept = default;
FilledStore::~FilledStore() = default;

Result<FilledStore> FilledStore::make(const std::string& directory, std::size_t chunks,
                                      const std::vector<PageSpan>& pages) {
  FilledStore store(directory, chunks);
  const std::string description = describe(chunks, pages);
  if (!TRY(store.is_filled(description))) {
    print_out("filling a store with {} chunks\n", chunks);
    std::fflush(stdout);
    TRY(make_empty(directory));
    TRY(store.fill(pages));
    PartialFile file = TRY(PartialFile::create(description_path(directory)));
    TRY(write_at(file.fd(), as_bytes(description), 0));
    TRY(file.publish());
  }
  TRY(store.open());
  return store;
}

Result<bool> FilledStore::is_filled(const std::string& description) const {
  const std::string path = description_path(directory_);
  if (!std::filesystem::exists(path)) return false;
  return TRY(read_text_file(path, kDescriptionBytes)) == description;
}

Result<void> FilledStore::fill(const std::vector<PageSpan>& pages) {
  TRY(open());
  const NamespaceId in = TRY(store_->open_namespace(kNamespace));
  const std::vector<Bytes> sealed = seal(pages);
  std::mt19937_64 generator(kHashSeed);
  const std::size_t most = std::min(kBatch, sealed.size());
  for (std::size_t stored = 0; stored < chunks_;) {
    const std::size_t start = stored % (sealed.size() - most + 1);
    const std::size_t count = std::min(most, chunks_ - stored);
    std::vector<NewChunk> batch;
    for (std::size_t i = start; i < start + count; ++i) {
      Sha256 hash;
      for (std::size_t at = 0; at < hash.size(); at += sizeof(std::uint64_t)) {
        store_le<std::uint64_t>(hash.data() + at, generator());
      }
      batch.push_back({hash, pages[i], sealed[i]});
    }
    for (const StoredChunk& chunk : TRY(store_->put_chunks(in, batch))) {
      CHECK(chunk.is_new);
      if (chunk.id != ChunkId::of(in.value, 0, ++stored)) {
        return fail(ErrorCode::kIo, "chunk {} has got the id {:#x}", stored, chunk.id.value);
      }
    }
  }
  // From the log into tables.
  store_.reset();
  TRY(open());
  TRY(wait_until_quiet(files_path(directory_)));
  store_.reset();
  return {};
}

Result<void> FilledStore::open() {
  // One of an earlier run may be open to others.
  std::error_code error;
  std::filesystem::permissions(files_path(directory_), std::filesystem::perms::owner_all, error);
  if (error) return fail_errno("chmod " + files_path(directory_), error.value());
  store_ = TRY(open_rocks_store(files_path(directory_), {0}));
  const auto in = TRY(store_->find_namespace(kNamespace));
  if (in) first_id_ = ChunkId::of(in->value, 0, 1).value;
  return {};
}

Result<void> FilledStore::warm() const { return for_each_table(files_path(directory_), read_all); }

Result<void> FilledStore::cool() {
  store_.reset();
  TRY(open());
  return for_each_table(files_path(directory_), evict);
}

Result<FilledStore::Gets> FilledStore::get(std::mt19937_64& generator, std::size_t repetitions) {
  std::uniform_int_distribution<std::uint64_t> any(first_id_, first_id_ + chunks_ - 1);
  std::vector<double> us(repetitions);
  const double disk_bytes_before = disk_bytes_read();
  for (double& time : us) {
    const ChunkId id{any(generator)};
    const Clock::time_point start = Clock::now();
    const ChunkRead read = TRY(store_->read_chunks(std::span(&id, 1), 0));
    time = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  }
  const double disk_bytes = disk_bytes_read() - disk_bytes_before;
  TRY(check({any(generator)}));
  return Gets{median(std::move(us)), disk_bytes / static_cast<double>(repetitions)};
}

Result<void> FilledStore::check(ChunkId id) {
  const ChunkRead read = TRY(store_->read_chunks(std::span(&id, 1), 0));
  PlainPage plain;
  return ChunkCodec().decode(read.chunks[0], id, plain);
}

}  // namespace thaw::bench
