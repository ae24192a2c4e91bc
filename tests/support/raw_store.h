#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
}  // namespace rocksdb

namespace thaw::test {

/// The RocksDB of a page server's store behind the store's back, while nobody else has it open.
/// Whatever fails ends the test program.
class RawStore {
 public:
  explicit RawStore(const std::string& directory);
  ~RawStore();

  std::vector<std::string> keys(const std::string& family);
  std::string get(const std::string& family, const std::string& key);
  void put(const std::string& family, const std::string& key, const std::string& value);
  void remove(const std::string& family, const std::string& key);
  void drop_family(const std::string& family);
  /// Changes its last byte.
  void damage(const std::string& family, const std::string& key);
  /// Gives every second chunk the stored form of the one before it.
  void mix_up_chunks();

 private:
  std::unique_ptr<rocksdb::DB> db_;
  std::map<std::string, rocksdb::ColumnFamilyHandle*> families_;
};

/// A number as keys and values have it.
std::string big_endian(std::uint64_t value);

}  // namespace thaw::test
