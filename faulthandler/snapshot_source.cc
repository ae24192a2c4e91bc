#include "faulthandler/snapshot_source.h"

#include "base/file.h"
#include "base/log.h"
#include "format/snapshot_name.h"

namespace thaw {

namespace {

/// Whether what was sent is damaged, or the server says so of its own copy.
bool is_damage(const Error& error) {
  return error.code() == ErrorCode::kBadMagic || error.code() == ErrorCode::kMalformed ||
         error.code() == ErrorCode::kTruncated || error.code() == ErrorCode::kTooLarge ||
         error.code() == ErrorCode::kChecksumMismatch || error.code() == ErrorCode::kCorrupt;
}

/// What an image takes of memory, its file included, which is in memory too.
ByteCount memory_of(const SnapshotImage& image) {
  const ByteCount index = image.hashes ? PageHashes::index_bytes(image.map.size()) : ByteCount{0};
  return {image.map.memory().value + image.cold.size() * sizeof(PageRange) +
          file_size(image.file).value_or(ByteCount{0}).value + index.value};
}

/// What its hashes will take.
ByteCount memory_for_hashes(const SnapshotImage& image) {
  return ByteCount{sizeof(std::uint64_t)} + PageHashes::file_bytes(image.map) +
         PageHashes::index_bytes(image.map.size());
}

Result<void> write_state(PageClient& client, const SnapshotImage& image, const UniqueFd& file) {
  TRY(resize_file(file, {0}));  // another server may have written to it
  Hasher hasher;
  return fetch_state(client, image.manifest, image.map, file,
                     [&](PageIndex first, ByteSpan pages) -> Result<void> {
                       for (; image.hashes && !pages.empty(); pages = pages.subspan(kPageBytes)) {
                         TRY(image.hashes->check(first, pages.first<kPageBytes>(), hasher));
                         first += PageCount{1};
                       }
                       return {};
                     });
}

}  // namespace

template <typename T>
std::shared_ptr<const T> SnapshotSource::find(Cache<T>& cache, const Key& key) {
  const std::lock_guard lock(mutex_);
  std::erase_if(cache, [](const auto& entry) { return entry.second.expired(); });
  const auto found = cache.find(key);
  return found == cache.end() ? nullptr : found->second.lock();
}

std::shared_ptr<const SnapshotImage> SnapshotSource::find_file(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  for (const auto& [key, weak] : images_) {
    auto image = weak.lock();
    if (image != nullptr && file_number(image->file).value_or(0) == number) return image;
  }
  return nullptr;
}

template <typename T>
void SnapshotSource::keep(Cache<T>& cache, const Key& key, const std::shared_ptr<const T>& value) {
  const std::lock_guard lock(mutex_);
  cache[key] = value;
}

template <typename T>
std::shared_ptr<const T> SnapshotSource::share(T value, IndexBudget::Held held) const {
  struct Charged {
    std::shared_ptr<IndexBudget> budget;  // destroyed last
    T value;
    IndexBudget::Held held;
  };
  const auto charged = std::make_shared<const Charged>(budget_, std::move(value), std::move(held));
  return {charged, &charged->value};
}

Result<std::shared_ptr<const SnapshotImage>> SnapshotSource::image_of(PageClient& client,
                                                                      const Key& key,
                                                                      Manifest manifest) {
  if (auto image = find(images_, key)) return image;
  auto held = TRY(budget_->take({0}, Beyond::kRefused));
  const auto admit = [&held](ByteCount all) { return held.resize(all, Beyond::kRefused); };
  auto map = client.page_map(manifest, admit);
  if (!map) {
    if (is_damage(map.error())) report(key);
    return std::unexpected(map.error());
  }
  ColdMap cold;
  if (manifest.statistics.cold_pages > 0) {
    auto fetched = client.cold_map(manifest);
    if (fetched) {
      cold = *std::move(fetched);
    } else {
      log_warning("{} without its cold map: {}", manifest.spec.name, fetched.error().message());
    }
  }
  SnapshotImage image{key.origin, std::move(manifest), *std::move(map), std::move(cold)};
  // Its file is about as large at most.
  TRY(admit({2 * memory_of(image).value}));
  TRY(keep_snapshot_image(image));
  const bool checked = key.checked_content.has_value();
  // The server says how many hashes there are: they are counted before they come.
  const ByteCount hashes = checked ? memory_for_hashes(image) : ByteCount{0};
  TRY(admit(memory_of(image) + hashes));
  if (checked) TRY(fetch_page_hashes(client, image));
  auto shared = share(std::move(image), std::move(held));
  keep(images_, key, shared);
  return shared;
}

void SnapshotSource::report(const Key& key) const {
  const auto told = servers_.tell_all(
      key.origin, [&](PageClient& client) { return client.report_damage({{}, key.snapshot}); });
  if (!told)
    log_warning("nobody was told of a damaged page map or working set: {}", told.error().message());
}

Result<std::shared_ptr<const ChunkPlaces>> SnapshotSource::places_of(
    const std::shared_ptr<const SnapshotImage>& image, Beyond beyond) {
  const Key key = key_of(*image);
  if (auto places = find(places_, key)) return places;
  auto held = TRY(budget_->take(ChunkPlaces::memory_to_make(image->map), beyond));
  ChunkPlaces made({image, &image->map}, image->manifest.spec.memory_pages());
  TRY(held.resize(made.memory(), beyond));
  auto places = share(std::move(made), std::move(held));
  keep(places_, key, places);
  return places;
}

/// Its VM runs already, so it is not refused.
Result<PreparedSnapshot> SnapshotSource::adopt(UniqueFd file, MemoryUse use) {
  // Sessions of one snapshot share the file, and it is read once.
  auto image = find_file(TRY(file_number(file)));
  if (image == nullptr) {
    SnapshotImage read = TRY(read_snapshot_image(std::move(file)));
    auto held = TRY(budget_->take(memory_of(read), Beyond::kTaken));
    image = share(std::move(read), std::move(held));
    keep(images_, key_of(*image), image);
  }
  std::shared_ptr<const ChunkPlaces> places;
  if (use == MemoryUse::kShared) places = TRY(places_of(image, Beyond::kTaken));
  return PreparedSnapshot{std::move(image), std::move(places), nullptr};
}

Result<PreparedSnapshot> SnapshotSource::prepare(const SnapshotWish& wish,
                                                 const std::stop_token& stop) {
  const SnapshotName name = TRY(parse_snapshot_name(wish.snapshot));
  if (wish.checked_by == CheckedBy::kContentHash && name.content.empty()) {
    return fail(ErrorCode::kInvalidArgument,
                "there is nothing to verify \"{}\" against: name it NAME@sha256:HEX, with the "
                "content hash that `thaw show` told where it was pushed",
                wish.snapshot);
  }
  PreparedSnapshot prepared;
  const auto take = [&](PageClient& client) -> Result<void> {
    prepared = TRY(prepare_from(client, wish));
    return {};
  };
  TRY(servers_.ask(wish.name_space, take, stop));
  return prepared;
}

Result<PreparedSnapshot> SnapshotSource::prepare_from(PageClient& client,
                                                      const SnapshotWish& wish) {
  Manifest manifest = TRY(client.show(wish.snapshot));
  Key key{{client.store(), wish.name_space}, manifest.snapshot, {}};
  if (wish.checked_by == CheckedBy::kContentHash) {
    if (manifest.content_form != ContentForm::kSegments) {
      return fail(ErrorCode::kUnsupported,
                  "{} cannot be verified: its content hash is of an older form. Push it again",
                  manifest.spec.name);
    }
    key.checked_content = manifest.content_hash;
  }
  const auto image = TRY(image_of(client, key, std::move(manifest)));
  if (wish.state != nullptr) TRY(write_state(client, *image, *wish.state));
  std::shared_ptr<const PrefetchSet> set;
  bool has_no_set = false;
  if (auto working_set = client.working_set(image->manifest.snapshot)) {
    auto ready = PrefetchSet::create(*working_set, image->map, image->manifest.spec.memory_pages());
    if (ready) {
      set = std::make_shared<const PrefetchSet>(*std::move(ready));
    } else {
      report(key);
      log_warning("{}: {}", wish.snapshot, ready.error().message());
    }
  } else if (working_set.error().code() == ErrorCode::kNotFound) {
    has_no_set = true;
  } else {
    if (is_damage(working_set.error())) report(key);
    log_warning("{} without its working set: {}", wish.snapshot, working_set.error().message());
  }
  std::shared_ptr<const ChunkPlaces> places;
  if (wish.use == MemoryUse::kShared) places = TRY(places_of(image, Beyond::kRefused));
  return PreparedSnapshot{image, std::move(places), std::move(set), has_no_set};
}

}  // namespace thaw
