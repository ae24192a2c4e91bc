#include "base/place.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <deque>
#include <optional>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace thaw {

namespace {

constexpr int kLookFlags = O_PATH | O_NOFOLLOW | O_CLOEXEC;

std::deque<std::string> components(const std::string& path) {
  std::deque<std::string> all;
  for (std::size_t at = 0; at < path.size();) {
    const std::size_t slash = std::min(path.find('/', at), path.size());
    const std::string part = path.substr(at, slash - at);
    if (!part.empty() && part != ".") all.push_back(part);
    at = slash + 1;
  }
  return all;
}

/// Follows a path from directory to directory, each held open until the end.
class Walk {
 public:
  explicit Walk(const std::string& path) : path_(path) {}

  Result<UniqueFd> to_directory(std::deque<std::string> left, bool absolute) {
    TRY(begin(absolute ? "/" : "."));
    while (!left.empty()) {
      const std::string part = std::move(left.front());
      left.pop_front();
      if (part == "..") {
        TRY(go_back());
        continue;
      }
      UniqueFd next(::openat(steps_.back().directory.get(), part.c_str(), kLookFlags));
      if (!next.valid()) return fail_errno(fmt::format("open the directory of {}", path_));
      struct stat status{};
      if (::fstat(next.get(), &status) != 0) return fail_errno("fstat");
      if (!S_ISLNK(status.st_mode)) {
        TRY(enter(std::move(next), status));
        continue;
      }
      const std::string target = TRY(read_link(next, status));
      auto more = components(target);
      left.insert(left.begin(), more.begin(), more.end());
      if (target.starts_with('/')) TRY(begin("/"));
    }
    return std::move(steps_.back().directory);
  }

 private:
  struct Step {
    UniqueFd directory;
    bool follows_links = true;
    std::optional<uid_t> owner{};  // of all that follows
  };

  static bool is_trusted(uid_t user) { return user == 0 || user == ::geteuid(); }

  Result<void> begin(const char* root) {
    steps_.clear();
    UniqueFd directory(::open(root, O_PATH | O_DIRECTORY | O_CLOEXEC));
    struct stat status{};
    if (!directory.valid() || ::fstat(directory.get(), &status) != 0) return fail_errno(root);
    return enter(std::move(directory), status);
  }

  Result<void> enter(UniqueFd directory, const struct stat& status) {
    if (!S_ISDIR(status.st_mode)) {
      return fail_errno(fmt::format("open the directory of {}", path_), ENOTDIR);
    }
    Step step{.directory = std::move(directory)};
    if (!steps_.empty()) {
      step.follows_links = steps_.back().follows_links;
      step.owner = steps_.back().owner;
    }
    if (step.owner && *step.owner != status.st_uid) {
      return fail(ErrorCode::kPermission,
                  "the path {} leads from a directory of user {} into one of user {}", path_,
                  *step.owner, status.st_uid);
    }
    if (!is_trusted(status.st_uid)) step.owner = status.st_uid;
    // In a sticky directory every user can change what is that user's own alone.
    const bool shared =
        (status.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (status.st_mode & S_ISVTX) == 0;
    if (shared || step.owner) step.follows_links = false;
    steps_.push_back(std::move(step));
    return {};
  }

  /// To the directory that led here, wherever this one may have been moved to.
  Result<void> go_back() {
    if (steps_.size() > 1) {
      steps_.pop_back();
      return {};
    }
    Step& only = steps_.front();
    UniqueFd parent(::openat(only.directory.get(), "..", kLookFlags | O_DIRECTORY));
    struct stat status{};
    if (!parent.valid() || ::fstat(parent.get(), &status) != 0) return fail_errno(path_);
    steps_.clear();
    return enter(std::move(parent), status);
  }

  Result<std::string> read_link(const UniqueFd& link, const struct stat& status) {
    if (!steps_.back().follows_links || !is_trusted(status.st_uid)) {
      return fail(ErrorCode::kPermission,
                  "the path {} leads through a symbolic link that another user may have made",
                  path_);
    }
    if (++links_ > limits::kMostLinks) return fail_errno(path_, ELOOP);
    std::array<char, PATH_MAX> target;
    const ssize_t length = ::readlinkat(link.get(), "", target.data(), target.size());
    if (length < 0) return fail_errno(fmt::format("follow {}", path_));
    return std::string(target.data(), static_cast<std::size_t>(length));
  }

  const std::string& path_;
  std::vector<Step> steps_;
  unsigned links_ = 0;
};

}  // namespace

Result<Place> find_place(const std::string& path) {
  if (path.empty()) return fail(ErrorCode::kInvalidArgument, "a path is empty");
  if (path.find('\0') != std::string::npos) {
    return fail(ErrorCode::kInvalidArgument, "a path has a byte 0 in it");
  }
  auto parts = components(path);
  if (parts.empty() || parts.back() == ".." || path.back() == '/' || path.ends_with("/.")) {
    return fail(ErrorCode::kAlreadyExists, "{} is a directory", path);
  }
  std::string name = std::move(parts.back());
  parts.pop_back();
  Walk walk(path);
  UniqueFd directory = TRY(walk.to_directory(std::move(parts), path.front() == '/'));
  return Place{std::move(directory), std::move(name)};
}

std::string last_component(const std::string& path) { return path.substr(path.rfind('/') + 1); }

bool same_place(const Place& one, const Place& other) {
  struct stat a{};
  struct stat b{};
  return one.name == other.name && ::fstat(one.directory.get(), &a) == 0 &&
         ::fstat(other.directory.get(), &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

Result<UniqueFd> open_entry(const Place& place) {
  UniqueFd entry(::openat(place.directory.get(), place.name.c_str(), kLookFlags));
  if (!entry.valid()) return fail_errno(fmt::format("look at {}", place.name));
  return entry;
}

Result<void> remove_entry(const UniqueFd& directory, const std::string& name,
                          const UniqueFd& file) {
  struct stat wanted{};
  struct stat found{};
  if (::fstat(file.get(), &wanted) != 0) return fail_errno("fstat");
  if (::fstatat(directory.get(), name.c_str(), &found, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno(fmt::format("look at {}", name));
  }
  if (found.st_dev != wanted.st_dev || found.st_ino != wanted.st_ino) return {};
  if (::unlinkat(directory.get(), name.c_str(), 0) == 0 || errno == ENOENT) return {};
  return fail_errno(fmt::format("remove {}", name));
}

Result<uid_t> file_user(const UniqueFd& file) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("fstat");
  return status.st_uid;
}

bool is_kind(const UniqueFd& object, ObjectKind kind) {
  struct stat status{};
  if (::fstat(object.get(), &status) != 0) return false;
  switch (kind) {
    case ObjectKind::kRegularFile:
      return S_ISREG(status.st_mode);
    case ObjectKind::kDirectory:
      return S_ISDIR(status.st_mode);
    case ObjectKind::kSocketFile:
      return S_ISSOCK(status.st_mode);
  }
  return false;
}

}  // namespace thaw
