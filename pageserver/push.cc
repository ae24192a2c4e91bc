#include "pageserver/push.h"

#include <string_view>

#include "base/check.h"
#include "base/clock.h"
#include "format/limits.h"

namespace thaw {

std::size_t Push::HashOfHash::operator()(const Sha256& hash) const {
  // All of it, since it is a client that says what the hash is.
  return std::hash<std::string_view>()(as_text(hash));
}

Push::Push(Store& store, NamespaceId name_space, SnapshotSpec spec, SnapshotId parent)
    : store_(store), name_space_(name_space), spec_(std::move(spec)), parent_(parent) {}

Result<message::Needed> Push::offer(const message::Offer& offer, ByteSpan hashes) {
  TRY(check_offer(offer, hashes));
  Pending pending{.number = ++offers_, .offer = offer, .hashes = {}, .chunks = {}, .missing = {}};
  pending.hashes.resize(hashes.size() / sizeof(Sha256));
  if (!hashes.empty()) std::memcpy(pending.hashes.data(), hashes.data(), hashes.size());
  const std::lock_guard lock(mutex_);
  pending.chunks = TRY(store_.find_chunks(name_space_, pending.hashes));
  const message::Needed needed = ask_for_missing(pending);
  next_ += offer.count;
  pending_.push_back(std::move(pending));
  apply_complete();
  return needed;
}

Result<void> Push::check_offer(const message::Offer& offer, ByteSpan hashes) const {
  if (offer.first != next_ ||
      !within(offer.first.value, offer.count.value, spec_.image_pages().value)) {
    return fail(ErrorCode::kProtocol, "an offer of {} pages from {}, where page {} of {} is next",
                offer.count.value, offer.first.value, next_.value, spec_.image_pages().value);
  }
  if (pending_.size() == limits::kMaxPendingOffers) {
    return fail(ErrorCode::kProtocol, "an offer while {} wait for uploads", pending_.size());
  }
  std::uint64_t due = 0;
  for (std::uint64_t i = 0; i < offer.count.value; ++i) due += bit(offer.zero_bitmap, i) ? 0 : 1;
  if (hashes.size() < due * sizeof(Sha256)) return fail(ErrorCode::kTruncated, "an offer's hashes");
  if (hashes.size() > due * sizeof(Sha256)) {
    return fail(ErrorCode::kMalformed, "more hashes than pages");
  }
  return {};
}

message::Needed Push::ask_for_missing(Pending& pending) {
  message::Needed needed{empty_bitmap(pending.hashes.size())};
  for (std::size_t i = 0; i < pending.hashes.size(); ++i) {
    if (pending.chunks[i].valid()) continue;
    const auto [asked, is_new] = asked_.try_emplace(pending.hashes[i]);
    asked->second.last_offer = pending.number;
    if (!is_new) continue;
    pending.missing.push_back(&*asked);
    set_bit(needed.missing_bitmap, i);
  }
  return needed;
}

Result<void> Push::check_upload(std::uint32_t count, ByteSpan chunks) {
  checked_.clear();
  const std::size_t due =
      pending_.empty() ? 0 : pending_.front().missing.size() - pending_.front().uploaded;
  if (count == 0 || count > due || count > limits::kMaxChunksPerRequest) {
    return fail(ErrorCode::kProtocol, "an upload of {} pages where {} are due", count, due);
  }
  plain_.resize(limits::kMaxChunksPerRequest * kPageBytes);
  std::vector<NewChunk> checked;
  checked.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Sha256& hash = pending_.front().missing[pending_.front().uploaded + i]->first;
    const MutablePageSpan plain(plain_.data() + i * kPageBytes, kPageBytes);
    const ByteSpan rest = TRY(codec_.decode_next(chunks, kNoChunk, plain));
    if (hasher_.hash(plain) != hash) {
      return fail(ErrorCode::kHashMismatch, "uploaded page {} of {}", i, count);
    }
    checked.push_back({hash, plain, chunks.first(chunks.size() - rest.size())});
    chunks = rest;
  }
  if (!chunks.empty()) return fail(ErrorCode::kMalformed, "bytes after the uploaded chunks");
  checked_ = std::move(checked);
  return {};
}

Result<void> Push::store_upload() {
  CHECK(!checked_.empty());
  const std::lock_guard lock(mutex_);
  const auto stored = TRY(store_.put_chunks(name_space_, checked_));
  Pending& oldest = pending_.front();
  for (std::size_t i = 0; i < stored.size(); ++i) {
    oldest.missing[oldest.uploaded++]->second.chunk = stored[i].id;
    if (!stored[i].is_new) continue;
    ++statistics_.new_pages;
    statistics_.new_chunk_bytes += checked_[i].chunk.size();
  }
  checked_.clear();
  apply_complete();
  return {};
}

void Push::mark(ChunkSet& to) const {
  const std::lock_guard lock(mutex_);
  to.insert(map_);
  for (const Pending& pending : pending_) {
    for (const ChunkId chunk : pending.chunks) {
      if (chunk.valid()) to.insert(chunk);
    }
  }
  for (const auto& [hash, asked] : asked_) {
    if (asked.chunk.valid()) to.insert(asked.chunk);
  }
}

void Push::apply_complete() {
  for (; !pending_.empty() && pending_.front().complete(); pending_.pop_front()) {
    apply(pending_.front());
  }
}

void Push::apply(Pending& pending) {
  for (std::size_t i = 0; i < pending.hashes.size(); ++i) {
    if (pending.chunks[i].valid()) continue;
    pending.chunks[i] = asked_.at(pending.hashes[i]).chunk;
  }
  for (const Sha256& hash : pending.hashes) {
    const auto asked = asked_.find(hash);
    if (asked != asked_.end() && asked->second.last_offer == pending.number) asked_.erase(asked);
  }
  const message::Offer& offer = pending.offer;
  std::size_t next = 0;
  for (std::uint64_t i = 0; i < offer.count.value; ++i) {
    if (bit(offer.zero_bitmap, i)) {
      map_.append_zero({1});
      ++statistics_.zero_pages;
    } else {
      map_.append_chunks(pending.chunks[next++], {1});
    }
  }
  content_hash_.add_pages(offer.zero_bitmap, offer.count, pending.hashes);
}

Result<Manifest> Push::commit() {
  if (map_.size() != spec_.image_pages()) {
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
