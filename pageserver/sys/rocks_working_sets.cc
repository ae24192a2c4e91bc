#include "pageserver/sys/rocks_working_sets.h"

#include <array>
#include <limits>

#include "base/check.h"
#include "base/log.h"
#include "pageserver/limits.h"
#include "pageserver/quota.h"
#include "pageserver/sys/rocks_keys.h"

namespace thaw {

namespace {

using Durability = RocksDatabase::Durability;
using message::PrefetchCounters;
using message::RecordingSummary;

constexpr char kRecordings = 'r';
constexpr char kSummaries = 'j';
constexpr char kSet = 'w';
constexpr char kGenerations = 'g';
constexpr char kUnpublished = 'h';  // generations whose packs come before their set
constexpr char kCounters = 'c';
constexpr char kLastNumber = 'l';

std::string numbered_key(char kind, NamespaceId in, SnapshotId snapshot, std::uint64_t number) {
  return snapshot_key(kind, in, snapshot) + number_key(number);
}
std::string packs_prefix(NamespaceId in, SnapshotId snapshot) {
  std::string key;
  append_big_endian(key, in.value, 2);
  return key + number_key(snapshot.value);
}
std::string pack_key(NamespaceId in, const PackId& id) {
  std::string key = packs_prefix(in, id.snapshot) + number_key(id.generation);
  append_big_endian(key, id.number, 4);
  return key;
}

/// Adds to `batch` what deletes the packs of the generation that begins with `first`.
void remove_packs(AccountedBatch& batch, NamespaceId in, const PackId& first, std::uint64_t bytes) {
  batch.others().remove_range(Family::kPack, pack_key(in, first),
                              pack_key(in, {first.snapshot, first.generation + 1, 0}));
  batch.subtract_packs(bytes);
}

std::string encode_summary(const RecordingSummary& summary) {
  std::string value = number_key(summary.created_unix_ms);
  for (const std::uint32_t count : {summary.pages, summary.set_pages, summary.set_hits}) {
    append_big_endian(value, count, 4);
  }
  return value;
}
Result<RecordingSummary> decode_summary(std::uint64_t number, ByteSpan value) {
  if (value.size() != 20) {
    return fail(ErrorCode::kCorrupt, "a recording's summary of {} bytes", value.size());
  }
  const auto count = [&](std::size_t at) {
    return static_cast<std::uint32_t>(load_big_endian(value.subspan(at, 4)));
  };
  return RecordingSummary{.number = number,
                          .created_unix_ms = load_big_endian(value.first(8)),
                          .pages = count(8),
                          .set_pages = count(12),
                          .set_hits = count(16)};
}

/// In the order in which they are stored.
constexpr std::array kCounterFields{
    &PrefetchCounters::sessions,         &PrefetchCounters::set_pages,
    &PrefetchCounters::prefetched_pages, &PrefetchCounters::late_pages,
    &PrefetchCounters::faults,           &PrefetchCounters::bytes};

std::uint64_t sum(std::uint64_t a, std::uint64_t b) {
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  return b > kMost - a ? kMost : a + b;
}

}  // namespace

Result<WorkingSetState> RocksWorkingSets::state(NamespaceId in, SnapshotId snapshot) {
  WorkingSetState state;
  const std::string last = snapshot_key(kLastNumber, in, snapshot);
  state.last_recording = TRY(database_.get_number(Family::kSnapshot, last)).value_or(0);
  const auto visit = [&](std::string_view key, ByteSpan value) -> Result<bool> {
    const std::uint64_t number = TRY(parse_number(as_bytes(key)));
    state.recordings.push_back(TRY(decode_summary(number, value)));
    return true;
  };
  TRY(database_.scan(Family::kSnapshot, snapshot_key(kSummaries, in, snapshot), {}, visit));
  const Generations all = TRY(generations(kGenerations, in, snapshot));
  if (!all.empty()) state.generation = all.rbegin()->first;
  return state;
}

Result<Bytes> RocksWorkingSets::recording(NamespaceId in, SnapshotId snapshot,
                                          std::uint64_t number) {
  return database_.get(Family::kSnapshot, numbered_key(kRecordings, in, snapshot, number),
                       "recording");
}

Result<Bytes> RocksWorkingSets::working_set(NamespaceId in, SnapshotId snapshot) {
  return database_.get(Family::kSnapshot, snapshot_key(kSet, in, snapshot), "working set");
}

Result<PackRead> RocksWorkingSets::pack(NamespaceId in, const PackId& id) {
  PinnedValue found = TRY(database_.get_pinned(Family::kPack, pack_key(in, id), "pack"));
  return PackRead{.pack = found.value, .pin = std::move(found.pin)};
}

Result<PrefetchCounters> RocksWorkingSets::counters(NamespaceId in, SnapshotId snapshot) {
  const auto value = TRY(if_found(
      database_.get(Family::kSnapshot, snapshot_key(kCounters, in, snapshot), "counters")));
  if (!value) return PrefetchCounters{};
  if (value->size() != kCounterFields.size() * 8) {
    return fail(ErrorCode::kCorrupt, "counters of {} bytes", value->size());
  }
  PrefetchCounters counters;
  for (std::size_t i = 0; i < kCounterFields.size(); ++i) {
    counters.*kCounterFields[i] = load_big_endian(ByteSpan(*value).subspan(i * 8, 8));
  }
  return counters;
}

Result<void> RocksWorkingSets::put_packs(NamespaceId in, const PackId& first,
                                         std::span<const Bytes> packs) {
  const SnapshotId snapshot = first.snapshot;
  AccountedBatch batch = TRY(AccountedBatch::begin(database_, in));
  std::uint64_t sum = TRY(generations(kUnpublished, in, snapshot))[first.generation];
  if (first.number == 0) {
    remove_packs(batch, in, first, sum);
    sum = 0;
  }
  std::uint64_t added = 0;
  PackId id = first;
  for (const Bytes& pack : packs) {
    batch.others().put(Family::kPack, pack_key(in, id), as_text(pack));
    added += pack.size();
    ++id.number;
  }
  batch.add_packs(added);
  TRY(batch.put_number(numbered_key(kUnpublished, in, snapshot, first.generation), sum + added));
  TRY(admit(batch, in, snapshot));
  TRY(batch.check_space(limits::kRecordedReserves));
  return batch.write(Durability::kLogged);
}

Result<void> RocksWorkingSets::discard_packs(NamespaceId in, SnapshotId snapshot) {
  const Generations unpublished = TRY(generations(kUnpublished, in, snapshot));
  if (unpublished.empty()) return {};
  AccountedBatch batch = TRY(AccountedBatch::begin(database_, in));
  for (const auto& [generation, bytes] : unpublished) {
    remove_packs(batch, in, {snapshot, generation, 0}, bytes);
  }
  TRY(batch.remove_prefix(snapshot_key(kUnpublished, in, snapshot)));
  return batch.write(Durability::kLogged);
}

Result<void> RocksWorkingSets::discard_all_packs(NamespaceId in) {
  for (const SnapshotId each : TRY(holders({kUnpublished}, in))) TRY(discard_packs(in, each));
  return {};
}

Result<void> RocksWorkingSets::publish(NamespaceId in, const WorkingSet& set,
                                       const std::optional<NewRecording>& recording) {
  const SnapshotId snapshot = set.snapshot;
  const Generations old = TRY(generations(kGenerations, in, snapshot));
  CHECK(old.empty() || old.rbegin()->first < set.generation);
  Generations unpublished = TRY(generations(kUnpublished, in, snapshot));
  if (unpublished[set.generation] != set.pack_bytes()) {
    return fail(ErrorCode::kBusy, "packs of the working set were deleted while it was made");
  }
  AccountedBatch batch = TRY(AccountedBatch::begin(database_, in));
  // What is neither of this set nor of the one before it: also packs whose set never came.
  const auto pack = [&](std::uint64_t generation, std::size_t number) {
    return pack_key(in, {snapshot, generation, static_cast<std::uint32_t>(number)});
  };
  const std::uint64_t before = old.empty() ? set.generation : old.rbegin()->first;
  RocksDatabase::Batch& packs = batch.others();
  packs.remove_range(Family::kPack, pack(0, 0), pack(before, 0));
  packs.remove_range(Family::kPack, pack(before + 1, 0), pack(set.generation, 0));
  packs.remove_range(Family::kPack, pack(set.generation, set.packs.size()),
                     packs_prefix(in, {snapshot.value + 1}));
  for (const auto& [generation, bytes] : old) {
    if (generation == before) continue;
    TRY(batch.remove(numbered_key(kGenerations, in, snapshot, generation)));
    batch.subtract_packs(bytes);
  }
  for (const auto& [generation, bytes] : unpublished) {
    if (generation != set.generation) batch.subtract_packs(bytes);
  }
  TRY(batch.remove_prefix(snapshot_key(kUnpublished, in, snapshot)));
  TRY(batch.put_number(numbered_key(kGenerations, in, snapshot, set.generation), set.pack_bytes()));
  TRY(batch.put(snapshot_key(kSet, in, snapshot), as_text(encode_working_set(set))));
  if (recording) {
    const std::uint64_t number = recording->summary.number;
    TRY(batch.put_number(snapshot_key(kLastNumber, in, snapshot), number));
    for (const char kind : {kRecordings, kSummaries}) {
      TRY(batch.remove_prefix(snapshot_key(kind, in, snapshot),
                              number_key(recording->oldest_kept)));
    }
    TRY(batch.put(numbered_key(kRecordings, in, snapshot, number), as_text(recording->sealed)));
    TRY(batch.put(numbered_key(kSummaries, in, snapshot, number),
                  encode_summary(recording->summary)));
  }
  TRY(admit(batch, in, snapshot));
  TRY(batch.check_space(limits::kRecordedReserves));
  return batch.write(Durability::kSynced);
}

Result<void> RocksWorkingSets::admit(AccountedBatch& batch, NamespaceId in, SnapshotId snapshot) {
  if (batch.after().recorded_bytes() <= batch.before().recorded_bytes()) return {};
  const std::uint64_t quota = TRY(read_settings(database_, in)).quota_bytes;
  const std::uint64_t share = working_set_share(quota, batch.after().pushed_bytes());
  TRY(make_room(batch, in, {.most_bytes = share, .below = snapshot}));
  if (batch.after().recorded_bytes() <= share) return {};
  return fail(ErrorCode::kQuotaExceeded,
              "recordings and working sets of the namespace may have {} bytes stored, and this "
              "would make it {}",
              share, batch.after().recorded_bytes());
}

Result<std::set<SnapshotId>> RocksWorkingSets::holders(std::initializer_list<char> kinds,
                                                       NamespaceId in, SnapshotId below) {
  std::set<SnapshotId> all;
  for (const char kind : kinds) {
    TRY(database_.scan(Family::kSnapshot, prefixed(kind, in), {},
                       [&](std::string_view key, ByteSpan) -> Result<bool> {
                         const SnapshotId of{TRY(parse_number(as_bytes(key.substr(0, 8))))};
                         if (of >= below) return false;
                         all.insert(of);
                         return true;
                       }));
  }
  return all;
}

Result<void> RocksWorkingSets::make_room(AccountedBatch& batch, NamespaceId in, const Room& room) {
  if (batch.after().recorded_bytes() <= room.most_bytes) return {};
  std::size_t deleted = 0;
  for (const SnapshotId each :
       TRY(holders({kSummaries, kGenerations, kUnpublished}, in, room.below))) {
    if (batch.after().recorded_bytes() <= room.most_bytes) break;
    TRY(remove_all_but_the_last_number(batch, in, each));
    ++deleted;
  }
  if (deleted != 0) {
    log_info("namespace {}: the quota is full, so {} snapshots lost their working sets", in.value,
             deleted);
  }
  return {};
}

Result<void> RocksWorkingSets::withdraw(NamespaceId in, SnapshotId snapshot) {
  AccountedBatch batch = TRY(AccountedBatch::begin(database_, in));
  TRY(remove_set(batch, in, snapshot));
  return batch.write(Durability::kSynced);
}

Result<void> RocksWorkingSets::drop_recording(NamespaceId in, SnapshotId snapshot,
                                              std::uint64_t number) {
  AccountedBatch batch = TRY(AccountedBatch::begin(database_, in));
  for (const char kind : {kRecordings, kSummaries}) {
    TRY(batch.remove(numbered_key(kind, in, snapshot, number)));
  }
  return batch.write(Durability::kSynced);
}

Result<void> RocksWorkingSets::drop(NamespaceId in, SnapshotId snapshot) {
  AccountedBatch batch = TRY(AccountedBatch::begin(database_, in));
  TRY(remove_all_but_the_last_number(batch, in, snapshot));
  return batch.write(Durability::kSynced);
}

Result<void> RocksWorkingSets::add(NamespaceId in, SnapshotId snapshot,
                                   const PrefetchCounters& report) {
  const PrefetchCounters before = TRY(counters(in, snapshot));
  std::string value;
  for (const auto field : kCounterFields) {
    value += number_key(sum(before.*field, report.*field));
  }
  AccountedBatch batch = TRY(AccountedBatch::begin(database_, in));
  TRY(batch.put(snapshot_key(kCounters, in, snapshot), value));
  TRY(batch.check_space(limits::kRecordedReserves));
  return batch.write(Durability::kLogged);
}

Result<void> RocksWorkingSets::remove(AccountedBatch& batch, NamespaceId in, SnapshotId snapshot) {
  TRY(remove_all_but_the_last_number(batch, in, snapshot));
  return batch.remove(snapshot_key(kLastNumber, in, snapshot));
}

Result<RocksWorkingSets::Generations> RocksWorkingSets::generations(char kind, NamespaceId in,
                                                                    SnapshotId snapshot) {
  Generations found;
  const auto visit = [&](std::string_view key, ByteSpan bytes) -> Result<bool> {
    const std::uint64_t generation = TRY(parse_number(as_bytes(key)));
    found.emplace(generation, TRY(parse_number(bytes)));
    return true;
  };
  TRY(database_.scan(Family::kSnapshot, snapshot_key(kind, in, snapshot), {}, visit));
  return found;
}

Result<void> RocksWorkingSets::remove_set(AccountedBatch& batch, NamespaceId in,
                                          SnapshotId snapshot) {
  for (const char kind : kPackSums) {
    for (const auto& [generation, bytes] : TRY(generations(kind, in, snapshot))) {
      batch.subtract_packs(bytes);
    }
    TRY(batch.remove_prefix(snapshot_key(kind, in, snapshot)));
  }
  TRY(batch.remove(snapshot_key(kSet, in, snapshot)));
  batch.others().remove_prefix(Family::kPack, packs_prefix(in, snapshot));
  return {};
}

Result<void> RocksWorkingSets::remove_all_but_the_last_number(AccountedBatch& batch, NamespaceId in,
                                                              SnapshotId snapshot) {
  TRY(remove_set(batch, in, snapshot));
  for (const char kind : {kRecordings, kSummaries, kCounters}) {
    TRY(batch.remove_prefix(snapshot_key(kind, in, snapshot)));
  }
  return {};
}

}  // namespace thaw
