#include "pageserver/sys/rocks_store.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <set>
#include <thread>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "pageserver/sys/rocks_chunks.h"
#include "pageserver/sys/rocks_database.h"
#include "pageserver/sys/rocks_keys.h"
#include "pageserver/sys/rocks_working_sets.h"

namespace thaw {

namespace {

using Batch = RocksDatabase::Batch;
using Durability = RocksDatabase::Durability;
using message::NamespaceSettings;
using message::Tag;

// Of a namespace, in the family of totals.
constexpr char kSettings = 'l';

std::string name_key(NamespaceId in, const std::string& name) { return prefixed('n', in) + name; }
std::string tag_key(NamespaceId in, const std::string& tag) { return prefixed('t', in) + tag; }
std::string manifest_key(NamespaceId in, SnapshotId snapshot) {
  return snapshot_key(kManifests, in, snapshot);
}
std::string retired_key(NamespaceId in, SnapshotId snapshot) {
  return snapshot_key('d', in, snapshot);
}
std::string cold_key(NamespaceId in, SnapshotId snapshot) {
  return snapshot_key('k', in, snapshot);
}
std::string segment_key(NamespaceId in, SnapshotId snapshot, std::uint32_t segment) {
  std::string key = snapshot_key('p', in, snapshot);
  append_big_endian(key, segment, 4);
  return key;
}
std::string namespace_key(const std::string& name) { return std::string(kNamespaces) + name; }

/// In the order in which they are stored, before the label's key.
constexpr std::array kSettingsFields{
    &NamespaceSettings::quota_bytes, &NamespaceSettings::quota_snapshots,
    &NamespaceSettings::keep_last, &NamespaceSettings::keep_seconds};

constexpr std::uint64_t kNoBound = std::numeric_limits<std::uint64_t>::max();

/// Between two looks at what the owner of a replica's store has written.
constexpr std::chrono::milliseconds kCatchUpInterval{200};

class RocksStore final : public Store {
 public:
  explicit RocksStore(std::unique_ptr<RocksDatabase> database)
      : database_(std::move(database)), chunks_(*database_), working_sets_(*database_) {}

  /// REQUIRES: the database is a replica's.
  Result<void> follow_owner() {
    follower_ = TRY(start_thread([this](const std::stop_token& stop) { follow(stop); }));
    return {};
  }

  Result<std::optional<NamespaceId>> find_namespace(const std::string& name) override {
    const auto found = TRY(database_->get_number(Family::kMeta, namespace_key(name)));
    if (!found) return std::optional<NamespaceId>();
    return std::optional(NamespaceId{static_cast<std::uint16_t>(*found)});
  }

  Result<std::vector<NamedNamespace>> namespaces() override {
    std::vector<NamedNamespace> all;
    TRY(database_->scan(Family::kMeta, std::string(kNamespaces), {},
                        [&](std::string_view name, ByteSpan number) -> Result<bool> {
                          const std::uint64_t id = TRY(parse_number(number));
                          all.push_back({std::string(name), {static_cast<std::uint16_t>(id)}});
                          return true;
                        }));
    return all;
  }

  Result<NamespaceSettings> settings(NamespaceId in) override {
    const auto value =
        TRY(if_found(database_->get(Family::kMeta, prefixed(kSettings, in), "settings")));
    NamespaceSettings settings;
    if (!value) return settings;
    const std::size_t numbers = kSettingsFields.size() * 8;
    if (value->size() < numbers) {
      return fail(ErrorCode::kCorrupt, "a namespace's settings of {} bytes", value->size());
    }
    for (std::size_t i = 0; i < kSettingsFields.size(); ++i) {
      settings.*kSettingsFields[i] = load_big_endian(ByteSpan(*value).subspan(i * 8, 8));
    }
    settings.keep_per_label = as_text(ByteSpan(*value).subspan(numbers));
    return settings;
  }

  Result<NamespaceTotals> totals(NamespaceId in) override {
    NamespaceTotals totals = TRY(chunks_.totals(in));
    totals.pack_bytes = TRY(working_sets_.pack_bytes(in));
    return totals;
  }

  Result<std::vector<ChunkId>> find_chunks(NamespaceId in,
                                           std::span<const Sha256> hashes) override {
    return chunks_.find(in, hashes);
  }

  Result<ChunkRead> read_chunks(std::span<const ChunkId> ids, std::size_t optional) override {
    return chunks_.read(ids, optional);
  }

  Result<Bytes> manifest(NamespaceId in, const std::string& name) override {
    const auto snapshot = TRY(if_found(find_snapshot(in, name)));
    if (snapshot) return manifest(in, *snapshot);
    const auto tagged = TRY(database_->get_number(Family::kSnapshot, tag_key(in, name)));
    if (!tagged) return fail(ErrorCode::kNotFound, "there is no snapshot \"{}\"", name);
    return manifest(in, SnapshotId{*tagged});
  }

  Result<Bytes> manifest(NamespaceId in, SnapshotId snapshot) override {
    return database_->get(Family::kSnapshot, manifest_key(in, snapshot), "reading a manifest");
  }

  Result<std::vector<Bytes>> manifests(NamespaceId in, const std::string& after,
                                       std::size_t most) override {
    std::vector<Bytes> found;
    const auto visit = [&](std::string_view name, ByteSpan value) -> Result<bool> {
      if (!after.empty() && name == after) return true;
      const SnapshotId snapshot{TRY(parse_number(value))};
      auto sealed = TRY(if_found(manifest(in, snapshot)));
      // Deleted since the scan began.
      if (!sealed) return true;
      found.push_back(*std::move(sealed));
      return found.size() < most;
    };
    if (most > 0) TRY(database_->scan(Family::kSnapshot, prefixed('n', in), after, visit));
    return found;
  }

  Result<SnapshotId> find_snapshot(NamespaceId in, const std::string& name) override {
    const auto found = TRY(database_->get_number(Family::kSnapshot, name_key(in, name)));
    if (!found) return fail(ErrorCode::kNotFound, "there is no snapshot \"{}\"", name);
    return SnapshotId{*found};
  }

  Result<std::vector<SnapshotId>> snapshots(NamespaceId in, SnapshotId after) override {
    return snapshots_of(kManifests, in, {after.value + 1});
  }
  Result<std::vector<SnapshotId>> retired(NamespaceId in) override {
    return snapshots_of('d', in, {});
  }

  Result<std::uint64_t> named_snapshots(NamespaceId in) override {
    std::uint64_t count = 0;
    TRY(database_->scan(Family::kSnapshot, prefixed('n', in), {},
                        [&](std::string_view, ByteSpan) -> Result<bool> {
                          ++count;
                          return true;
                        }));
    return count;
  }

  Result<std::vector<Tag>> tags(NamespaceId in, const std::string& after,
                                std::size_t most) override {
    std::vector<Tag> found;
    const auto visit = [&](std::string_view tag, ByteSpan value) -> Result<bool> {
      if (!after.empty() && tag == after) return true;
      const auto sealed = TRY(if_found(manifest(in, SnapshotId{TRY(parse_number(value))})));
      // Deleted since the scan began.
      if (!sealed) return true;
      found.push_back({std::string(tag), TRY(decode_manifest(*sealed)).spec.name});
      return found.size() < most;
    };
    if (most > 0) TRY(database_->scan(Family::kSnapshot, prefixed('t', in), after, visit));
    return found;
  }

  Result<std::vector<std::string>> strays(NamespaceId in) override {
    std::vector<std::string> found;
    std::set<SnapshotId> there;
    for (const SnapshotId snapshot : TRY(snapshots(in, {}))) there.insert(snapshot);
    for (const char kind : {'n', 't'}) {
      TRY(database_->scan(Family::kSnapshot, prefixed(kind, in), {},
                          [&](std::string_view name, ByteSpan value) -> Result<bool> {
                            const SnapshotId of{TRY(parse_number(value))};
                            if (!there.contains(of)) {
                              found.push_back(fmt::format(
                                  "\"{}\" names snapshot {}, which is not there", name, of.value));
                            }
                            return true;
                          }));
    }
    for (const auto& [kind, what] : {std::pair('p', "page map"), std::pair('k', "cold map")}) {
      std::set<SnapshotId> lost;
      TRY(database_->scan(Family::kSnapshot, prefixed(kind, in), {},
                          [&](std::string_view key, ByteSpan) -> Result<bool> {
                            const SnapshotId of{TRY(parse_number(as_bytes(key.substr(0, 8))))};
                            if (!there.contains(of)) lost.insert(of);
                            return true;
                          }));
      for (const SnapshotId of : lost) {
        found.push_back(fmt::format("a {} of snapshot {}, which is not there", what, of.value));
      }
    }
    return found;
  }

  Result<Bytes> page_map_segment(NamespaceId in, SnapshotId snapshot,
                                 std::uint32_t segment) override {
    return database_->get(Family::kSnapshot, segment_key(in, snapshot, segment),
                          "page map segment");
  }

  Result<Bytes> cold_map(NamespaceId in, SnapshotId snapshot) override {
    return database_->get(Family::kSnapshot, cold_key(in, snapshot), "cold map");
  }

  Result<NamespaceId> open_namespace(const std::string& name) override {
    if (const auto found = TRY(find_namespace(name))) return *found;
    const std::uint64_t next =
        TRY(database_->get_number(Family::kMeta, "namespaces")).value_or(0) + 1;
    if (next > 0xffff) return fail(ErrorCode::kLimitExceeded, "65,535 namespaces");
    Batch batch(*database_);
    batch.put_number(Family::kMeta, "namespaces", next);
    batch.put_number(Family::kMeta, namespace_key(name), next);
    TRY(database_->write(batch, Durability::kSynced));
    return NamespaceId{static_cast<std::uint16_t>(next)};
  }

  Result<void> set_settings(NamespaceId in, const NamespaceSettings& settings) override {
    std::string value;
    for (const auto field : kSettingsFields) value += number_key(settings.*field);
    Batch batch(*database_);
    batch.put(Family::kMeta, prefixed(kSettings, in), value + settings.keep_per_label);
    TRY(database_->check_space(batch));
    return database_->write(batch, Durability::kSynced);
  }

  Result<std::vector<StoredChunk>> put_chunks(NamespaceId in,
                                              std::span<const NewChunk> chunks) override {
    const std::uint64_t quota = TRY(settings(in)).quota_bytes;
    // Packs do not count: recordings of readers make them, and must not stop the pushers.
    return chunks_.put(in, chunks, quota == 0 ? kNoBound : quota);
  }

  Result<Manifest> publish(NamespaceId in, Manifest manifest, const PageMap& map,
                           const ColdMap& cold) override {
    const std::string& name = manifest.spec.name;
    if (TRY(if_found(find_snapshot(in, name)))) {
      return fail(ErrorCode::kAlreadyExists, "there is a snapshot \"{}\" already", name);
    }
    const std::uint64_t quota = TRY(settings(in)).quota_snapshots;
    if (quota != 0 && TRY(named_snapshots(in)) >= quota) {
      return fail(ErrorCode::kQuotaExceeded, "{} snapshots are what the namespace may have", quota);
    }
    const std::string counter = prefixed(kLastSnapshot, in);
    manifest.snapshot = {TRY(database_->get_number(Family::kMeta, counter)).value_or(0) + 1};
    Batch batch(*database_);
    batch.put_number(Family::kMeta, counter, manifest.snapshot.value);
    for (std::uint32_t i = 0; i < map.segment_count(); ++i) {
      batch.put(Family::kSnapshot, segment_key(in, manifest.snapshot, i),
                as_text(map.encode_segment(i)));
    }
    if (!cold.empty()) {
      batch.put(Family::kSnapshot, cold_key(in, manifest.snapshot), as_text(encode_cold_map(cold)));
    }
    batch.put(Family::kSnapshot, manifest_key(in, manifest.snapshot),
              as_text(encode_manifest(manifest)));
    batch.put_number(Family::kSnapshot, name_key(in, name), manifest.snapshot.value);
    TRY(database_->check_space(batch));
    TRY(database_->write(batch, Durability::kSynced));
    return manifest;
  }

  Result<Manifest> set_labels(NamespaceId in, const std::string& name,
                              std::vector<Label> labels) override {
    const Bytes sealed = TRY(manifest(in, name));
    Manifest changed = TRY(decode_manifest(sealed));
    changed.spec.labels = std::move(labels);
    Batch batch(*database_);
    batch.put(Family::kSnapshot, manifest_key(in, changed.snapshot),
              as_text(encode_manifest(changed)));
    TRY(database_->check_space(batch));
    TRY(database_->write(batch, Durability::kSynced));
    return changed;
  }

  Result<bool> is_tagged(NamespaceId in, SnapshotId snapshot) override {
    bool tagged = false;
    TRY(database_->scan(Family::kSnapshot, prefixed('t', in), {},
                        [&](std::string_view, ByteSpan value) -> Result<bool> {
                          tagged = SnapshotId{TRY(parse_number(value))} == snapshot;
                          return !tagged;
                        }));
    return tagged;
  }

  Result<void> move_tag(NamespaceId in, const Tag& to) override {
    const SnapshotId snapshot = TRY(find_snapshot(in, to.name));
    Batch batch(*database_);
    batch.put_number(Family::kSnapshot, tag_key(in, to.tag), snapshot.value);
    TRY(database_->check_space(batch));
    return database_->write(batch, Durability::kSynced);
  }

  Result<void> remove_tag(NamespaceId in, const std::string& tag) override {
    if (!TRY(database_->get_number(Family::kSnapshot, tag_key(in, tag)))) {
      return fail(ErrorCode::kNotFound, "there is no tag \"{}\"", tag);
    }
    Batch batch(*database_);
    batch.remove(Family::kSnapshot, tag_key(in, tag));
    return database_->write(batch, Durability::kSynced);
  }

  Result<void> retire(NamespaceId in, const std::string& name) override {
    const SnapshotId snapshot = TRY(find_snapshot(in, name));
    Batch batch(*database_);
    TRY(remove_names(batch, in, snapshot));
    batch.put(Family::kSnapshot, retired_key(in, snapshot), {});
    return database_->write(batch, Durability::kSynced);
  }

  Result<void> remove(NamespaceId in, SnapshotId snapshot) override {
    TRY(manifest(in, snapshot));
    Batch batch(*database_);
    TRY(remove_names(batch, in, snapshot));
    batch.remove(Family::kSnapshot, retired_key(in, snapshot));
    batch.remove(Family::kSnapshot, manifest_key(in, snapshot));
    batch.remove_prefix(Family::kSnapshot, snapshot_key('p', in, snapshot));
    batch.remove(Family::kSnapshot, cold_key(in, snapshot));
    TRY(working_sets_.remove(batch, in, snapshot));
    return database_->write(batch, Durability::kSynced);
  }

  Result<void> compact() override { return database_->compact(); }
  Result<void> compact_chunks(ChunkId first, ChunkId last) override {
    return database_->compact(Family::kChunk, number_key(first.value), number_key(last.value));
  }
  Result<void> compact_hashes(NamespaceId in) override { return chunks_.compact_hashes(in); }
  void stop_compacting() override { database_->stop_compacting(); }
  Result<void> back_up(const std::string& directory) override {
    return database_->back_up(directory);
  }
  std::vector<std::string> damaged_files() override { return database_->damaged_files(); }

  ChunkUpkeep& chunk_upkeep() override { return chunks_; }
  WorkingSetStore& working_sets() override { return working_sets_; }

 private:
  /// From `first` on, of those that have a key of this kind.
  Result<std::vector<SnapshotId>> snapshots_of(char kind, NamespaceId in, SnapshotId first) {
    std::vector<SnapshotId> found;
    TRY(database_->scan(Family::kSnapshot, prefixed(kind, in), number_key(first.value),
                        [&](std::string_view id, ByteSpan) -> Result<bool> {
                          found.push_back({TRY(parse_number(as_bytes(id)))});
                          return true;
                        }));
    return found;
  }

  /// Adds to `batch` what deletes name and tags of a snapshot, whatever its manifest says.
  Result<void> remove_names(Batch& batch, NamespaceId in, SnapshotId snapshot) {
    for (const char kind : {'n', 't'}) {
      TRY(database_->scan(Family::kSnapshot, prefixed(kind, in), {},
                          [&](std::string_view name, ByteSpan value) -> Result<bool> {
                            if (SnapshotId{TRY(parse_number(value))} == snapshot) {
                              batch.remove(Family::kSnapshot,
                                           prefixed(kind, in) + std::string(name));
                            }
                            return true;
                          }));
    }
    return {};
  }

  void follow(const std::stop_token& stop) {
    bool failed = false;
    while (true) {
      rest(stop, kCatchUpInterval);
      if (stop.stop_requested()) return;
      const auto caught_up = database_->catch_up();
      if (!caught_up && !failed) log_error("{}", caught_up.error().message());
      if (caught_up && failed) log_info("caught up with the store's owner again");
      failed = !caught_up;
    }
  }

  const std::unique_ptr<RocksDatabase> database_;
  RocksChunks chunks_;
  RocksWorkingSets working_sets_;
  std::jthread follower_;  // the last member: it uses the others
};

}  // namespace

Result<std::unique_ptr<Store>> open_rocks_store(const std::string& directory,
                                                const StoreLimits& limits) {
  return std::make_unique<RocksStore>(TRY(RocksDatabase::open(directory, limits)));
}

Result<std::unique_ptr<Store>> open_rocks_replica(const std::string& directory,
                                                  const StoreLimits& limits) {
  auto store = std::make_unique<RocksStore>(TRY(RocksDatabase::open_replica(directory, limits)));
  TRY(store->follow_owner());
  return store;
}

Result<std::unique_ptr<Store>> open_rocks_reader(const std::string& directory,
                                                 const StoreLimits& limits) {
  return std::make_unique<RocksStore>(TRY(RocksDatabase::open_reader(directory, limits)));
}

}  // namespace thaw
