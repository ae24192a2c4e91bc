#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "pageserver/store.h"
#include "pageserver/sys/rocks_database.h"

namespace thaw {

// What a namespace has stored, as numbers in the family of totals. Whatever changes what is stored
// changes its number in the same step, so the numbers are exact after a crash too.

/// The numbers as they are.
Result<NamespaceTotals> read_totals(RocksDatabase& database, NamespaceId in);
/// Counts everything but chunks. Reads all page maps.
Result<NamespaceTotals> count_entries(RocksDatabase& database, NamespaceId in);
/// Adds to `batch` that chunks come to so much.
void put_chunk_totals(RocksDatabase::Batch& batch, NamespaceId in, const NamespaceTotals& totals);
/// Adds to `batch` that all else comes to so much.
void put_entry_totals(RocksDatabase::Batch& batch, NamespaceId in, const NamespaceTotals& totals);
/// Adds to `batch` that the namespace has nothing.
void remove_totals(RocksDatabase::Batch& batch, NamespaceId in);

Result<message::NamespaceSettings> read_settings(RocksDatabase& database, NamespaceId in);
std::string settings_key(NamespaceId in);
std::string settings_value(const message::NamespaceSettings& settings);

/// Every namespace that has a name.
Result<std::vector<NamedNamespace>> read_namespaces(RocksDatabase& database);

/// Changes in the family of snapshots, with what they mean for the namespace's totals: an entry
/// counts with its key and its value. What is damaged can be removed, and a check of the store
/// counts again. The writing thread's.
///
/// REQUIRES: no key is changed twice.
class AccountedBatch {
 public:
  static Result<AccountedBatch> begin(RocksDatabase& database, NamespaceId in);

  Result<void> put(const std::string& key, std::string_view value);
  Result<void> put_number(const std::string& key, std::uint64_t value);
  Result<void> remove(const std::string& key);
  /// Removes the keys with this prefix whose rest is below `end`; all when it is empty.
  Result<void> remove_prefix(const std::string& prefix, const std::string& end = {});
  void add_packs(std::uint64_t bytes) { after_.pack_bytes += bytes; }
  void subtract_packs(std::uint64_t bytes);
  /// For the other families.
  RocksDatabase::Batch& others() { return *batch_; }

  const NamespaceTotals& before() const { return before_; }
  /// With what has been changed so far.
  const NamespaceTotals& after() const { return after_; }

  /// kNoSpace.
  Result<void> check_space(unsigned reserves = 1) {
    return database_->check_space(*batch_, reserves);
  }
  Result<void> write(RocksDatabase::Durability durability);

 private:
  AccountedBatch(RocksDatabase& database, NamespaceId in, const NamespaceTotals& totals);
  void subtract(const std::string& key, std::size_t value_bytes);

  RocksDatabase* database_;
  NamespaceId name_space_;
  NamespaceTotals before_;
  NamespaceTotals after_;
  std::unique_ptr<RocksDatabase::Batch> batch_;
};

}  // namespace thaw
