#include "pageserver/sys/rocks_store.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "pageserver/sys/rocks_account.h"
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

constexpr std::uint64_t kMostNamespaces = 0xffff;

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
// In the family of totals.
constexpr char kOutdated = 'o';
constexpr char kAgeStart = 'a';
constexpr const char* kLastTime = "time";
std::string outdated_key(NamespaceId in, SnapshotId snapshot) {
  return snapshot_key(kOutdated, in, snapshot);
}

/// Between two looks at what the owner of a replica's store has written.
constexpr std::chrono::milliseconds kCatchUpInterval{200};

class RocksStore final : public Store {
 public:
  explicit RocksStore(std::unique_ptr<RocksDatabase> database)
      : database_(std::move(database)), chunks_(*database_), working_sets_(*database_) {}

  /// REQUIRES: the database is a replica's.
  Result<void> follow_owner(StoreWatch watch, std::function<void(const Error&)> end) {
    follower_ = TRY(start_thread([this, watch = std::move(watch), end = std::move(end)](
                                     const std::stop_token& stop) { follow(watch, end, stop); }));
    return {};
  }

  /// Packs whose set the process before did not come to publish.
  Result<void> discard_packs() {
    for (const NamedNamespace& each : TRY(namespaces())) {
      TRY(working_sets_.discard_all_packs(each.id));
    }
    return {};
  }

  Result<std::optional<NamespaceId>> find_namespace(const std::string& name) override {
    const auto found = TRY(database_->get_number(Family::kMeta, namespace_key(name)));
    if (!found) return std::optional<NamespaceId>();
    return std::optional(NamespaceId{static_cast<std::uint16_t>(*found)});
  }

  Result<std::vector<NamedNamespace>> namespaces() override { return read_namespaces(*database_); }
  Result<NamespaceSettings> settings(NamespaceId in) override {
    return read_settings(*database_, in);
  }
  Result<NamespaceTotals> totals(NamespaceId in) override { return read_totals(*database_, in); }

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
                                       const ListingPart& part) override {
    std::vector<Bytes> found;
    std::size_t bytes = 0;
    const auto visit = [&](std::string_view name, ByteSpan value) -> Result<bool> {
      if (!after.empty() && name == after) return true;
      const SnapshotId snapshot{TRY(parse_number(value))};
      auto sealed = TRY(if_found(manifest(in, snapshot)));
      // Deleted since the scan began.
      if (!sealed) return true;
      bytes += sealed->size();
      found.push_back(*std::move(sealed));
      return !part.filled_by(found.size(), bytes);
    };
    if (!part.filled_by(0, 0))
      TRY(database_->scan(Family::kSnapshot, prefixed('n', in), after, visit));
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
    const std::uint64_t given = TRY(database_->get_number(Family::kMeta, "namespaces")).value_or(0);
    const std::uint64_t next = given < kMostNamespaces ? given + 1 : TRY(free_number());
    Batch batch(*database_);
    batch.put_number(Family::kMeta, "namespaces", std::max(given, next));
    batch.put_number(Family::kMeta, namespace_key(name), next);
    TRY(database_->check_space(batch));
    TRY(database_->write(batch, Durability::kSynced));
    return NamespaceId{static_cast<std::uint16_t>(next)};
  }

  Result<void> remove_namespace(const std::string& name) override {
    const auto in = TRY(find_namespace(name));
    if (!in) return fail(ErrorCode::kNotFound, "there is no namespace \"{}\"", name);
    TRY(check_empty(*in));
    Batch batch(*database_);
    batch.remove(Family::kMeta, namespace_key(name));
    batch.remove(Family::kMeta, settings_key(*in));
    remove_totals(batch, *in);
    // The bounds of its ids stay: should another namespace get the number, it gets other ids.
    RocksChunks::remove(batch, *in);
    return database_->write(batch, Durability::kSynced);
  }

  Result<void> set_settings(NamespaceId in, const NamespaceSettings& settings) override {
    Batch batch(*database_);
    batch.put(Family::kMeta, settings_key(in), settings_value(settings));
    for (const auto& [snapshot, since] : TRY(outdated_marks(in))) {
      batch.remove(Family::kMeta, outdated_key(in, snapshot));
    }
    TRY(database_->check_space(batch));
    return database_->write(batch, Durability::kSynced);
  }

  Result<std::vector<StoredChunk>> put_chunks(NamespaceId in, std::span<const NewChunk> chunks,
                                              const GrowthAdmission& admit) override {
    const auto admit_totals = [&](const NamespaceTotals& before,
                                  const NamespaceTotals& after) -> Result<void> {
      const std::uint64_t left = TRY(check_growth(in, before, after, admit));
      if (after.recorded_bytes() <= left) return {};
      AccountedBatch room = TRY(AccountedBatch::begin(*database_, in));
      TRY(working_sets_.make_room(room, in, {.most_bytes = left}));
      if (room.after() == room.before()) return {};
      return room.write(Durability::kLogged);
    };
    return chunks_.put(in, chunks, admit_totals);
  }

  Result<Manifest> publish(NamespaceId in, Manifest manifest, const PageMap& map,
                           const ColdMap& cold, const GrowthAdmission& admit,
                           CreatedTime created) override {
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
    AccountedBatch batch = TRY(AccountedBatch::begin(*database_, in));
    batch.others().put_number(Family::kMeta, counter, manifest.snapshot.value);
    TRY(put_last_time(batch.others(), manifest.created_unix_ms));
    if (created == CreatedTime::kDoubtful) {
      batch.others().put_number(Family::kMeta, snapshot_key(kAgeStart, in, manifest.snapshot), 0);
    }
    for (std::uint32_t i = 0; i < map.segment_count(); ++i) {
      TRY(batch.put(segment_key(in, manifest.snapshot, i), as_text(map.encode_segment(i))));
    }
    if (!cold.empty()) {
      TRY(batch.put(cold_key(in, manifest.snapshot), as_text(encode_cold_map(cold))));
    }
    TRY(batch.put(manifest_key(in, manifest.snapshot), as_text(encode_manifest(manifest))));
    TRY(batch.put_number(name_key(in, name), manifest.snapshot.value));
    TRY(write_pushed(batch, in, admit));
    return manifest;
  }

  Result<Manifest> set_labels(NamespaceId in, const std::string& name, std::vector<Label> labels,
                              const GrowthAdmission& admit) override {
    const Bytes sealed = TRY(manifest(in, name));
    Manifest changed = TRY(decode_manifest(sealed));
    changed.spec.labels = std::move(labels);
    AccountedBatch batch = TRY(AccountedBatch::begin(*database_, in));
    TRY(batch.put(manifest_key(in, changed.snapshot), as_text(encode_manifest(changed))));
    TRY(write_pushed(batch, in, admit));
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

  Result<OutdatedMarks> outdated_marks(NamespaceId in) override { return times_of(kOutdated, in); }
  Result<void> mark_outdated(NamespaceId in, const OutdatedMarks& marks) override {
    return put_times(kOutdated, in, marks);
  }
  Result<void> unmark_outdated(NamespaceId in, std::span<const SnapshotId> snapshots) override {
    return remove_times(kOutdated, in, snapshots);
  }
  Result<AgeStarts> age_starts(NamespaceId in) override { return times_of(kAgeStart, in); }
  Result<void> set_age_starts(NamespaceId in, const AgeStarts& starts) override {
    return put_times(kAgeStart, in, starts);
  }
  Result<void> remove_age_starts(NamespaceId in, std::span<const SnapshotId> snapshots) override {
    return remove_times(kAgeStart, in, snapshots);
  }

  Result<std::uint64_t> last_time_unix_ms() override {
    return TRY(database_->get_number(Family::kMeta, kLastTime)).value_or(0);
  }

  Result<void> set_last_time(std::uint64_t unix_ms) override {
    Batch batch(*database_);
    TRY(put_last_time(batch, unix_ms));
    TRY(database_->check_space(batch));
    return database_->write(batch, Durability::kLogged);
  }

  Result<void> move_tag(NamespaceId in, const Tag& to, const GrowthAdmission& admit) override {
    const SnapshotId snapshot = TRY(find_snapshot(in, to.name));
    AccountedBatch batch = TRY(AccountedBatch::begin(*database_, in));
    TRY(batch.put_number(tag_key(in, to.tag), snapshot.value));
    batch.others().remove(Family::kMeta, outdated_key(in, snapshot));
    return write_pushed(batch, in, admit);
  }

  Result<void> remove_tag(NamespaceId in, const std::string& tag) override {
    if (!TRY(database_->get_number(Family::kSnapshot, tag_key(in, tag)))) {
      return fail(ErrorCode::kNotFound, "there is no tag \"{}\"", tag);
    }
    AccountedBatch batch = TRY(AccountedBatch::begin(*database_, in));
    TRY(batch.remove(tag_key(in, tag)));
    return batch.write(Durability::kSynced);
  }

  Result<void> retire(NamespaceId in, const std::string& name) override {
    const SnapshotId snapshot = TRY(find_snapshot(in, name));
    AccountedBatch batch = TRY(AccountedBatch::begin(*database_, in));
    TRY(remove_names(batch, in, snapshot));
    TRY(batch.put(retired_key(in, snapshot), {}));
    return batch.write(Durability::kSynced);
  }

  Result<void> remove(NamespaceId in, SnapshotId snapshot) override {
    TRY(manifest(in, snapshot));
    AccountedBatch batch = TRY(AccountedBatch::begin(*database_, in));
    TRY(remove_names(batch, in, snapshot));
    TRY(batch.remove(retired_key(in, snapshot)));
    TRY(batch.remove(manifest_key(in, snapshot)));
    TRY(batch.remove_prefix(snapshot_key('p', in, snapshot)));
    TRY(batch.remove(cold_key(in, snapshot)));
    TRY(working_sets_.remove(batch, in, snapshot));
    return batch.write(Durability::kSynced);
  }

  Result<void> flush() override { return database_->flush(); }
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

  using Times = std::map<SnapshotId, std::uint64_t>;
  /// The times of this kind that snapshots have.
  Result<Times> times_of(char kind, NamespaceId in) {
    Times times;
    TRY(database_->scan(Family::kMeta, prefixed(kind, in), {},
                        [&](std::string_view id, ByteSpan time) -> Result<bool> {
                          times[{TRY(parse_number(as_bytes(id)))}] = TRY(parse_number(time));
                          return true;
                        }));
    return times;
  }

  Result<void> put_times(char kind, NamespaceId in, const Times& times) {
    Batch batch(*database_);
    for (const auto& [snapshot, time] : times) {
      batch.put_number(Family::kMeta, snapshot_key(kind, in, snapshot), time);
    }
    TRY(database_->check_space(batch));
    return database_->write(batch, Durability::kSynced);
  }

  Result<void> remove_times(char kind, NamespaceId in, std::span<const SnapshotId> snapshots) {
    Batch batch(*database_);
    for (const SnapshotId snapshot : snapshots) {
      batch.remove(Family::kMeta, snapshot_key(kind, in, snapshot));
    }
    return database_->write(batch, Durability::kSynced);
  }

  Result<void> put_last_time(Batch& batch, std::uint64_t unix_ms) {
    batch.put_number(Family::kMeta, kLastTime, std::max(unix_ms, TRY(last_time_unix_ms())));
    return {};
  }

  /// Adds to `batch` what deletes name, tags and mark of a snapshot, whatever its manifest says.
  Result<void> remove_names(AccountedBatch& batch, NamespaceId in, SnapshotId snapshot) {
    batch.others().remove(Family::kMeta, outdated_key(in, snapshot));
    batch.others().remove(Family::kMeta, snapshot_key(kAgeStart, in, snapshot));
    for (const char kind : {'n', 't'}) {
      TRY(database_->scan(Family::kSnapshot, prefixed(kind, in), {},
                          [&](std::string_view name, ByteSpan value) -> Result<bool> {
                            if (SnapshotId{TRY(parse_number(value))} == snapshot) {
                              TRY(batch.remove(prefixed(kind, in) + std::string(name)));
                            }
                            return true;
                          }));
    }
    return {};
  }

  /// What pushes that have so much stored then leave of the quota; what restores have stored gives
  /// way to them. kQuotaExceeded.
  Result<std::uint64_t> left_for_restores(NamespaceId in, std::uint64_t pushed_bytes) {
    const std::uint64_t quota = TRY(settings(in)).quota_bytes;
    if (quota == 0) return UINT64_MAX;
    if (pushed_bytes <= quota) return quota - pushed_bytes;
    return fail(ErrorCode::kQuotaExceeded,
                "the namespace may have {} bytes stored, and this would make it {}", quota,
                pushed_bytes);
  }

  /// Whether pushes may have stored `after`. Returns what that leaves of the quota for restores.
  /// kQuotaExceeded, and what `admit` says. REQUIRES: they store something.
  Result<std::uint64_t> check_growth(NamespaceId in, const NamespaceTotals& before,
                                     const NamespaceTotals& after, const GrowthAdmission& admit) {
    const std::uint64_t left = TRY(left_for_restores(in, after.pushed_bytes()));
    const std::uint64_t grown = after.pushed_bytes();
    if (admit) TRY(admit({grown - std::min(grown, before.pushed_bytes())}));
    return left;
  }

  Result<void> write_pushed(AccountedBatch& batch, NamespaceId in, const GrowthAdmission& admit) {
    if (batch.after().pushed_bytes() > batch.before().pushed_bytes()) {
      const std::uint64_t left = TRY(check_growth(in, batch.before(), batch.after(), admit));
      TRY(working_sets_.make_room(batch, in, {.most_bytes = left}));
    }
    TRY(batch.check_space());
    return batch.write(Durability::kSynced);
  }

  /// One that was given out and that no namespace has.
  Result<std::uint64_t> free_number() {
    std::set<std::uint64_t> taken;
    for (const NamedNamespace& each : TRY(namespaces())) taken.insert(each.id.value);
    std::uint64_t free = 1;
    while (taken.contains(free)) ++free;
    if (free <= kMostNamespaces) return free;
    return fail(ErrorCode::kLimitExceeded, "there are {} namespaces", kMostNamespaces);
  }

  Result<void> check_empty(NamespaceId in) {
    for (const std::string_view kinds : {kPushedKinds, kRecordedKinds}) {
      for (const char kind : kinds) {
        TRY(database_->scan(Family::kSnapshot, prefixed(kind, in), {},
                            [](std::string_view, ByteSpan) -> Result<bool> {
                              return fail(ErrorCode::kBusy,
                                          "it has snapshots: delete them with `thaw rm`, and "
                                          "their chunks with `thaw gc`");
                            }));
      }
    }
    return chunks_.check_empty(in);
  }

  /// What was followed while the store was replaced may be of both: that is no failure that passes.
  Result<void> catch_up(const StoreWatch& watch) {
    TRY(watch.look());
    auto caught_up = database_->catch_up();
    TRY(watch.look());
    return caught_up;
  }

  void follow(const StoreWatch& watch, const std::function<void(const Error&)>& end,
              const std::stop_token& stop) {
    bool failed = false;
    while (true) {
      rest(stop, kCatchUpInterval);
      if (stop.stop_requested()) return;
      const auto caught_up = catch_up(watch);
      const auto code = caught_up ? ErrorCode{} : caught_up.error().code();
      if (code == ErrorCode::kWrongStore || code == ErrorCode::kBadVersion) {
        return end(caught_up.error());
      }
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
  auto store = std::make_unique<RocksStore>(TRY(RocksDatabase::open(directory, limits)));
  TRY(store->discard_packs());
  return store;
}

Result<std::unique_ptr<Store>> open_rocks_replica(const StoreWatch& watch,
                                                  const StoreLimits& limits,
                                                  std::function<void(const Error&)> end) {
  auto store =
      std::make_unique<RocksStore>(TRY(RocksDatabase::open_replica(watch.directory(), limits)));
  TRY(watch.look());
  TRY(store->follow_owner(watch, std::move(end)));
  return store;
}

Result<std::unique_ptr<Store>> open_rocks_reader(const std::string& directory,
                                                 const StoreLimits& limits) {
  return std::make_unique<RocksStore>(TRY(RocksDatabase::open_reader(directory, limits)));
}

}  // namespace thaw
