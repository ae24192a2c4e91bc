#include "cli/push_pipeline.h"

#include <algorithm>

#include "base/check.h"
#include "base/cpu.h"
#include "cli/limits.h"
#include "format/limits.h"

namespace thaw {

namespace {

constexpr std::uint64_t kBlockBytes = kPieceDataPages * kPageBytes;

PageSpan page_at(ByteSpan buffer, std::uint32_t place) {
  return PageSpan(buffer.data() + std::size_t{place} * kPageBytes, kPageBytes);
}

}  // namespace

Result<std::unique_ptr<PushPipeline>> PushPipeline::start(const ImageFiles& image) {
  const std::size_t cpus = TRY(allowed_cpus(0)).count();
  const unsigned workers = std::clamp(static_cast<unsigned>(cpus), 1u, limits::kMaxPushWorkers);
  Mapping memory = TRY(Mapping::anonymous({(2 * workers + 4) * kBlockBytes}));
  return std::unique_ptr<PushPipeline>(new PushPipeline(image, std::move(memory), workers));
}

PushPipeline::PushPipeline(const ImageFiles& image, Mapping memory, unsigned workers)
    : image_(image), memory_(std::move(memory)), blocks_(memory_.size().value / kBlockBytes) {
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    blocks_[i].buffer = memory_.bytes().subspan(i * kBlockBytes, kBlockBytes);
  }
  threads_.emplace_back([this](const std::stop_token& stop) { read(stop); });
  for (unsigned i = 0; i < workers; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
}

PushPipeline::~PushPipeline() {
  for (std::jthread& thread : threads_) thread.request_stop();
}

// The caller.

Result<const PushPipeline::Offer*> PushPipeline::take_offer() {
  const std::lock_guard lock(mutex_);
  if (failure_) return std::unexpected(*failure_);
  if (!offer_ready()) return nullptr;
  return &block(offered_++).offer;
}

void PushPipeline::set_needed(ByteSpan missing) {
  const std::lock_guard lock(mutex_);
  CHECK(answered_ < offered_);
  Block& answered = block(answered_++);
  for (std::uint32_t i = 0; i < answered.places.size(); ++i) {
    if (!bit(missing, i)) continue;
    Upload* last = answered.used == 0 ? nullptr : &answered.uploads[answered.used - 1];
    if (last == nullptr || last->pages.size() == limits::kMaxChunksPerRequest) {
      if (answered.used == answered.uploads.size()) answered.uploads.emplace_back();
      last = &answered.uploads[answered.used++];
      last->pages.clear();
      last->encoded = false;
    }
    last->pages.push_back(answered.places[i]);
  }
  // What was read first is to be free again first.
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < answered.used; ++i) jobs.push_back({&answered, &answered.uploads[i]});
  const auto hashing = std::ranges::find(jobs_, nullptr, &Job::upload);
  jobs_.insert(hashing, jobs.begin(), jobs.end());
  added_.notify_all();
  release_done();
}

Result<const PushPipeline::Upload*> PushPipeline::take_upload() {
  const std::lock_guard lock(mutex_);
  if (failure_) return std::unexpected(*failure_);
  release_done();
  if (!upload_ready()) return nullptr;
  Block& oldest = block(released_);
  return &oldest.uploads[oldest.taken++];
}

/// A block whose last upload was taken is released by the next call, so that it stays until then.
void PushPipeline::release_done() {
  const std::uint64_t before = released_;
  while (released_ < answered_ && block(released_).taken == block(released_).used) {
    const ImagePiece& piece = block(released_).piece;
    position_ = piece.first + piece.count;
    ++released_;
  }
  if (released_ > before) freed_.notify_one();
}

bool PushPipeline::upload_ready() {
  if (released_ == answered_) return false;
  const Block& oldest = block(released_);
  return oldest.taken < oldest.used && oldest.uploads[oldest.taken].encoded;
}

void PushPipeline::wait() {
  std::unique_lock lock(mutex_);
  release_done();
  changed_.wait(lock, [this] {
    return failure_ || offer_ready() || upload_ready() || (planned_all_ && released_ == planned_);
  });
}

bool PushPipeline::finished() const {
  const std::lock_guard lock(mutex_);
  return !failure_ && planned_all_ && released_ == planned_;
}

// The reader.

void PushPipeline::read(const std::stop_token& stop) {
  const auto done = read_pieces(stop);
  const std::lock_guard lock(mutex_);
  planned_all_ = true;
  if (!done) failure_ = done.error();
  changed_.notify_one();
}

Result<void> PushPipeline::read_pieces(const std::stop_token& stop) {
  ImageWalk walk(image_);
  const auto reads = create_block_reads(memory_.bytes());
  while (true) {
    auto piece = TRY(walk.next());
    if (!piece) break;
    Block* const next = TRY(next_block(*reads, stop));
    if (next == nullptr) return {};
    const std::vector<FileRead> parts = walk.reads(*piece, next->buffer);
    next->piece = *std::move(piece);
    next->reads_left = parts.size() + 1;
    next->hashed = false;
    next->used = next->taken = 0;
    const auto owner = static_cast<std::size_t>(next - blocks_.data());
    {
      const std::lock_guard lock(mutex_);
      ++planned_;
    }
    for (const FileRead& part : parts) {
      if (reads->under_way() == BlockReads::kMost) TRY(finish_read(*reads));
      TRY(reads->begin(part, owner));
    }
    read_done(*next);
    while (reads->any_finished()) TRY(finish_read(*reads));
  }
  while (reads->under_way() > 0) TRY(finish_read(*reads));
  return {};
}

Result<PushPipeline::Block*> PushPipeline::next_block(BlockReads& reads,
                                                      const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  const auto is_free = [this] { return planned_ - released_ < blocks_.size(); };
  while (!is_free()) {
    if (reads.under_way() > 0) {
      lock.unlock();
      TRY(finish_read(reads));
      lock.lock();
    } else if (!freed_.wait(lock, stop, is_free)) {
      return nullptr;
    }
  }
  return &block(planned_);
}

Result<void> PushPipeline::finish_read(BlockReads& reads) {
  read_done(blocks_[TRY(reads.finish_one())]);
  return {};
}

void PushPipeline::read_done(Block& block) {
  if (--block.reads_left > 0) return;
  const std::lock_guard lock(mutex_);
  jobs_.push_back({&block, nullptr});
  added_.notify_one();
}

// The workers.

void PushPipeline::work(const std::stop_token& stop) {
  Tools tools;
  std::unique_lock lock(mutex_);
  while (added_.wait(lock, stop, [this] { return !jobs_.empty(); })) {
    const Job job = jobs_.front();
    jobs_.pop_front();
    lock.unlock();
    job.upload == nullptr ? hash(*job.block, tools) : encode(*job.block, *job.upload, tools);
    lock.lock();
    (job.upload == nullptr ? job.block->hashed : job.upload->encoded) = true;
    changed_.notify_one();
  }
}

void PushPipeline::hash(Block& block, Tools& tools) const {
  Offer& offer = block.offer;
  const ImagePiece& piece = block.piece;
  offer.message = {piece.first, piece.count, empty_bitmap(piece.count.value), {}};
  offer.hashes.clear();
  block.places.clear();
  std::uint64_t next = 0;
  const bool kept = image_.holes == Holes::kPagesOfParent;
  Bytes& holes = kept ? offer.message.kept_bitmap : offer.message.zero_bitmap;
  const auto hole_until = [&](std::uint64_t end) {
    if (next < end) holes.resize(offer.message.zero_bitmap.size());
    for (; next < end; ++next) set_bit(holes, next);
  };
  for (const PageRange& range : piece.data) {
    hole_until((range.first - piece.first).value);
    for (const std::uint64_t end = next + range.count.value; next < end; ++next) {
      const auto place = static_cast<std::uint32_t>(next);
      const PageSpan page = page_at(block.buffer, place);
      if (is_zero_page(page)) {
        set_bit(offer.message.zero_bitmap, next);
        continue;
      }
      offer.hashes.push_back(tools.hasher.hash(page));
      block.places.push_back(place);
    }
  }
  hole_until(piece.count.value);
}

void PushPipeline::encode(const Block& block, Upload& upload, Tools& tools) {
  upload.chunks.clear();
  for (const std::uint32_t place : upload.pages) {
    tools.codec.encode(page_at(block.buffer, place), kNoChunk, upload.chunks);
  }
}

}  // namespace thaw
