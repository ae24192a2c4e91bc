#include "pageserver/push.h"

#include <algorithm>

#include "base/check.h"
#include "format/limits.h"
#include "pageserver/page_hash_lists.h"
#include "pageserver/snapshots.h"
#include "pageserver/within_memory.h"

namespace thaw {

namespace {

/// Of pages that are not zero.
std::size_t pages_of(const message::Offer& offer) {
  std::size_t pages = 0;
  for (std::uint64_t i = 0; i < offer.count.value; ++i) {
    if (!bit(offer.zero_bitmap, i)) ++pages;
  }
  return pages;
}

ByteCount cold_memory(std::size_t ranges) { return {ranges * sizeof(PageRange)}; }

}  // namespace

Push::Push(Store& store, NamespaceId name_space, SnapshotSpec spec, SnapshotId parent,
           MapAdmission admit)
    : store_(store),
      name_space_(name_space),
      spec_(std::move(spec)),
      parent_(parent),
      admit_(std::move(admit)) {}

Result<message::Needed> Push::offer(const message::Offer& offer, ByteSpan hashes) {
  TRY(check_offer(offer));
  TRY(read_parent());
  TRY(check_size());
  if (!offer.kept_bitmap.empty()) TRY(check_kept(offer));
  TRY(ask_for_memory(pending_memory(offer)));
  Pending pending = TRY(within_memory([&] { return read_offer(offer, hashes); }));
  pending.number = ++offers_;
  message::Needed needed;
  {
    const std::lock_guard lock(mutex_);
    TRY(resolve(pending));
    needed = ask_for_missing(pending);
    next_ += offer.count;
    pending_.push_back(std::move(pending));
    apply_complete();
  }
  TRY(ask_for_memory());
  return needed;
}

Result<void> Push::check_size() const {
  if (map_.memory().value <= limits::kMaxMapBytes) return {};
  return fail(ErrorCode::kTooLarge,
              "the page map of \"{}\" takes more than {} MiB: its pages lie in too many runs",
              spec_.name, limits::kMaxMapBytes >> 20);
}

ByteCount Push::pending_memory(const message::Offer& offer) {
  // A page's node in the tree has three pointers, a colour, and what malloc() adds.
  constexpr std::size_t kAskedBytes = sizeof(AskedPages::value_type) + 6 * sizeof(void*);
  constexpr std::size_t kPageOfOffer =
      sizeof(Sha256) + sizeof(ChunkId) + 2 * sizeof(std::size_t) + sizeof(void*) + kAskedBytes;
  return {sizeof(Pending) + offer.zero_bitmap.size() + offer.kept_bitmap.size() +
          pages_of(offer) * kPageOfOffer};
}

Result<void> Push::ask_for_memory(ByteCount more) const {
  if (!admit_) return {};
  ByteCount all = map_.memory() + parent_map_.memory() + cold_memory(cold_.capacity()) + more;
  for (const Pending& pending : pending_) all += pending_memory(pending.offer);
  return admit_(all + ByteCount{plain_.capacity()});
}

Result<void> Push::check_offer(const message::Offer& offer) const {
  if (offer.first != next_ ||
      !within(offer.first.value, offer.count.value, spec_.image_pages().value)) {
    return fail(ErrorCode::kProtocol, "an offer of {} pages from {}, where page {} of {} is next",
                offer.count.value, offer.first.value, next_.value, spec_.image_pages().value);
  }
  if (pending_.size() == limits::kMaxPendingOffers) {
    return fail(ErrorCode::kProtocol, "an offer while {} wait for uploads", pending_.size());
  }
  return {};
}

Result<void> Push::read_parent() {
  if (parent_read_ || parent_ == SnapshotId{}) return {};
  const auto sealed = TRY(if_found(store_.manifest(name_space_, parent_)));
  if (sealed) {
    const Manifest manifest = TRY(decode_manifest(*sealed));
    auto map = TRY(if_found(read_page_map(store_, name_space_, parent_, admit_)));
    if (map) {
      parent_manifest_ = manifest;
      parent_map_ = *std::move(map);
    }
  }
  parent_read_ = true;
  return {};
}

Result<void> Push::check_kept(const message::Offer& offer) const {
  if (parent_ == SnapshotId{}) {
    return fail(ErrorCode::kInvalidArgument, "pages of the parent, and there is none");
  }
  if (!parent_manifest_) {
    return fail(ErrorCode::kNotFound, "the parent of \"{}\" was deleted", spec_.name);
  }
  if (parent_manifest_->spec.memory != spec_.memory) {
    return fail(ErrorCode::kInvalidArgument, "the parent has {} bytes of memory, \"{}\" has {}",
                parent_manifest_->spec.memory.value, spec_.name, spec_.memory.value);
  }
  if (!within(offer.first.value, offer.count.value, spec_.memory_pages().value)) {
    return fail(ErrorCode::kInvalidArgument, "only pages of memory can be the parent's");
  }
  return {};
}

Result<Push::Pending> Push::read_offer(const message::Offer& offer, ByteSpan hashes) const {
  Pending pending;
  pending.offer = offer;
  const std::size_t pages = pages_of(offer);
  pending.hashes.reserve(pages);
  pending.chunks.reserve(pages);
  pending.offered.reserve(pages);
  pending.missing.reserve(pages);
  for (std::uint64_t i = 0; i < offer.count.value; ++i) {
    if (bit(offer.zero_bitmap, i)) continue;
    const std::size_t next = pending.hashes.size();
    if (!offer.kept_bitmap.empty() && bit(offer.kept_bitmap, i)) {
      const ChunkId chunk = parent_map_.chunk_of(offer.first + PageCount{i});
      if (chunk == kNoChunk) {
        set_bit(pending.offer.zero_bitmap, i);
        continue;
      }
      pending.kept.push_back(next);
      pending.chunks.push_back(chunk);
      pending.hashes.emplace_back();
      continue;
    }
    if (hashes.size() < sizeof(Sha256)) return fail(ErrorCode::kTruncated, "an offer's hashes");
    std::memcpy(pending.hashes.emplace_back().data(), hashes.data(), sizeof(Sha256));
    hashes = hashes.subspan(sizeof(Sha256));
    pending.offered.push_back(next);
    pending.chunks.push_back(kNoChunk);
  }
  if (!hashes.empty()) return fail(ErrorCode::kMalformed, "more hashes than pages");
  return pending;
}

Result<void> Push::resolve(Pending& pending) {
  std::vector<Sha256> offered;
  offered.reserve(pending.offered.size());
  for (const std::size_t i : pending.offered) offered.push_back(pending.hashes[i]);
  const std::vector<ChunkId> found = TRY(store_.find_chunks(name_space_, offered));
  for (std::size_t i = 0; i < found.size(); ++i) pending.chunks[pending.offered[i]] = found[i];
  return hash_stored(pending, pending.kept);
}

Result<void> Push::hash_stored(Pending& pending, std::span<const std::size_t> hashes) {
  std::vector<ChunkId> ids;
  for (const std::size_t i : hashes) ids.push_back(pending.chunks[i]);
  const auto stored = hash_chunks(store_, ids);
  if (!stored) {
    return fail(stored.error().code(), "of the parent: {}", stored.error().context());
  }
  for (std::size_t i = 0; i < hashes.size(); ++i) pending.hashes[hashes[i]] = (*stored)[i];
  return {};
}

message::Needed Push::ask_for_missing(Pending& pending) {
  message::Needed needed{empty_bitmap(pending.offered.size())};
  for (std::size_t i = 0; i < pending.offered.size(); ++i) {
    const std::size_t hash = pending.offered[i];
    if (pending.chunks[hash].valid()) continue;
    const auto [asked, is_new] = asked_.try_emplace(pending.hashes[hash]);
    asked->second.last_offer = pending.number;
    if (!is_new) continue;
    pending.missing.push_back(&*asked);
    set_bit(needed.missing_bitmap, i);
  }
  return needed;
}

Result<void> Push::check_upload(std::uint32_t count, ByteSpan chunks) {
  forget_upload();
  const std::size_t due =
      pending_.empty() ? 0 : pending_.front().missing.size() - pending_.front().uploaded;
  if (count == 0 || count > due || count > limits::kMaxChunksPerRequest) {
    return fail(ErrorCode::kProtocol, "an upload of {} pages where {} are due", count, due);
  }
  TRY(ask_for_memory(bytes_of({count})));
  TRY(within_memory([&]() -> Result<void> {
    plain_.resize(count * kPageBytes);
    return {};
  }));
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

void Push::forget_upload() {
  checked_.clear();
  plain_ = Bytes();  // not `= {}`, which keeps the memory
}

Result<void> Push::store_upload(const GrowthAdmission& grow) {
  CHECK(!checked_.empty());
  {
    const std::lock_guard lock(mutex_);
    const auto stored = TRY(store_.put_chunks(name_space_, checked_, grow));
    Pending& oldest = pending_.front();
    for (std::size_t i = 0; i < stored.size(); ++i) {
      oldest.missing[oldest.uploaded++]->second.chunk = stored[i].id;
      if (!stored[i].is_new) continue;
      ++statistics_.new_pages;
      statistics_.new_chunk_bytes += checked_[i].chunk.size();
    }
    forget_upload();
    apply_complete();
  }
  return ask_for_memory();
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

void Push::compare_with_parent() {
  if (!parent_manifest_) return;
  PageMap::Cursor parent(parent_map_);
  for (PageMap::Cursor own(map_); !own.at_end();) {
    const PageMap::Run now = own.rest();
    const PageMap::Run before =
        parent.at_end() ? PageMap::Run{now.first, now.length, kNoChunk} : parent.rest();
    // Ids count up in both: runs that begin with the same chunk stay the same.
    const PageCount length = std::min(now.length, before.length);
    if (now.chunk != before.chunk) {
      (now.zero() ? statistics_.became_zero_pages : statistics_.changed_pages) += length.value;
    }
    own.skip(length);
    if (!parent.at_end()) parent.skip(length);
  }
}

Result<void> Push::set_cold_map(ByteSpan sealed) {
  cold_ = ColdMap();
  if (sealed.empty()) return {};
  TRY(ask_for_memory(cold_memory(limits::kMaxColdRanges)));
  cold_ = TRY(decode_cold_map(sealed, spec_.memory_pages()));
  return ask_for_memory();
}

std::uint64_t Push::stored_cold_pages() const {
  std::uint64_t pages = 0;
  for (const PageRange& range : cold_) {
    const PageIndex end = range.first + range.count;
    for (PageMap::Cursor cursor(map_, range.first); !cursor.at_end(); cursor.next()) {
      const PageMap::Run run = cursor.rest();
      if (run.first >= end) break;
      if (!run.zero()) pages += std::min(run.length, end - run.first).value;
    }
  }
  return pages;
}

Result<Manifest> Push::commit(const GrowthAdmission& grow, std::uint64_t created_unix_ms,
                              CreatedTime created) {
  TRY(check_size());
  if (map_.size() != spec_.image_pages()) {
    return fail(ErrorCode::kProtocol, "a commit after {} of {} pages", map_.size().value,
                spec_.image_pages().value);
  }
  statistics_.changed_pages = statistics_.became_zero_pages = 0;
  compare_with_parent();
  statistics_.cold_pages = stored_cold_pages();
  statistics_.duplicate_pages = map_.size().value - statistics_.zero_pages - statistics_.new_pages;
  if (!finished_hash_) finished_hash_ = content_hash_.finish(spec_);
  Manifest manifest = TRY(store_.publish(name_space_,
                                         Manifest{.snapshot = {},
                                                  .parent = parent_,
                                                  .created_unix_ms = created_unix_ms,
                                                  .spec = spec_,
                                                  .content_hash = *finished_hash_,
                                                  .content_form = kPushedForm,
                                                  .statistics = statistics_},
                                         map_, cold_, grow, created));
  committed_ = true;
  return manifest;
}

}  // namespace thaw
