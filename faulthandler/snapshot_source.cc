#include "faulthandler/snapshot_source.h"

#include "base/log.h"
#include "format/page_client.h"

namespace thaw {

Result<PreparedSnapshot> SnapshotSource::prepare(const std::string& name_space,
                                                 const std::string& snapshot,
                                                 const std::string& state_out,
                                                 std::optional<FileOwner> owner) {
  PageClient client = TRY(PageClient::connect(server_, name_space));
  Manifest manifest = TRY(client.show(snapshot));
  const Key key{{client.store(), name_space}, manifest.snapshot};
  std::shared_ptr<const SnapshotImage> image;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(images_, [](const auto& entry) { return entry.second.expired(); });
    image = images_[key].lock();
  }
  if (image == nullptr) {
    PageMap map = TRY(client.page_map(manifest));
    ColdMap cold;
    if (manifest.statistics.cold_pages > 0) {
      auto fetched = client.cold_map(manifest);
      if (fetched) {
        cold = *std::move(fetched);
      } else {
        log_warning("{} without its cold map: {}", snapshot, fetched.error().message());
      }
    }
    image = std::make_shared<SnapshotImage>(key.first, std::move(manifest), std::move(map),
                                            std::move(cold));
    const std::lock_guard lock(mutex_);
    images_[key] = image;
  }
  if (!state_out.empty()) {
    PartialFile file = TRY(PartialFile::create(state_out));
    if (owner) TRY(file.give_to(*owner));
    TRY(fetch_state(client, image->manifest, image->map, file.fd()));
    TRY(file.publish());
  }
  std::shared_ptr<const PrefetchSet> set;
  bool has_no_set = false;
  if (auto working_set = client.working_set(image->manifest.snapshot)) {
    auto ready = PrefetchSet::create(*working_set, image->map, image->manifest.spec.memory_pages());
    if (ready) {
      set = std::make_shared<const PrefetchSet>(*std::move(ready));
    } else {
      log_warning("{}: {}", snapshot, ready.error().message());
    }
  } else if (working_set.error().code() == ErrorCode::kNotFound) {
    has_no_set = true;
  } else {
    log_warning("{} without its working set: {}", snapshot, working_set.error().message());
  }
  return PreparedSnapshot{std::move(image), std::move(set), has_no_set};
}

}  // namespace thaw
