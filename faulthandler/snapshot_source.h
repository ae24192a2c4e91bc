#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "faulthandler/chunk_places.h"
#include "faulthandler/index_budget.h"
#include "faulthandler/page_servers.h"
#include "faulthandler/prefetch_set.h"
#include "faulthandler/snapshot_image.h"
#include "format/page_client.h"

namespace thaw {

/// What a session's VM maps.
enum class MemoryUse {
  kOwn,     // memory of its own
  kShared,  // the host's image of its snapshot
};

/// What a session's pages and its VMM's state are checked by.
enum class CheckedBy {
  kChecksums,    // which tell damage, and no lie of a page server
  kContentHash,  // that the snapshot is named with
};

/// What is wanted of the page servers for a session.
struct SnapshotWish {
  std::string name_space;
  std::string snapshot;
  MemoryUse use = MemoryUse::kOwn;
  const UniqueFd* state = nullptr;  // file that the VMM's state is written to; nullptr: none
  CheckedBy checked_by = CheckedBy::kChecksums;
};

/// What a session begins with.
struct PreparedSnapshot {
  std::shared_ptr<const SnapshotImage> image;
  std::shared_ptr<const ChunkPlaces> places;  // of its memory, where that is shared; else nullptr
  std::shared_ptr<const PrefetchSet> set;     // nullptr: there is none, or it cannot be had
  bool has_no_set = false;                    // the page server says so: one should be recorded
};

/// Brings manifests, page maps, working sets and state files from a page server: from the next one
/// where the first has them not, or damaged. Keeps an image and
/// its chunks' places as long as somebody uses them. Locks itself; no lock is held while it talks
/// to the server.
class SnapshotSource {
 public:
  /// `most_index` is what page maps and their inverses may take of memory.
  SnapshotSource(PageServers& servers, ByteCount most_index)
      : servers_(servers), budget_(std::make_shared<IndexBudget>(most_index)) {}

  /// The image and its working set; the VMM's state is in its file then. kNotFound, kUnavailable
  /// and whatever the page client or the file says; kLimitExceeded when memory for page maps is
  /// used up; kStopped soon after a stop was requested. A working set that cannot be had is done
  /// without. If a content hash is to be checked: kInvalidArgument when the snapshot is not named
  /// with it, kUnsupported when the snapshot's is of the flat form, kHashMismatch when no page
  /// server brings what it names; nothing else is in the state's file then.
  Result<PreparedSnapshot> prepare(const SnapshotWish& wish, const std::stop_token& stop = {});
  /// The image that another process has kept in this file. `use` says whether its chunks' places
  /// are wanted. What read_snapshot_image() says.
  Result<PreparedSnapshot> adopt(UniqueFd file, MemoryUse use);

  /// What page maps take, and may take.
  const IndexBudget& budget() const { return *budget_; }

 private:
  using Key = ImageKey;
  using Beyond = IndexBudget::Beyond;
  template <typename T>
  using Cache = std::map<Key, std::weak_ptr<const T>>;

  std::shared_ptr<const SnapshotImage> find_file(std::uint64_t number);
  /// What is kept under the key; nullptr: nothing.
  template <typename T>
  std::shared_ptr<const T> find(Cache<T>& cache, const Key& key);
  template <typename T>
  void keep(Cache<T>& cache, const Key& key, const std::shared_ptr<const T>& value);
  Result<std::shared_ptr<const SnapshotImage>> image_of(PageClient& client, const Key& key,
                                                        Manifest manifest);
  /// Tells the page servers that its page map or working set came damaged.
  void report(const Key& key) const;
  Result<PreparedSnapshot> prepare_from(PageClient& client, const SnapshotWish& wish);
  Result<std::shared_ptr<const ChunkPlaces>> places_of(
      const std::shared_ptr<const SnapshotImage>& image, Beyond beyond);
  /// Something that is shared, with its part of the budget.
  template <typename T>
  std::shared_ptr<const T> share(T value, IndexBudget::Held held) const;

  PageServers& servers_;
  const std::shared_ptr<IndexBudget> budget_;  // also of what outlives this
  std::mutex mutex_;
  Cache<SnapshotImage> images_;  // guarded by mutex_, as what follows
  Cache<ChunkPlaces> places_;
};

}  // namespace thaw
