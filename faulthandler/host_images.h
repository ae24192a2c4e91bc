#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "base/background_task.h"
#include "base/unique_fd.h"
#include "faulthandler/chunk_source.h"
#include "faulthandler/host_image.h"

namespace thaw {

/// The images of this host, each for the VMs of one user: who maps an image can have pages of it
/// read as zeros that were not brought yet. One that no VM uses stays for the next VM, as long as
/// all of them together keep within the budget; the one that was used longest ago goes first. On
/// the loop's thread.
class HostImages {
 public:
  explicit HostImages(ByteCount budget) : budget_(budget) {}

  /// Makes the image if it is not there. kLimitExceeded when those that VMs use take up the budget
  /// or are too many, kBusy when VMs use one that is no good, and the errors of
  /// HostImage::create().
  Result<HostImage*> get(Loop& loop, DemandLink& link, ServeOptions options, uid_t user);
  /// The image whose memory this is; nullptr: there is none.
  HostImage* find(const UniqueFd& file) const;
  /// That which another process has kept. kBusy when that user has another one; the errors of
  /// HostImage::adopt().
  Result<HostImage*> adopt(Loop& loop, DemandLink& link, ServeOptions options, uid_t user,
                           HostImage::Kept kept);
  /// What the images of an origin have, for whoever else needs a page with the same chunk.
  ChunkSource& chunks(const Origin& origin) { return origins_[origin]; }

  /// Keeps within the budget and destroys what has ended. Once in a while.
  void tidy();
  /// Ends all of them. REQUIRES: none is in use.
  void stop();
  bool finished() const { return images_.empty() && ending_.empty(); }

 private:
  struct OfOrigin final : ChunkSource {
    std::optional<PageSpan> find(ChunkId chunk) const override;
    std::vector<const HostImage*> images;
  };
  /// One beside the snapshot's, with pages that are checked as its own, for each user.
  struct Key {
    ImageKey snapshot;
    uid_t user;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  using Images = std::map<Key, std::unique_ptr<HostImage>>;

  HostImage* add(const Key& key, std::unique_ptr<HostImage> image);
  Images::iterator end(Images::iterator image);
  /// Of those that are not in use. False: all are.
  bool end_oldest();
  ByteCount present() const;

  const ByteCount budget_;
  std::map<Origin, OfOrigin> origins_;
  Images images_;
  std::vector<std::unique_ptr<HostImage>> ending_;

  std::mutex given_back_mutex_;
  std::vector<HostImage::Memory> given_back_;  // guarded by it
  BackgroundTask giving_back_{[this] {
    std::vector<HostImage::Memory> memory;
    const std::lock_guard lock(given_back_mutex_);
    memory.swap(given_back_);
  }};
};

}  // namespace thaw
