#include "tests/support/raw_store.h"

#include <rocksdb/db.h>

#include "base/check.h"

namespace thaw::test {

RawStore::RawStore(const std::string& directory) {
  std::vector<std::string> names;
  CHECK(rocksdb::DB::ListColumnFamilies({}, directory, &names).ok());
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.reserve(names.size());
  for (const std::string& name : names) {
    descriptors.emplace_back(name, rocksdb::ColumnFamilyOptions());
  }
  rocksdb::DB* db = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  CHECK(rocksdb::DB::Open({}, directory, descriptors, &handles, &db).ok());
  db_.reset(db);
  for (std::size_t i = 0; i < names.size(); ++i) families_[names[i]] = handles[i];
}

RawStore::~RawStore() {
  for (const auto& [name, handle] : families_) {
    CHECK(db_->DestroyColumnFamilyHandle(handle).ok());
  }
  CHECK(db_->Close().ok());
}

std::vector<std::string> RawStore::keys(const std::string& family) {
  std::vector<std::string> found;
  const std::unique_ptr<rocksdb::Iterator> entry(db_->NewIterator({}, families_.at(family)));
  for (entry->SeekToFirst(); entry->Valid(); entry->Next()) {
    found.push_back(entry->key().ToString());
  }
  CHECK(entry->status().ok());
  return found;
}
std::string RawStore::get(const std::string& family, const std::string& key) {
  std::string value;
  CHECK(db_->Get({}, families_.at(family), key, &value).ok());
  return value;
}
void RawStore::put(const std::string& family, const std::string& key, const std::string& value) {
  CHECK(db_->Put({}, families_.at(family), key, value).ok());
}
void RawStore::remove(const std::string& family, const std::string& key) {
  CHECK(db_->Delete({}, families_.at(family), key).ok());
}
void RawStore::drop_family(const std::string& family) {
  CHECK(db_->DropColumnFamily(families_.at(family)).ok());
}

/// A bit of the payload may be one that zstd ignores.
constexpr std::size_t kChunkChecksum = 8;

void RawStore::damage(const std::string& family, const std::string& key) {
  std::string value = get(family, key);
  char& changed = family == "chunk" ? value.at(kChunkChecksum) : value.back();
  changed = static_cast<char>(changed ^ 1);
  put(family, key, value);
}

void RawStore::mix_up_chunks() {
  const std::vector<std::string> chunks = keys("chunk");
  for (std::size_t i = 1; i < chunks.size(); i += 2)
    put("chunk", chunks[i], get("chunk", chunks[i - 1]));
}

std::string big_endian(std::uint64_t value) {
  std::string text;
  for (int shift = 56; shift >= 0; shift -= 8) text.push_back(static_cast<char>(value >> shift));
  return text;
}

}  // namespace thaw::test
