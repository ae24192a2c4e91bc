#include "faulthandler/host_images.h"

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "faulthandler/limits.h"

namespace thaw {

std::optional<PageSpan> HostImages::OfOrigin::find(ChunkId chunk) const {
  for (const HostImage* const image : images) {
    if (const auto page = image->find(chunk)) return page;
  }
  return std::nullopt;
}

Result<HostImage*> HostImages::get(Loop& loop, DemandLink& link, ServeOptions options, uid_t user) {
  const Key key{key_of(*options.image), user};
  if (const auto found = images_.find(key); found != images_.end()) {
    HostImage& image = *found->second;
    image.check_file();
    if (image.usable()) return &image;
    if (image.in_use()) {
      return fail(ErrorCode::kBusy, "VMs use an image of this snapshot that is spoiled");
    }
    end(found);
  }
  ByteCount in_use;
  for (const auto& [other, image] : images_) {
    if (image->in_use()) in_use += image->present();
  }
  if (in_use >= budget_) {
    return fail(ErrorCode::kLimitExceeded, "images in use take up {} MiB, all that they may",
                in_use.value >> 20);
  }
  if (images_.size() + ending_.size() >= limits::kMaxImages && !end_oldest()) {
    return fail(ErrorCode::kLimitExceeded, "{} images are in use", images_.size());
  }
  return add(key, TRY(HostImage::create(loop, link, std::move(options))));
}

HostImage* HostImages::find(const UniqueFd& file) const {
  const auto number = file_number(file);
  const auto found = std::ranges::find_if(images_, [&](const auto& entry) {
    const auto own = file_number(entry.second->file());
    return number && own && *own == *number;
  });
  return found == images_.end() ? nullptr : found->second.get();
}

Result<HostImage*> HostImages::adopt(Loop& loop, DemandLink& link, ServeOptions options, uid_t user,
                                     HostImage::Kept kept) {
  const Key key{key_of(*options.image), user};
  if (images_.contains(key)) return fail(ErrorCode::kBusy, "there is another image for this user");
  return add(key, TRY(HostImage::adopt(loop, link, std::move(options), std::move(kept))));
}

HostImage* HostImages::add(const Key& key, std::unique_ptr<HostImage> image) {
  origins_[key.snapshot.origin].images.push_back(image.get());
  return images_.emplace(key, std::move(image)).first->second.get();
}

ByteCount HostImages::present() const {
  ByteCount present;
  for (const auto& [key, image] : images_) present += image->present();
  return present;
}

HostImages::Images::iterator HostImages::end(Images::iterator image) {
  std::erase(origins_[image->first.snapshot.origin].images, image->second.get());
  image->second->stop();
  ending_.push_back(std::move(image->second));
  return images_.erase(image);
}

bool HostImages::end_oldest() {
  const auto in_use = [](const auto& entry) { return entry.second->in_use(); };
  const auto last_used = [&](const auto& entry) {
    return in_use(entry) ? Clock::time_point::max() : entry.second->last_used();
  };
  const auto oldest = std::ranges::min_element(images_, {}, last_used);
  if (oldest == images_.end() || in_use(*oldest)) return false;
  log_info("the image of {} goes, {} MiB", oldest->second->snapshot().manifest.spec.name,
           oldest->second->present().value >> 20);
  end(oldest);
  return true;
}

void HostImages::tidy() {
  std::erase_if(ending_, [&](const auto& image) {
    if (!image->finished()) return false;
    const std::lock_guard lock(given_back_mutex_);
    given_back_.push_back(image->take_memory());
    giving_back_.request();
    return true;
  });
  for (auto image = images_.begin(); image != images_.end();) {
    const bool useless = !image->second->usable() && !image->second->in_use();
    image = useless ? end(image) : std::next(image);
  }
  while (present() > budget_ && end_oldest()) {
  }
}

void HostImages::stop() {
  for (auto image = images_.begin(); image != images_.end();) image = end(image);
}

}  // namespace thaw
