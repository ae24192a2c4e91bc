// Stores whose files are damaged, forbidden, in use, or that have no descriptor left: each is told
// by its name, and what can be read is kept.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "pageserver/store_check.h"
#include "pageserver/store_id.h"
#include "pageserver/sys/recovered_logs.h"
#include "pageserver/sys/rocks_files.h"
#include "pageserver/sys/rocks_repair.h"
#include "tests/support/store_fixture.h"

namespace thaw::test {
namespace {

namespace fs = std::filesystem;

class StoreDamageTest : public StoreTest {
 protected:
  StoreDamageTest() {
    image_ = image_of(std::string("abcdefghijklmnopqrstuvwxyz"));
    manifest_ = *store("a", image_, name_space_);
    // Opening writes tables of what is in the log.
    reopen();
    other_ = *store("b", image_of("012345"), name_space_);
    reopen();
    EXPECT_TRUE(succeeded(open_store_id(path())));
    store_.reset();
  }

  std::string path() const { return directory_.path("store"); }
  std::vector<std::string> files(std::string_view prefix, std::string_view suffix) const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(path())) {
      const std::string name = entry.path().filename();
      if (name.starts_with(prefix) && name.ends_with(suffix)) found.push_back(entry.path());
    }
    return found;
  }
  static void flip(const std::string& file, std::size_t from_its_end) {
    const auto place = static_cast<std::streamoff>(fs::file_size(file) - from_its_end);
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(place);
    const int byte = stream.get();
    stream.seekp(place);
    stream.put(static_cast<char>(byte ^ 0x5a));
    ASSERT_TRUE(stream.good());
  }
  Result<std::unique_ptr<Store>> open() const { return open_rocks_store(path(), {}); }
  /// Of one that fails to open.
  Error failure() const {
    auto opened = open();
    EXPECT_FALSE(opened.has_value());
    return opened ? Error(ErrorCode::kStopped, "opened") : opened.error();
  }
  /// Repairs it, and opens it with all that goes with it.
  std::vector<std::string> repair() {
    auto lines = repair_files(path());
    EXPECT_TRUE(succeeded(lines));
    reopen();
    EXPECT_TRUE(succeeded(check_store(*store_, true)));
    return lines ? *lines : std::vector<std::string>{};
  }
  void expect_new_ids() {
    EXPECT_FALSE(fs::exists(path() + "/" + kStoreIdFile)) << "what was lost may have had its ids";
    const Manifest next = *store("next", image_of("XYZ"), name_space_);
    EXPECT_GT(next.snapshot.value, other_.snapshot.value + 1000);
    const ChunkId first = map_of(next, name_space_).chunk_of({0});
    const ChunkId last = map_of(other_, name_space_).chunk_of({0});
    EXPECT_GT(first.sequence(), last.sequence() + 1'000'000);
  }

  Bytes image_;
  Manifest manifest_;
  Manifest other_;
};

TEST_F(StoreDamageTest, FourFailuresHaveFourNames) {
  {
    const auto holder = open();
    ASSERT_TRUE(succeeded(holder));
    EXPECT_EQ(code_of(open()), ErrorCode::kBusy);
    EXPECT_EQ(code_of(open_rocks_reader(path(), {})), ErrorCode::kBusy);
    EXPECT_EQ(code_of(repair_files(path())), ErrorCode::kBusy);
  }
  if (::geteuid() == 0) {
    fs::permissions(path(), fs::perms::none);
    ASSERT_EQ(::seteuid(65'534), 0);
    const auto forbidden = code_of(open());
    const auto repaired = code_of(repair_files(path()));
    ASSERT_EQ(::seteuid(0), 0);
    fs::permissions(path(), fs::perms::owner_all);
    EXPECT_EQ(forbidden, ErrorCode::kPermission);
    EXPECT_EQ(repaired, ErrorCode::kPermission);
  }
  flip(files("", ".sst").front(), 1);
  EXPECT_EQ(failure().code(), ErrorCode::kCorrupt);
}

TEST_F(StoreDamageTest, ForbiddenTableIsNotADamagedOne) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs another user";
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(path()).parent_path())) {
    ASSERT_EQ(::chown(entry.path().c_str(), 65'534, 65'534), 0);
  }
  ASSERT_EQ(::chown(fs::path(path()).parent_path().c_str(), 65'534, 65'534), 0);
  ASSERT_EQ(::chown(files("", ".sst").front().c_str(), 0, 0), 0);
  fs::permissions(files("", ".sst").front(), fs::perms::owner_read);
  ASSERT_EQ(::seteuid(65'534), 0);
  const auto code = code_of(open());
  ASSERT_EQ(::seteuid(0), 0);
  EXPECT_EQ(code, ErrorCode::kPermission);
}

TEST_F(StoreDamageTest, ReadOnlyFileSystemIsNamed) {
  std::optional<ErrorCode> owner;
  std::optional<ErrorCode> reader;
  bool mounted = false;
  // A mount namespace is a thread's own.
  std::jthread([&] {
    mounted =
        ::unshare(CLONE_NEWNS) == 0 &&
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
        ::mount(path().c_str(), path().c_str(), nullptr, MS_BIND, nullptr) == 0 &&
        ::mount("none", path().c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) == 0;
    if (!mounted) return;
    owner = code_of(open());
    reader = code_of(open_rocks_reader(path(), {}));
  }).join();
  if (!mounted) GTEST_SKIP() << "needs to mount";
  EXPECT_EQ(owner, ErrorCode::kReadOnly);
  EXPECT_FALSE(reader) << error_name(*reader);
}

/// Whatever RocksDB says of a damaged block has the word "lock" in it.
TEST_F(StoreDamageTest, DamagedTableIsNamedWhereverItIsHit) {
  fs::create_directories(directory_.path("lock/Corruption"));
  const fs::path kept = directory_.path("lock/Corruption/kept");
  fs::rename(path(), kept);
  for (const auto& entry : fs::directory_iterator(kept)) {
    if (entry.path().extension() != ".sst") continue;
    for (const std::size_t from_its_end : {1u, 30u, 200u, 700u}) {
      fs::remove_all(path());
      fs::copy(kept, path());
      const std::string table = path() + "/" + entry.path().filename().string();
      flip(table, from_its_end);
      const auto opened = open();
      if (!opened) {
        EXPECT_EQ(opened.error().code(), ErrorCode::kCorrupt) << opened.error().message();
        EXPECT_NE(opened.error().context().find(entry.path().filename()), std::string::npos)
            << opened.error().context();
        continue;
      }
      const std::vector<std::string> damaged = (*opened)->damaged_files();
      // Some bytes are padding.
      if (damaged.empty()) continue;
      ASSERT_EQ(damaged.size(), 1u) << from_its_end;
      EXPECT_NE(damaged[0].find(entry.path().filename()), std::string::npos) << damaged[0];
    }
  }
}

TEST_F(StoreDamageTest, IntactBlocksOfADamagedTableAreKept) {
  std::string largest;
  for (const std::string& table : files("", ".sst")) {
    if (largest.empty() || fs::file_size(table) > fs::file_size(largest)) largest = table;
  }
  flip(largest, fs::file_size(largest) / 2);

  const auto lines = repair();
  ASSERT_GE(lines.size(), 2u);
  EXPECT_NE(lines[0].find(fs::path(largest).filename()), std::string::npos) << lines[0];
  EXPECT_TRUE(fs::exists(path() + "/lost/" + fs::path(largest).filename().string()));
  EXPECT_EQ(load(other_, name_space_), image_of("012345"));
  std::size_t intact = 0;
  const PageMap map = map_of(manifest_, name_space_);
  for (std::uint64_t i = 0; i < map.size().value; ++i) {
    const ChunkId id = map.chunk_of({i});
    if (store_->read_chunks(std::span(&id, 1), 0)) ++intact;
  }
  EXPECT_GE(intact, map.size().value - 2) << "a block has a page or two";
  EXPECT_LT(intact, map.size().value);
  expect_new_ids();
  const Manifest healed = *store("healed", image_, name_space_);
  EXPECT_EQ(load(healed, name_space_), image_);
  EXPECT_TRUE(repair_files(directory_.path("nothing")).error().code() == ErrorCode::kNotFound);
}

class StoreWithoutManifestTest : public StoreDamageTest,
                                 public testing::WithParamInterface<const char*> {};

TEST_P(StoreWithoutManifestTest, IsFoundAgainWhole) {
  const std::string what = GetParam();
  const std::string manifest = files("MANIFEST-", "").front();
  if (what == "overwritten manifest") {
    std::fstream(manifest, std::ios::in | std::ios::out).seekp(20) << "xxxxxxxx";
  } else if (what == "missing manifest") {
    fs::remove(manifest);
  } else if (what == "empty manifest") {
    fs::resize_file(manifest, 0);
  } else if (what == "missing CURRENT") {
    fs::remove(path() + "/CURRENT");
  } else if (what == "empty CURRENT") {
    fs::resize_file(path() + "/CURRENT", 0);
  } else {
    std::ofstream(path() + "/CURRENT") << "nonsense\n";
  }
  const Error refused = failure();
  EXPECT_EQ(refused.code(), ErrorCode::kCorrupt) << refused.message();
  EXPECT_NE(refused.context().find(what.ends_with("CURRENT") ? "CURRENT" : "MANIFEST"),
            std::string::npos)
      << refused.context();

  EXPECT_FALSE(repair().empty());
  EXPECT_EQ(load(manifest_, name_space_), image_);
  EXPECT_EQ(load(other_, name_space_), image_of("012345"));
  EXPECT_EQ(decode_manifest(*store_->manifest(name_space_, "b"))->snapshot, other_.snapshot);
  const auto checked = check_store(*store_, false);
  ASSERT_TRUE(succeeded(checked));
  EXPECT_TRUE(checked->problems.empty()) << checked->problems.front();
  expect_new_ids();
}

INSTANTIATE_TEST_SUITE_P(Damages, StoreWithoutManifestTest,
                         testing::Values("overwritten manifest", "missing manifest",
                                         "empty manifest", "missing CURRENT", "empty CURRENT",
                                         "nonsense in CURRENT"));

/// Snapshots in the log alone; what is damaged there was acknowledged.
class DamagedLogTest : public StoreDamageTest {
 protected:
  DamagedLogTest() {
    reopen();
    for (const char* const name : {"c", "d", "e"}) {
      EXPECT_TRUE(succeeded(store(name, image_of(name), name_space_)));
    }
    store_.reset();
    std::uintmax_t most = 0;
    for (const std::string& file : files("", ".log")) {
      if (fs::file_size(file) > most) log_ = file;
      most = std::max(most, fs::file_size(file));
    }
  }

  /// A header, a batch's sequence number and count, and a blob with its type and size.
  static constexpr std::uintmax_t kMarkRecordBytes = 7 + 12 + 2 + kSyncedMark.size();

  std::string log_;
};

TEST_F(DamagedLogTest, DamageBeforeWhatWasSyncedIsNamed) {
  flip(log_, fs::file_size(log_) / 2);
  for (const Error& error : {failure(), open_rocks_reader(path(), {}).error()}) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
    EXPECT_NE(error.context().find(fs::path(log_).filename()), std::string::npos)
        << error.context();
  }
  EXPECT_TRUE(fs::exists(log_)) << "nothing is given up without a word";
  EXPECT_FALSE(repair().empty());
  EXPECT_EQ(load(manifest_, name_space_), image_);
  expect_new_ids();
}

TEST_F(DamagedLogTest, DamageInTheLastThatWasSyncedIsNamed) {
  flip(log_, fs::file_size(log_) - kMarkRecordBytes - 3);
  EXPECT_EQ(failure().code(), ErrorCode::kCorrupt);
}

TEST_F(DamagedLogTest, TornEndIsTheEndAndItsIdsAreNotGivenOutAgain) {
  const std::uintmax_t size = fs::file_size(log_);
  fs::resize_file(log_, size - kMarkRecordBytes - 3);
  reopen();
  EXPECT_EQ(code_of(store_->manifest(name_space_, "e")), ErrorCode::kNotFound);
  EXPECT_TRUE(store_->manifest(name_space_, "d").has_value());
  const Manifest next = *store("next", image_of("+"), name_space_);
  EXPECT_GT(next.snapshot.value, other_.snapshot.value + 3);
  EXPECT_EQ(load(manifest_, name_space_), image_);
}

bool is_torn(const std::string& log) {
  RecoveredLogs logs;
  EXPECT_TRUE(succeeded(logs.examine(log)));
  return logs.torn();
}

/// RocksDB would make the families anew that it does not name, and delete what was in them.
TEST_F(StoreDamageTest, ManifestThatLostItsEndIsNoEmptyStore) {
  const std::string manifest = files("MANIFEST-", "").front();
  const std::uintmax_t size = fs::file_size(manifest);
  const auto sorted = [this](const char* kind) {
    std::vector<std::string> found = files("", kind);
    std::ranges::sort(found);
    return found;
  };
  const std::vector<std::string> tables = sorted(".sst");
  const std::vector<std::string> logs = sorted(".log");
  fs::copy(path(), directory_.path("kept"), fs::copy_options::recursive);
  unsigned refused = 0;
  for (std::uintmax_t left = 0; left < size; left += 40) {
    SCOPED_TRACE(left);
    fs::resize_file(manifest, left);
    // Cut between two records, it is one that was whole once.
    if (left > 0 && !is_torn(manifest)) continue;
    if (const auto opened = open(); !opened) {
      ++refused;
      EXPECT_EQ(opened.error().code(), ErrorCode::kCorrupt) << opened.error().message();
      EXPECT_EQ(sorted(".sst"), tables);
      EXPECT_EQ(sorted(".log"), logs);
    } else {
      EXPECT_TRUE((*opened)->manifest(name_space_, "a").has_value());
      EXPECT_TRUE((*opened)->manifest(name_space_, "b").has_value());
    }
    fs::remove_all(path());
    fs::copy(directory_.path("kept"), path(), fs::copy_options::recursive);
  }
  EXPECT_GT(refused, 3u);
  fs::resize_file(manifest, size / 2);
  EXPECT_FALSE(repair().empty());
  EXPECT_EQ(load(manifest_, name_space_), image_);
}

TEST_F(StoreDamageTest, YoungStoreWithoutItsLogIsNoEmptyStore) {
  fs::remove_all(path());
  reopen();
  ASSERT_TRUE(succeeded(store("young", image_, *store_->open_namespace("n"))));
  ASSERT_TRUE(succeeded(open_store_id(path())));
  store_.reset();
  ASSERT_TRUE(files("", ".sst").empty());
  for (const std::string& log : files("", ".log")) fs::remove(log);

  EXPECT_EQ(failure().code(), ErrorCode::kCorrupt);
  EXPECT_EQ(code_of(open_rocks_reader(path(), {})), ErrorCode::kCorrupt);
}

TEST_F(StoreDamageTest, StoreWhoseMakingWasInterruptedIsMade) {
  fs::remove_all(path());
  reopen();
  store_.reset();
  const std::string manifest = files("MANIFEST-", "").front();
  const std::uintmax_t size = fs::file_size(manifest);
  fs::copy(path(), directory_.path("kept"), fs::copy_options::recursive);
  unsigned made = 0;
  for (std::uintmax_t left = 0; left < size; left += 20) {
    fs::resize_file(manifest, left);
    if (open()) ++made;
    fs::remove_all(path());
    fs::copy(directory_.path("kept"), path(), fs::copy_options::recursive);
  }
  EXPECT_GT(made, 0u);

  fs::remove(path() + "/CURRENT");
  EXPECT_EQ(code_of(open()), ErrorCode::kCorrupt);
  for (const std::string& log : files("", ".log")) fs::remove(log);
  EXPECT_TRUE(succeeded(open()));
}

TEST_F(StoreDamageTest, DamagedIdIsNamedAndSetAside) {
  const std::string id = path() + "/" + kStoreIdFile;
  EXPECT_EQ(store_id_damage(path()), std::nullopt);
  std::ofstream(id) << "garbage\n";
  EXPECT_NE(store_id_damage(path()).value_or("").find(kStoreIdFile), std::string::npos);
  EXPECT_FALSE(repair().empty());
  EXPECT_FALSE(has_store_id(path()));
  EXPECT_EQ(load(manifest_, name_space_), image_);
  store_.reset();
  fs::create_directory(id);
  EXPECT_TRUE(store_id_damage(path()).has_value());
  fs::remove(id);
  fs::create_symlink(kStoreIdFile, id);
  EXPECT_TRUE(store_id_damage(path()).has_value());
  EXPECT_FALSE(repair().empty());
  EXPECT_EQ(store_id_damage(path()), std::nullopt);
}

TEST_F(StoreDamageTest, WholeStoreIsLeftAsItIs) {
  const auto lines = repair_files(path());
  ASSERT_TRUE(succeeded(lines));
  EXPECT_TRUE(lines->empty());
  EXPECT_TRUE(fs::exists(path() + "/" + kStoreIdFile));
  EXPECT_FALSE(fs::exists(path() + "/lost"));
}

TEST_F(StoreDamageTest, LookChangesNothing) {
  reopen();
  const Manifest logged = *store("logged", image_of("!?"), name_space_);
  store_.reset();
  const auto listed = [&] {
    std::map<std::string, std::uintmax_t> all;
    for (const auto& entry : fs::directory_iterator(path())) all[entry.path()] = entry.file_size();
    return all;
  };
  const auto before = listed();
  {
    const auto reader = open_rocks_reader(path(), {});
    ASSERT_TRUE(succeeded(reader));
    EXPECT_EQ(check_store(**reader, false)->snapshots, 3u);
    EXPECT_EQ(code_of((*reader)->open_namespace("new")), ErrorCode::kUnsupported);
  }
  EXPECT_EQ(listed(), before);
  reopen();
  EXPECT_EQ(load(logged, name_space_), image_of("!?"));
}

/// As long as it lives this process opens nothing more.
class NoDescriptors {
 public:
  NoDescriptors() {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const UniqueFd next(::dup(0));
    const rlimit none{static_cast<rlim_t>(next.get()), before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  }
  ~NoDescriptors() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_{};
};

TEST_F(StoreDamageTest, WithDescriptorsAgainItIsWrittenAgain) {
  reopen();
  const Bytes image = image_of("!?");
  ASSERT_TRUE(succeeded(store("before", image, name_space_)));
  {
    const NoDescriptors none;
    // It flushes, which needs a file.
    EXPECT_FALSE(store_->back_up(directory_.path("backup")).has_value());
    EXPECT_EQ(code_of(store("meanwhile", image_of("+-"), name_space_)), ErrorCode::kNoDescriptors);
  }
  const auto after = store("after", image_of("*/"), name_space_);
  ASSERT_TRUE(succeeded(after));
  reopen();
  EXPECT_EQ(load(*after, name_space_), image_of("*/"));
  EXPECT_EQ(load(manifest_, name_space_), image_);
}

}  // namespace
}  // namespace thaw::test
