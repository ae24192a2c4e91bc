#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/stream.h"
#include "faulthandler/chunk_places.h"
#include "faulthandler/origin.h"
#include "faulthandler/prefetch_set.h"
#include "format/cold_map.h"
#include "format/manifest.h"
#include "format/page_client.h"
#include "format/page_map.h"

namespace thaw {

/// What a session needs of a snapshot before its first fault. Immutable, shared by all sessions of
/// the snapshot on this host.
struct SnapshotImage {
  Origin origin;
  Manifest manifest;
  PageMap map;
  ColdMap cold{};  // empty also when it cannot be had
};

/// What a session's VM maps.
enum class MemoryUse {
  kOwn,     // memory of its own
  kShared,  // the host's image of its snapshot
};

/// What a session begins with.
struct PreparedSnapshot {
  std::shared_ptr<const SnapshotImage> image;
  std::shared_ptr<const ChunkPlaces> places;  // of its memory, where that is shared; else nullptr
  std::shared_ptr<const PrefetchSet> set;     // nullptr: there is none, or it cannot be had
  bool has_no_set = false;                    // the page server says so: one should be recorded
};

/// Brings manifests, page maps, working sets and state files from a page server. Keeps an image and
/// its chunks' places as long as somebody uses them. Locks itself; no lock is held while it talks
/// to the server.
class SnapshotSource {
 public:
  explicit SnapshotSource(ServerAddress server) : server_(std::move(server)) {}

  /// The image and its working set, and the VMM state written to `state_out` unless that is empty.
  /// kNotFound, kUnavailable and whatever the page client or the file says. A working set that
  /// cannot be had is done without.
  Result<PreparedSnapshot> prepare(const std::string& name_space, const std::string& snapshot,
                                   MemoryUse use, const std::string& state_out,
                                   std::optional<FileOwner> owner);
  const ServerAddress& server() const { return server_; }

 private:
  /// Ids are never reused inside an origin, so an image is known by them.
  using Key = std::pair<Origin, SnapshotId>;
  template <typename T>
  using Cache = std::map<Key, std::weak_ptr<const T>>;

  /// What is kept under the key; nullptr: nothing.
  template <typename T>
  std::shared_ptr<const T> find(Cache<T>& cache, const Key& key);
  template <typename T>
  void keep(Cache<T>& cache, const Key& key, const std::shared_ptr<const T>& value);
  Result<std::shared_ptr<const SnapshotImage>> image_of(PageClient& client, const Key& key,
                                                        Manifest manifest);
  std::shared_ptr<const ChunkPlaces> places_of(const Key& key, const SnapshotImage& image);

  const ServerAddress server_;
  std::mutex mutex_;
  Cache<SnapshotImage> images_;  // guarded by mutex_, as what follows
  Cache<ChunkPlaces> places_;
};

}  // namespace thaw
