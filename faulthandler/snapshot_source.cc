#include "faulthandler/snapshot_source.h"

#include "format/page_client.h"

namespace thaw {

Result<std::shared_ptr<const SnapshotImage>> SnapshotSource::prepare(
    const std::string& name_space, const std::string& snapshot, const std::string& state_out,
    std::optional<FileOwner> owner) {
  PageClient client = TRY(PageClient::connect(server_, name_space));
  Manifest manifest = TRY(client.show(snapshot));
  const Key key{name_space, manifest.snapshot};
  std::shared_ptr<const SnapshotImage> image;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(images_, [](const auto& entry) { return entry.second.expired(); });
    image = images_[key].lock();
  }
  if (image == nullptr) {
    PageMap map = TRY(client.page_map(manifest));
    image = std::make_shared<SnapshotImage>(std::move(manifest), std::move(map));
    const std::lock_guard lock(mutex_);
    images_[key] = image;
  }
  if (!state_out.empty()) {
    PartialFile file = TRY(PartialFile::create(state_out));
    if (owner) TRY(file.give_to(*owner));
    TRY(fetch_state(client, image->manifest, image->map, file.fd()));
    TRY(file.publish());
  }
  return image;
}

}  // namespace thaw
