#include "cli/push.h"

#include <algorithm>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "base/types.h"
#include "cli/progress.h"
#include "format/chunk.h"
#include "format/hash.h"
#include "format/limits.h"
#include "format/page_client.h"

namespace thaw {

namespace {

constexpr unsigned kMaxReconnects = 5;
constexpr std::chrono::milliseconds kFirstPause{200};
/// Pages hashed and offered in one step: 4 MiB of the image.
constexpr std::uint64_t kOfferPages = 1024;
static_assert(kOfferPages <= limits::kMaxOfferPages);

/// The file that an image is read from: memory, then state, as pages.
class ImageReader {
 public:
  ImageReader(const UniqueFd& memory, const UniqueFd& state, const SnapshotSpec& spec)
      : memory_(memory), state_(state), spec_(spec) {}

  /// Reads pages of memory alone or of state alone; the state's last page is padded with zeros.
  Result<void> read(PageIndex first, PageCount count, Bytes& to) {
    to.assign(bytes_of(count).value, std::byte{0});
    const PageCount memory_pages = spec_.memory_pages();
    if (first.value >= memory_pages.value) {
      const std::uint64_t offset = bytes_of({first.value - memory_pages.value}).value;
      const std::uint64_t length = std::min<std::uint64_t>(to.size(), spec_.state.value - offset);
      return read_at(state_, MutableByteSpan(to).first(length), offset);
    }
    return read_data(offset_of(first).value, to);
  }

  /// Pages from `first` that one step may take: within one file, at most kOfferPages.
  PageCount step(PageIndex first) const {
    const std::uint64_t memory = spec_.memory_pages().value;
    const std::uint64_t end = first.value < memory ? memory : spec_.image_pages().value;
    return {std::min(kOfferPages, end - first.value)};
  }

 private:
  /// Leaves holes as the zeros they are.
  Result<void> read_data(std::uint64_t offset, MutableByteSpan to) {
    const auto data = TRY(next_data(memory_, offset));
    const std::uint64_t size = TRY(file_size(memory_)).value;
    if (!within(offset, to.size(), size)) {
      return fail(ErrorCode::kTruncated, "the memory image ends at {} of {} bytes", size,
                  spec_.memory.value);
    }
    if (!data || *data >= offset + to.size()) return {};
    const std::uint64_t skip = *data - offset;
    return read_at(memory_, to.subspan(skip), *data);
  }

  const UniqueFd& memory_;
  const UniqueFd& state_;
  const SnapshotSpec& spec_;
};

/// One attempt over one connection.
class PushAttempt {
 public:
  PushAttempt(PageClient& client, ImageReader& reader, const SnapshotSpec& spec)
      : client_(client), reader_(reader), spec_(spec) {}

  Result<void> send_pages(const std::string& parent, Progress& progress) {
    TRY(client_.begin_push(spec_, parent));
    PageIndex next{0};
    while (next.value < spec_.image_pages().value) {
      const PageCount count = reader_.step(next);
      TRY(send_step(next, count));
      next += count;
      progress.update({std::min(offset_of(next).value, spec_.memory.value + spec_.state.value)});
    }
    content_hash = contents_.finish();
    return {};
  }

  Sha256 content_hash{};
  std::uint64_t uploaded_bytes = 0;

 private:
  PageSpan page(std::size_t i) const {
    return PageSpan(pages_.data() + i * kPageBytes, kPageBytes);
  }

  Result<void> send_step(PageIndex first, PageCount count) {
    TRY(reader_.read(first, count, pages_));
    message::Offer offer{first, count, empty_bitmap(count.value)};
    std::vector<Sha256> hashes;
    std::vector<std::size_t> offered;  // the page of each hash
    for (std::size_t i = 0; i < count.value; ++i) {
      if (is_zero_page(page(i))) {
        set_bit(offer.zero_bitmap, i);
        contents_.add(zero_page_hash());
        continue;
      }
      hashes.push_back(hasher_.hash(page(i)));
      contents_.add(hashes.back());
      offered.push_back(i);
    }
    const Bytes missing = TRY(client_.offer(offer, hashes));
    std::uint32_t encoded = 0;
    Bytes chunks;
    for (std::size_t i = 0; i < offered.size(); ++i) {
      if (!bit(missing, i)) continue;
      codec_.encode(page(offered[i]), kNoChunk, chunks);
      if (++encoded == limits::kMaxChunksPerRequest) TRY(upload(encoded, chunks));
    }
    if (encoded > 0) TRY(upload(encoded, chunks));
    return {};
  }

  Result<void> upload(std::uint32_t& count, Bytes& chunks) {
    TRY(client_.upload(count, chunks));
    uploaded_bytes += chunks.size();
    count = 0;
    chunks.clear();
    return {};
  }

  PageClient& client_;
  ImageReader& reader_;
  const SnapshotSpec& spec_;
  Bytes pages_;
  Hasher hasher_;
  ChunkCodec codec_;
  ContentHash contents_;
};

/// Whether a new connection may help.
bool connection_lost(const Error& error) {
  return error.code() == ErrorCode::kUnavailable || error.code() == ErrorCode::kTimeout;
}

/// What a push that loses its connection knows on its next attempt.
struct Memory {
  std::uint64_t uploaded_bytes = 0;
  /// Set once a commit was sent: its reply may have been lost, not the commit.
  std::optional<Sha256> committed;
};

Result<Manifest> attempt(const PushOptions& options, ImageReader& reader, const SnapshotSpec& spec,
                         Memory& memory) {
  PageClient client = TRY(PageClient::connect(options.server, options.name_space));
  if (memory.committed) {
    const auto existing = client.show(spec.name);
    if (existing && existing->content_hash == *memory.committed) return *existing;
  }
  Progress progress("push " + spec.name, spec.memory + spec.state);
  PushAttempt push(client, reader, spec);
  const auto sent = push.send_pages(options.parent, progress);
  memory.uploaded_bytes += push.uploaded_bytes;
  if (!sent) return std::unexpected(sent.error());
  memory.committed = push.content_hash;
  return client.commit();
}

/// The vendor of this host's CPU, as /proc/cpuinfo names it; empty when it does not.
std::string cpu_vendor() {
  const auto info = read_text_file("/proc/cpuinfo", std::size_t{16} << 20);
  if (!info) return {};
  const std::size_t line = info->find("vendor_id");
  const std::size_t colon = line == std::string::npos ? line : info->find(": ", line);
  if (colon == std::string::npos) return {};
  return info->substr(colon + 2, info->find('\n', colon) - colon - 2);
}

}  // namespace

Result<PushResult> push_snapshot(const PushOptions& options) {
  const UniqueFd memory_file = TRY(open_for_reading(options.memory_path));
  UniqueFd state_file;
  SnapshotSpec spec{.name = options.name,
                    .memory = TRY(file_size(memory_file)),
                    .state = {},
                    .regions = options.regions,
                    .labels = options.labels,
                    .cpu_vendor = cpu_vendor()};
  if (!options.state_path.empty()) {
    state_file = TRY(open_for_reading(options.state_path));
    spec.state = TRY(file_size(state_file));
  }
  TRY(check_spec(spec));

  ImageReader reader(memory_file, state_file, spec);
  Memory memory;
  std::chrono::milliseconds pause = kFirstPause;
  for (unsigned reconnects = 0;; ++reconnects) {
    auto manifest = attempt(options, reader, spec, memory);
    if (manifest) return PushResult{*std::move(manifest), memory.uploaded_bytes, reconnects};
    // The first attempt fails at once when there is no server; a push under way is worth waiting.
    const bool began = reconnects > 0 || memory.uploaded_bytes > 0 || memory.committed;
    if (!connection_lost(manifest.error()) || !began || reconnects == kMaxReconnects) {
      return std::unexpected(manifest.error());
    }
    log_warning("{}; connecting again", manifest.error().message());
    std::this_thread::sleep_for(pause);
    pause *= 2;
  }
}

}  // namespace thaw
