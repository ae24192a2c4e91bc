#include "base/landlock.h"

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <system_error>

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace thaw {

namespace {

/// Version 1 allows no name to move to another directory, which backups do.
constexpr long kLeastVersion = 2;
constexpr long kTruncateVersion = 3;
/// LANDLOCK_ACCESS_FS_TRUNCATE, which headers before Linux 6.2 lack.
constexpr std::uint64_t kTruncate = 1u << 14;

constexpr std::uint64_t kReadFile = LANDLOCK_ACCESS_FS_READ_FILE;
constexpr std::uint64_t kRead = kReadFile | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr std::uint64_t kWriteFile = kReadFile | LANDLOCK_ACCESS_FS_WRITE_FILE | kTruncate;
constexpr std::uint64_t kWrite = kRead | kWriteFile | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                                 LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |
                                 LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                                 LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REFER;
/// Beside those, programs and devices.
constexpr std::uint64_t kAll = kWrite | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
                               LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO;

/// The rights over files that a version knows.
std::uint64_t known(std::uint64_t rights, long version) {
  return version < kTruncateVersion ? rights & ~kTruncate : rights;
}

/// Of a directory's or of a file's rights those that fit what the path leads to.
Result<void> leave(const UniqueFd& ruleset, const std::string& path, std::uint64_t of_directory,
                   std::uint64_t of_file) {
  const UniqueFd place(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!place.valid() && (errno == ENOENT || errno == ENOTDIR)) return {};
  struct stat status{};
  if (!place.valid() || ::fstat(place.get(), &status) != 0) return fail_errno("open " + path);
  const landlock_path_beneath_attr rule{
      .allowed_access = S_ISDIR(status.st_mode) ? of_directory : of_file, .parent_fd = place.get()};
  // SAFETY: the kernel reads `rule`, which has the type that LANDLOCK_RULE_PATH_BENEATH says.
  if (::syscall(SYS_landlock_add_rule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) {
    return fail_errno("landlock: " + path);
  }
  return {};
}

}  // namespace

std::string directory_of(const std::string& path) {
  const std::filesystem::path file(path);
  return file.has_parent_path() ? file.parent_path().string() : ".";
}

std::vector<std::string> places_of(const std::string& file) {
  std::vector<std::string> places{directory_of(file)};
  std::error_code error;
  const auto behind_links = std::filesystem::canonical(file, error);
  if (!error) places.push_back(directory_of(behind_links.string()));
  const bool is_linked = std::filesystem::is_symlink(places.front(), error);
  if (is_linked) places.push_back(directory_of(places.front()));
  return places;
}

std::string log_place(const std::string& file) {
  std::error_code ignored;
  const auto status = std::filesystem::status(file, ignored);
  const bool stays = std::filesystem::exists(status) && !std::filesystem::is_regular_file(status);
  return stays ? file : directory_of(file);
}

Result<std::string> leave_files(const FilesLeft& left) {
  // SAFETY: with this flag the call takes no pointer, and returns a number.
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, std::size_t{0},
                                 LANDLOCK_CREATE_RULESET_VERSION);
  if (version < 0) return "the kernel has no Landlock, or it is off: all files stay in reach";
  if (version < kLeastVersion) {
    return fmt::format("Landlock has version {}, and {} is needed: all files stay in reach",
                       version, kLeastVersion);
  }
  const landlock_ruleset_attr attributes{.handled_access_fs = known(kAll, version)};
  // SAFETY: the kernel reads so many bytes of `attributes`, and returns a new descriptor.
  const UniqueFd ruleset(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes), 0)));
  if (!ruleset.valid()) return fail_errno("landlock_create_ruleset");
  for (const std::string& path : left.read) TRY(leave(ruleset, path, kRead, kReadFile));
  for (const std::string& path : left.write) {
    TRY(leave(ruleset, path, known(kWrite, version), known(kWriteFile, version)));
  }
  // SAFETY: takes a descriptor and flags by value.
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0) {
    return fail_errno("landlock_restrict_self");
  }
  if (version < kTruncateVersion) return "Landlock cannot keep files from being truncated";
  return std::string();
}

}  // namespace thaw
