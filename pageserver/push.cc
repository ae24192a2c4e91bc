#include "pageserver/push.h"

#include <map>

#include "base/check.h"
#include "base/clock.h"
#include "format/limits.h"

namespace thaw {

namespace {

/// For each hash the index of the first one equal to it.
std::vector<std::size_t> first_equal(const std::vector<Sha256>& hashes) {
  std::map<Sha256, std::size_t> seen;
  std::vector<std::size_t> first;
  first.reserve(hashes.size());
  for (std::size_t i = 0; i < hashes.size(); ++i) {
    first.push_back(seen.try_emplace(hashes[i], i).first->second);
  }
  return first;
}

}  // namespace

Push::Push(Store& store, NamespaceId name_space, SnapshotSpec spec, SnapshotId parent)
    : store_(store), name_space_(name_space), spec_(std::move(spec)), parent_(parent) {}

Result<message::Needed> Push::offer(const message::Offer& offer, ByteSpan hashes) {
  if (waiting_for_uploads()) return fail(ErrorCode::kProtocol, "an offer before its uploads");
  if (offer.first.value != map_.size().value ||
      !within(offer.first.value, offer.count.value, spec_.image_pages().value)) {
    return fail(ErrorCode::kProtocol, "an offer of {} pages from {}, where page {} of {} is next",
                offer.count.value, offer.first.value, map_.size().value, spec_.image_pages().value);
  }
  Pending pending;
  for (std::uint64_t i = 0; i < offer.count.value; ++i) {
    pending.zero.push_back(bit(offer.zero_bitmap, i));
    if (pending.zero.back()) continue;
    if (hashes.size() < sizeof(Sha256)) return fail(ErrorCode::kTruncated, "an offer's hashes");
    std::memcpy(pending.hashes.emplace_back().data(), hashes.data(), sizeof(Sha256));
    hashes = hashes.subspan(sizeof(Sha256));
  }
  if (!hashes.empty()) return fail(ErrorCode::kMalformed, "more hashes than pages");

  const std::lock_guard lock(mutex_);
  pending.chunks = TRY(store_.find_chunks(name_space_, pending.hashes));
  pending.same_as = first_equal(pending.hashes);
  message::Needed needed{empty_bitmap(pending.hashes.size())};
  for (std::size_t i = 0; i < pending.hashes.size(); ++i) {
    if (pending.chunks[i].valid() || pending.same_as[i] != i) continue;
    pending.missing.push_back(i);
    set_bit(needed.missing_bitmap, i);
  }
  pending_ = std::move(pending);
  if (!waiting_for_uploads()) apply_pending();
  return needed;
}

Result<void> Push::check_upload(std::uint32_t count, ByteSpan chunks) {
  checked_.clear();
  const std::size_t due = pending_.missing.size() - pending_.uploaded;
  if (count == 0 || count > due || count > limits::kMaxChunksPerRequest) {
    return fail(ErrorCode::kProtocol, "an upload of {} pages where {} are due", count, due);
  }
  std::vector<NewChunk> checked(count);
  for (std::size_t i = 0; i < count; ++i) {
    NewChunk& chunk = checked[i];
    chunk.hash = pending_.hashes[pending_.missing[pending_.uploaded + i]];
    const std::size_t size = TRY(chunk_size(chunks));
    TRY(codec_.decode(chunks.first(size), kNoChunk, chunk.plain));
    if (hasher_.hash(chunk.plain) != chunk.hash) {
      return fail(ErrorCode::kHashMismatch, "uploaded page {} of {}", i, count);
    }
    chunk.chunk.assign(chunks.begin(), chunks.begin() + static_cast<std::ptrdiff_t>(size));
    chunks = chunks.subspan(size);
  }
  if (!chunks.empty()) return fail(ErrorCode::kMalformed, "bytes after the uploaded chunks");
  checked_ = std::move(checked);
  return {};
}

Result<void> Push::store_upload() {
  CHECK(!checked_.empty());
  const std::lock_guard lock(mutex_);
  const auto stored = TRY(store_.put_chunks(name_space_, checked_));
  for (std::size_t i = 0; i < stored.size(); ++i) {
    pending_.chunks[pending_.missing[pending_.uploaded++]] = stored[i].id;
    if (!stored[i].is_new) continue;
    ++statistics_.new_pages;
    statistics_.new_chunk_bytes += checked_[i].chunk.size();
  }
  checked_.clear();
  if (!waiting_for_uploads()) apply_pending();
  return {};
}

void Push::mark(ChunkSet& to) const {
  const std::lock_guard lock(mutex_);
  to.insert(map_);
  for (const ChunkId chunk : pending_.chunks) {
    if (chunk.valid()) to.insert(chunk);
  }
}

void Push::apply_pending() {
  std::size_t hash = 0;
  for (const bool zero : pending_.zero) {
    if (zero) {
      map_.append_zero({1});
      content_hash_.add_zero_pages({1});
      ++statistics_.zero_pages;
      continue;
    }
    map_.append_chunks(pending_.chunks[pending_.same_as[hash]], {1});
    content_hash_.add(pending_.hashes[hash]);
    ++hash;
  }
  pending_ = {};
}

Result<Manifest> Push::commit() {
  if (waiting_for_uploads() || map_.size() != spec_.image_pages()) {
    return fail(ErrorCode::kProtocol, "a commit after {} of {} pages", map_.size().value,
                spec_.image_pages().value);
  }
  statistics_.duplicate_pages = map_.size().value - statistics_.zero_pages - statistics_.new_pages;
  Manifest manifest = TRY(store_.publish(name_space_,
                                         Manifest{.snapshot = {},
                                                  .parent = parent_,
                                                  .created_unix_ms = unix_milliseconds(),
                                                  .spec = spec_,
                                                  .content_hash = content_hash_.finish(),
                                                  .statistics = statistics_},
                                         map_));
  committed_ = true;
  return manifest;
}

}  // namespace thaw
