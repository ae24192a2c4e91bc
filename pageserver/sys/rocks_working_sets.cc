#include "pageserver/sys/rocks_working_sets.h"

#include <array>
#include <limits>

#include "base/check.h"
#include "pageserver/sys/rocks_keys.h"

namespace thaw {

namespace {

using Batch = RocksDatabase::Batch;
using Durability = RocksDatabase::Durability;
using message::PrefetchCounters;
using message::RecordingSummary;

constexpr char kRecordings = 'r';
constexpr char kSummaries = 'j';
constexpr char kSet = 'w';
constexpr char kGenerations = 'g';
constexpr char kCounters = 'c';
constexpr char kLastNumber = 'l';
constexpr char kPackBytes = 'p';  // in the family of totals

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
  const Generations all = TRY(generations(in, snapshot));
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

Result<void> RocksWorkingSets::put_pack(NamespaceId in, const PackId& id, ByteSpan pack) {
  Batch batch(database_);
  batch.put(Family::kPack, pack_key(in, id), as_text(pack));
  TRY(database_.check_space(batch));
  return database_.write(batch, Durability::kLogged);
}

Result<void> RocksWorkingSets::publish(NamespaceId in, const WorkingSet& set,
                                       const std::optional<NewRecording>& recording) {
  const SnapshotId snapshot = set.snapshot;
  const Generations old = TRY(generations(in, snapshot));
  CHECK(old.empty() || old.rbegin()->first < set.generation);
  Batch batch(database_);
  // What is neither of this set nor of the one before it: also packs whose set never came.
  const auto pack = [&](std::uint64_t generation, std::size_t number) {
    return pack_key(in, {snapshot, generation, static_cast<std::uint32_t>(number)});
  };
  const std::uint64_t before = old.empty() ? set.generation : old.rbegin()->first;
  batch.remove_range(Family::kPack, pack(0, 0), pack(before, 0));
  batch.remove_range(Family::kPack, pack(before + 1, 0), pack(set.generation, 0));
  batch.remove_range(Family::kPack, pack(set.generation, set.packs.size()),
                     packs_prefix(in, {snapshot.value + 1}));
  std::uint64_t total = TRY(pack_bytes(in)) + set.pack_bytes();
  for (const auto& [generation, bytes] : old) {
    if (generation == before) continue;
    batch.remove(Family::kSnapshot, numbered_key(kGenerations, in, snapshot, generation));
    total -= bytes;
  }
  batch.put_number(Family::kSnapshot, numbered_key(kGenerations, in, snapshot, set.generation),
                   set.pack_bytes());
  batch.put_number(Family::kMeta, prefixed(kPackBytes, in), total);
  batch.put(Family::kSnapshot, snapshot_key(kSet, in, snapshot), as_text(encode_working_set(set)));
  if (recording) {
    const std::uint64_t number = recording->summary.number;
    batch.put_number(Family::kSnapshot, snapshot_key(kLastNumber, in, snapshot), number);
    for (const char kind : {kRecordings, kSummaries}) {
      batch.remove_range(Family::kSnapshot, snapshot_key(kind, in, snapshot),
                         numbered_key(kind, in, snapshot, recording->oldest_kept));
    }
    batch.put(Family::kSnapshot, numbered_key(kRecordings, in, snapshot, number),
              as_text(recording->sealed));
    batch.put(Family::kSnapshot, numbered_key(kSummaries, in, snapshot, number),
              encode_summary(recording->summary));
  }
  TRY(database_.check_space(batch));
  return database_.write(batch, Durability::kSynced);
}

Result<void> RocksWorkingSets::withdraw(NamespaceId in, SnapshotId snapshot) {
  Batch batch(database_);
  TRY(remove_set(batch, in, snapshot));
  return database_.write(batch, Durability::kSynced);
}

Result<void> RocksWorkingSets::drop_recording(NamespaceId in, SnapshotId snapshot,
                                              std::uint64_t number) {
  Batch batch(database_);
  for (const char kind : {kRecordings, kSummaries}) {
    batch.remove(Family::kSnapshot, numbered_key(kind, in, snapshot, number));
  }
  return database_.write(batch, Durability::kSynced);
}

Result<void> RocksWorkingSets::drop(NamespaceId in, SnapshotId snapshot) {
  Batch batch(database_);
  TRY(remove_all_but_the_last_number(batch, in, snapshot));
  return database_.write(batch, Durability::kSynced);
}

Result<void> RocksWorkingSets::add(NamespaceId in, SnapshotId snapshot,
                                   const PrefetchCounters& report) {
  const PrefetchCounters before = TRY(counters(in, snapshot));
  std::string value;
  for (const auto field : kCounterFields) {
    value += number_key(sum(before.*field, report.*field));
  }
  Batch batch(database_);
  batch.put(Family::kSnapshot, snapshot_key(kCounters, in, snapshot), value);
  TRY(database_.check_space(batch));
  return database_.write(batch, Durability::kLogged);
}

Result<std::uint64_t> RocksWorkingSets::pack_bytes(NamespaceId in) {
  return TRY(database_.get_number(Family::kMeta, prefixed(kPackBytes, in))).value_or(0);
}

Result<void> RocksWorkingSets::remove(Batch& batch, NamespaceId in, SnapshotId snapshot) {
  TRY(remove_all_but_the_last_number(batch, in, snapshot));
  batch.remove(Family::kSnapshot, snapshot_key(kLastNumber, in, snapshot));
  return {};
}

Result<RocksWorkingSets::Generations> RocksWorkingSets::generations(NamespaceId in,
                                                                    SnapshotId snapshot) {
  Generations found;
  const auto visit = [&](std::string_view key, ByteSpan bytes) -> Result<bool> {
    const std::uint64_t generation = TRY(parse_number(as_bytes(key)));
    found.emplace(generation, TRY(parse_number(bytes)));
    return true;
  };
  TRY(database_.scan(Family::kSnapshot, snapshot_key(kGenerations, in, snapshot), {}, visit));
  return found;
}

Result<void> RocksWorkingSets::remove_set(Batch& batch, NamespaceId in, SnapshotId snapshot) {
  std::uint64_t total = TRY(pack_bytes(in));
  const Generations all = TRY(generations(in, snapshot));
  for (const auto& [generation, bytes] : all) total -= bytes;
  batch.put_number(Family::kMeta, prefixed(kPackBytes, in), total);
  for (const char kind : {kSet, kGenerations}) {
    batch.remove_prefix(Family::kSnapshot, snapshot_key(kind, in, snapshot));
  }
  batch.remove_prefix(Family::kPack, packs_prefix(in, snapshot));
  return {};
}

Result<void> RocksWorkingSets::remove_all_but_the_last_number(Batch& batch, NamespaceId in,
                                                              SnapshotId snapshot) {
  TRY(remove_set(batch, in, snapshot));
  for (const char kind : {kRecordings, kSummaries, kCounters}) {
    batch.remove_prefix(Family::kSnapshot, snapshot_key(kind, in, snapshot));
  }
  return {};
}

}  // namespace thaw
