#include "base/private_files.h"

#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/place.h"
#include "base/unique_fd.h"

namespace thaw {

namespace {

namespace fs = std::filesystem;

constexpr mode_t kOthers = S_IRWXG | S_IRWXO;

Result<struct stat> status_of(const UniqueFd& file, const std::string& path) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("stat " + path);
  return status;
}

/// Makes what is missing of the path, outermost first.
Result<void> make_directories(const std::string& path, fs::perms mode) {
  fs::path made;
  for (const fs::path& part : fs::path(path)) {
    made /= part;
    std::error_code error;
    const bool is_new = fs::create_directory(made, error);
    if (is_new && !error) fs::permissions(made, mode, error);
    if (error) return fail_errno("create " + made.string(), error.value());
  }
  return {};
}

Result<void> check_owner(const struct stat& status, const std::string& path) {
  if (status.st_uid == ::geteuid()) return {};
  return fail(ErrorCode::kPermission,
              "{} keeps guest memory and belongs to user {}, this program is user {}", path,
              status.st_uid, ::geteuid());
}

Result<void> check_mode(const struct stat& status, const std::string& path) {
  if ((status.st_mode & kOthers) == 0) return {};
  return fail(ErrorCode::kPermission,
              "{} keeps guest memory and other users may enter it (mode {:04o}): chmod 700 {}",
              path, status.st_mode & 07777u, path);
}

Result<void> check_trusted(const struct stat& status, const std::string& path) {
  if (S_ISCHR(status.st_mode)) return {};
  if (!S_ISREG(status.st_mode)) {
    return fail(ErrorCode::kInvalidArgument, "{} is no regular file", path);
  }
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return fail(ErrorCode::kPermission, "other users may write {} (mode {:04o}): chmod go-w {}",
                path, status.st_mode & 07777u, path);
  }
  if (status.st_uid == 0 || status.st_uid == ::geteuid()) return {};
  return fail(ErrorCode::kPermission,
              "{} belongs to user {}, who may write it: it must belong to root or to user {}", path,
              status.st_uid, ::geteuid());
}

/// Through the descriptor: the name may be another file's by now.
Result<std::string> read_found(const UniqueFd& file, const std::string& path,
                               std::size_t most_bytes) {
  auto text = read_text_file(fmt::format("/proc/self/fd/{}", file.get()), most_bytes);
  if (text) return text;
  if (text.error().code() != ErrorCode::kTooLarge) {
    return fail_errno("read " + path, text.error().error_number());
  }
  return fail(ErrorCode::kTooLarge, "{} has more than {} bytes", path, most_bytes);
}

}  // namespace

Result<void> make_private_directory(const std::string& path) {
  TRY(make_directories(path, fs::perms::owner_all));
  std::error_code error;
  if (!fs::is_empty(path, error) || error) return check_private_directory(path);
  const UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return fail_errno("open " + path);
  TRY(check_owner(TRY(status_of(directory, path)), path));
  if (::fchmod(directory.get(), S_IRWXU) != 0) return fail_errno("chmod 700 " + path);
  return {};
}

Result<void> check_private_directory(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return fail_errno("look at " + path);
  TRY(check_owner(status, path));
  return check_mode(status, path);
}

Result<void> make_public_directory(const std::string& path) {
  return make_directories(path, fs::perms(0755));
}

Result<std::string> read_trusted_file(const std::string& path, std::size_t most_bytes) {
  const UniqueFd file = TRY(find_trusted(path));
  TRY(check_trusted(TRY(status_of(file, path)), path));
  return read_found(file, path, most_bytes);
}

Result<std::string> read_secret_file(const std::string& path, std::size_t most_bytes) {
  const UniqueFd file = TRY(find_trusted(path));
  const struct stat status = TRY(status_of(file, path));
  TRY(check_trusted(status, path));
  if ((status.st_mode & S_IRWXO) != 0) {
    return fail(ErrorCode::kPermission, "{} is a key that others have access to: chmod 600 {}",
                path, path);
  }
  return read_found(file, path, most_bytes);
}

}  // namespace thaw
