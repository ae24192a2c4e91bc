#include "tests/support/stepped_push.h"

#include <algorithm>

#include "base/check.h"
#include "tests/support/test_support.h"

namespace thaw::test {

SteppedPush::SteppedPush(const Surroundings& surroundings, std::shared_ptr<const DrawnImage> image,
                         const Parent& parent)
    : surroundings_(surroundings),
      image_(std::move(image)),
      push_(surroundings.store, surroundings.name_space, image_->spec, parent.snapshot) {
  surroundings_.pushes.add(push_);
  if (parent.image == nullptr) return;
  kept_ = kept_pages(*image_, *parent.image);
  CHECK(surroundings_.pins.pin(surroundings_.store, surroundings_.name_space, parent.snapshot));
}

SteppedPush::~SteppedPush() {
  surroundings_.pushes.remove(push_);
  if (!kept_.empty()) surroundings_.pins.unpin(surroundings_.name_space, push_.parent());
}

Bytes SteppedPush::kept_of_next(std::size_t count) const {
  if (kept_.empty() || next_ + count > image_->spec.memory_pages().value) return {};
  Bytes kept = empty_bitmap(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (bit(kept_, next_ + i)) set_bit(kept, i);
  }
  return kept;
}

Result<void> SteppedPush::offer(std::mt19937_64& generator) {
  const std::size_t count = 1 + pick(generator, image_->count() - next_);
  message::Offer offer{{next_}, {count}, empty_bitmap(count), kept_of_next(count)};
  std::vector<Sha256> hashes;
  std::vector<std::size_t> offered;
  for (std::size_t i = 0; i < count; ++i) {
    const PageSpan page = image_->page(next_ + i);
    if (is_zero_page(page)) {
      set_bit(offer.zero_bitmap, i);
    } else if (offer.kept_bitmap.empty() || !bit(offer.kept_bitmap, i)) {
      hashes.push_back(hasher_.hash(page));
      offered.push_back(next_ + i);
    }
  }
  const auto needed = TRY(push_.offer(offer, std::as_bytes(std::span(hashes))));
  for (std::size_t i = 0; i < offered.size(); ++i) {
    if (bit(needed.missing_bitmap, i)) due_.push_back(offered[i]);
  }
  next_ += count;
  return {};
}

std::vector<SteppedPush::Encoded> SteppedPush::encode(std::mt19937_64& generator) {
  const std::size_t count = 1 + pick(generator, std::min<std::size_t>(due_.size(), 64));
  std::vector<Encoded> pages;
  for (std::size_t i = 0; i < count; ++i) {
    const PageSpan page = image_->page(due_[i]);
    Bytes chunk;
    codec_.encode(page, kNoChunk, chunk);
    pages.push_back({hasher_.hash(page), std::move(chunk)});
  }
  return pages;
}

Result<void> SteppedPush::upload(const std::vector<Encoded>& pages) {
  Bytes chunks;
  for (const Encoded& page : pages)
    chunks.insert(chunks.end(), page.chunk.begin(), page.chunk.end());
  TRY(push_.check_upload(static_cast<std::uint32_t>(pages.size()), chunks));
  TRY(push_.store_upload());
  due_.erase(due_.begin(), due_.begin() + static_cast<std::ptrdiff_t>(pages.size()));
  return {};
}

Result<void> SteppedPush::send_all(std::mt19937_64& generator) {
  while (!sent()) {
    if (must_upload()) {
      TRY(upload(encode(generator)));
    } else {
      TRY(offer(generator));
    }
  }
  return {};
}

}  // namespace thaw::test
