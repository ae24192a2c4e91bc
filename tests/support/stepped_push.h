#pragma once

#include <memory>
#include <random>
#include <vector>

#include "format/hash.h"
#include "pageserver/live_pushes.h"
#include "pageserver/snapshot_pins.h"
#include "tests/support/drawn_image.h"

namespace thaw::test {

/// A push into a store that goes on step by step between other work, counted among the live ones as
/// a peer's is. One with a parent keeps what it can, and pins it. One thread.
class SteppedPush {
 public:
  struct Surroundings {
    Store& store;
    NamespaceId name_space;
    LivePushes& pushes;
    SnapshotPins& pins;
  };
  struct Parent {
    SnapshotId snapshot;
    std::shared_ptr<const DrawnImage> image;
  };
  /// A page on its way up.
  struct Encoded {
    Sha256 hash;
    Bytes chunk;
  };

  /// REQUIRES: the parent, if any, is there.
  SteppedPush(const Surroundings& surroundings, std::shared_ptr<const DrawnImage> image,
              const Parent& parent);
  SteppedPush(const SteppedPush&) = delete;
  SteppedPush& operator=(const SteppedPush&) = delete;
  ~SteppedPush();

  const std::shared_ptr<const DrawnImage>& image() const { return image_; }
  const std::string& name() const { return image_->spec.name; }
  SnapshotId parent() const { return push_.parent(); }
  bool must_upload() const { return !due_.empty(); }
  bool sent() const { return next_ == image_->count() && due_.empty(); }
  const Push& push() const { return push_; }

  /// Offers the next pages, some of them or all.
  Result<void> offer(std::mt19937_64& generator);
  /// Some of the pages that are due.
  std::vector<Encoded> encode(std::mt19937_64& generator);
  /// Uploads them. Of the push nothing more can be made when it fails.
  Result<void> upload(const std::vector<Encoded>& pages);
  Result<void> send_all(std::mt19937_64& generator);
  Result<Manifest> commit() {
    if (!image_->cold.empty()) TRY(push_.set_cold_map(encode_cold_map(image_->cold)));
    return push_.commit();
  }

 private:
  /// What of [next_, next_ + count) is kept; empty when an offer of it cannot say so.
  Bytes kept_of_next(std::size_t count) const;

  const Surroundings surroundings_;
  const std::shared_ptr<const DrawnImage> image_;
  Bytes kept_;  // a bit for each page; empty: none is
  Push push_;
  std::size_t next_ = 0;
  std::vector<std::size_t> due_;  // pages that were offered and are missing
  ChunkCodec codec_;
  Hasher hasher_;
};

}  // namespace thaw::test
