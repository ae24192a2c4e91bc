#include "pageserver/sys/rocks_account.h"

#include <algorithm>
#include <array>

#include "pageserver/sys/rocks_keys.h"

namespace thaw {

namespace {

using message::NamespaceSettings;

constexpr char kSettings = 'l';

struct Number {
  char kind;
  std::uint64_t NamespaceTotals::* field;
};
constexpr std::array kChunkNumbers{Number{'c', &NamespaceTotals::chunks},
                                   Number{'b', &NamespaceTotals::chunk_bytes}};
constexpr std::array kEntryNumbers{Number{'d', &NamespaceTotals::document_bytes},
                                   Number{'r', &NamespaceTotals::recording_bytes},
                                   Number{'p', &NamespaceTotals::pack_bytes}};

/// In the order in which they are stored, before the label's key.
constexpr std::array kSettingsFields{
    &NamespaceSettings::quota_bytes, &NamespaceSettings::quota_snapshots,
    &NamespaceSettings::keep_last, &NamespaceSettings::keep_seconds};

bool is_recorded(char kind) { return kRecordedKinds.contains(kind); }

/// REQUIRES: a key of the family of snapshots.
std::uint64_t& account_of(const std::string& key, NamespaceTotals& totals) {
  return is_recorded(key.front()) ? totals.recording_bytes : totals.document_bytes;
}

}  // namespace

Result<NamespaceTotals> read_totals(RocksDatabase& database, NamespaceId in) {
  NamespaceTotals totals;
  for (const Number& each : kEntryNumbers) {
    const auto number = TRY(database.get_number(Family::kMeta, prefixed(each.kind, in)));
    if (!number) {
      // It has nothing yet, or it is of a version that did not count, and only looked at.
      totals = TRY(count_entries(database, in));
      break;
    }
    totals.*each.field = *number;
  }
  for (const Number& each : kChunkNumbers) {
    const auto number = TRY(database.get_number(Family::kMeta, prefixed(each.kind, in)));
    totals.*each.field = number.value_or(0);
  }
  return totals;
}

Result<NamespaceTotals> count_entries(RocksDatabase& database, NamespaceId in) {
  NamespaceTotals counted;
  for (const std::string_view kinds : {kPushedKinds, kRecordedKinds}) {
    for (const char kind : kinds) {
      const std::string prefix = prefixed(kind, in);
      TRY(database.scan(Family::kSnapshot, prefix, {},
                        [&](std::string_view rest, ByteSpan value) -> Result<bool> {
                          account_of(prefix, counted) += prefix.size() + rest.size() + value.size();
                          if (kPackSums.contains(kind))
                            counted.pack_bytes += TRY(parse_number(value));
                          return true;
                        }));
    }
  }
  return counted;
}

void put_chunk_totals(RocksDatabase::Batch& batch, NamespaceId in, const NamespaceTotals& totals) {
  for (const Number& each : kChunkNumbers) {
    batch.put_number(Family::kMeta, prefixed(each.kind, in), totals.*each.field);
  }
}

void put_entry_totals(RocksDatabase::Batch& batch, NamespaceId in, const NamespaceTotals& totals) {
  for (const Number& each : kEntryNumbers) {
    batch.put_number(Family::kMeta, prefixed(each.kind, in), totals.*each.field);
  }
}

void remove_totals(RocksDatabase::Batch& batch, NamespaceId in) {
  for (const Number& each : kChunkNumbers) batch.remove(Family::kMeta, prefixed(each.kind, in));
  for (const Number& each : kEntryNumbers) batch.remove(Family::kMeta, prefixed(each.kind, in));
}

Result<NamespaceSettings> read_settings(RocksDatabase& database, NamespaceId in) {
  const auto value = TRY(if_found(database.get(Family::kMeta, settings_key(in), "settings")));
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

std::string settings_key(NamespaceId in) { return prefixed(kSettings, in); }

std::string settings_value(const NamespaceSettings& settings) {
  std::string value;
  for (const auto field : kSettingsFields) value += number_key(settings.*field);
  return value + settings.keep_per_label;
}

Result<std::vector<NamedNamespace>> read_namespaces(RocksDatabase& database) {
  std::vector<NamedNamespace> all;
  TRY(database.scan(Family::kMeta, std::string(kNamespaces), {},
                    [&](std::string_view name, ByteSpan number) -> Result<bool> {
                      const std::uint64_t id = TRY(parse_number(number));
                      all.push_back({std::string(name), {static_cast<std::uint16_t>(id)}});
                      return true;
                    }));
  return all;
}

AccountedBatch::AccountedBatch(RocksDatabase& database, NamespaceId in,
                               const NamespaceTotals& totals)
    : database_(&database),
      name_space_(in),
      before_(totals),
      after_(totals),
      batch_(std::make_unique<RocksDatabase::Batch>(database)) {}

Result<AccountedBatch> AccountedBatch::begin(RocksDatabase& database, NamespaceId in) {
  return AccountedBatch(database, in, TRY(read_totals(database, in)));
}

Result<void> AccountedBatch::put(const std::string& key, std::string_view value) {
  TRY(remove(key));
  batch_->put(Family::kSnapshot, key, value);
  account_of(key, after_) += key.size() + value.size();
  return {};
}

Result<void> AccountedBatch::put_number(const std::string& key, std::uint64_t value) {
  return put(key, number_key(value));
}

Result<void> AccountedBatch::remove(const std::string& key) {
  const auto old = database_->get_pinned(Family::kSnapshot, key, "what was stored");
  if (!old && old.error().code() == ErrorCode::kNotFound) return {};
  if (!old && old.error().code() != ErrorCode::kCorrupt) return std::unexpected(old.error());
  batch_->remove(Family::kSnapshot, key);
  if (old) subtract(key, old->value.size());
  return {};
}

Result<void> AccountedBatch::remove_prefix(const std::string& prefix, const std::string& end) {
  const auto removed = database_->scan(Family::kSnapshot, prefix, {},
                                       [&](std::string_view rest, ByteSpan value) -> Result<bool> {
                                         if (!end.empty() && rest >= end) return false;
                                         const std::string key = prefix + std::string(rest);
                                         batch_->remove(Family::kSnapshot, key);
                                         subtract(key, value.size());
                                         return true;
                                       });
  if (removed || removed.error().code() != ErrorCode::kCorrupt) return removed;
  if (end.empty()) {
    batch_->remove_prefix(Family::kSnapshot, prefix);
  } else {
    batch_->remove_range(Family::kSnapshot, prefix, prefix + end);
  }
  return {};
}

/// Sums that a damaged store got wrong do not wrap.
void AccountedBatch::subtract(const std::string& key, std::size_t value_bytes) {
  std::uint64_t& account = account_of(key, after_);
  account -= std::min<std::uint64_t>(account, key.size() + value_bytes);
}

void AccountedBatch::subtract_packs(std::uint64_t bytes) {
  after_.pack_bytes -= std::min(after_.pack_bytes, bytes);
}

Result<void> AccountedBatch::write(RocksDatabase::Durability durability) {
  put_entry_totals(*batch_, name_space_, after_);
  return database_->write(*batch_, durability);
}

}  // namespace thaw
