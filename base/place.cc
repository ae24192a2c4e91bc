#include "base/place.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <deque>
#include <filesystem>
#include <optional>
#include <vector>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
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

/// File systems as statfs(2) tells them. The last two are not in linux/magic.h.
constexpr std::array<decltype(statfs::f_type), 9> kNeverWait{
    EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,       BTRFS_SUPER_MAGIC,     F2FS_SUPER_MAGIC, TMPFS_MAGIC,
    RAMFS_MAGIC,      OVERLAYFS_SUPER_MAGIC, 0x2fc1'2fc1 /* ZFS */, 0xca45'1a4e /* bcachefs */};

constexpr mode_t kWrittenByOthers = S_IWGRP | S_IWOTH;

bool is_trusted(uid_t user) { return user == 0 || user == ::geteuid(); }

/// Follows a path from directory to directory, each held open until the end.
class Walk {
 public:
  enum class Trust {
    kAsFarAsItGoes,  // from a directory of others no link leads on
    kAllTheWay,      // others can change nothing on the way
  };
  Walk(const std::string& path, Trust trust) : path_(path), trust_(trust) {}

  Result<UniqueFd> to_directory(std::deque<std::string> left, bool absolute) {
    const UniqueFd end = TRY(to_end(std::move(left), absolute));
    if (end.valid()) return fail_errno(fmt::format("open the directory of {}", path_), ENOTDIR);
    return std::move(steps_.back().directory);
  }
  Result<UniqueFd> to_object(std::deque<std::string> left, bool absolute) {
    UniqueFd end = TRY(to_end(std::move(left), absolute));
    return end.valid() ? std::move(end) : std::move(steps_.back().directory);
  }

 private:
  struct Step {
    UniqueFd directory;
    bool follows_links = true;
    bool sticky = false;           // others may make names in it
    std::optional<uid_t> owner{};  // of all that follows
  };

  /// Not valid when the path ends at the directory of the last step.
  Result<UniqueFd> to_end(std::deque<std::string> left, bool absolute) {
    TRY(begin(absolute ? "/" : "."));
    while (!left.empty()) {
      const std::string part = std::move(left.front());
      left.pop_front();
      if (part == "..") {
        TRY(go_back());
        continue;
      }
      UniqueFd next(::openat(steps_.back().directory.get(), part.c_str(), kLookFlags));
      if (!next.valid()) return fail_errno(what_is_looked_for());
      struct stat status{};
      if (::fstat(next.get(), &status) != 0) return fail_errno("fstat");
      TRY(check_name(part, status));
      if (!S_ISLNK(status.st_mode)) {
        if (!S_ISDIR(status.st_mode) && left.empty()) return next;
        TRY(enter(std::move(next), status));
        continue;
      }
      const std::string target = TRY(read_link(next, status));
      auto more = components(target);
      left.insert(left.begin(), more.begin(), more.end());
      if (target.starts_with('/')) TRY(begin("/"));
    }
    return UniqueFd();
  }

  std::string what_is_looked_for() const {
    return trust_ == Trust::kAllTheWay ? fmt::format("open {}", path_)
                                       : fmt::format("open the directory of {}", path_);
  }

  Result<void> begin(const char* root) {
    steps_.clear();
    UniqueFd directory(::open(root, O_PATH | O_DIRECTORY | O_CLOEXEC));
    struct stat status{};
    if (!directory.valid() || ::fstat(directory.get(), &status) != 0) return fail_errno(root);
    return enter(std::move(directory), status);
  }

  Result<void> enter(UniqueFd directory, const struct stat& status) {
    if (!S_ISDIR(status.st_mode)) return fail_errno(what_is_looked_for(), ENOTDIR);
    if (trust_ == Trust::kAllTheWay) TRY(check_directory(directory, status));
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
    const bool written = (status.st_mode & kWrittenByOthers) != 0;
    step.sticky = written && (status.st_mode & S_ISVTX) != 0;
    if ((written && !step.sticky) || step.owner) step.follows_links = false;
    steps_.push_back(std::move(step));
    return {};
  }

  Result<void> check_directory(const UniqueFd& directory, const struct stat& status) const {
    const auto name = [&] {
      std::error_code ignored;
      const auto link = fmt::format("/proc/self/fd/{}", directory.get());
      return std::filesystem::read_symlink(link, ignored).string();
    };
    if (!is_trusted(status.st_uid)) {
      return fail(ErrorCode::kPermission,
                  "{} is read through {}, which belongs to user {}, who may put another file "
                  "there: it must belong to root or to user {}",
                  path_, name(), status.st_uid, ::geteuid());
    }
    if ((status.st_mode & kWrittenByOthers) != 0 && (status.st_mode & S_ISVTX) == 0) {
      return fail(ErrorCode::kPermission,
                  "{0} is read through {1}, where other users may put another file (mode {2:04o}): "
                  "chmod go-w {1}",
                  path_, name(), status.st_mode & 07777u);
    }
    return {};
  }

  /// What another user could have made in a sticky directory: a file, or a name of one of ours.
  Result<void> check_name(const std::string& name, const struct stat& status) const {
    if (trust_ != Trust::kAllTheWay || !steps_.back().sticky) return {};
    if (is_trusted(status.st_uid) && (S_ISDIR(status.st_mode) || status.st_nlink == 1)) return {};
    return fail(ErrorCode::kPermission,
                "{} is read through {}, which another user may have made in a directory for all "
                "users",
                path_, name);
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
  const Trust trust_;
  std::vector<Step> steps_;
  unsigned links_ = 0;
};

Result<void> check_path(const std::string& path) {
  if (path.empty()) return fail(ErrorCode::kInvalidArgument, "a path is empty");
  if (path.find('\0') != std::string::npos) {
    return fail(ErrorCode::kInvalidArgument, "a path has a byte 0 in it");
  }
  return {};
}

}  // namespace

Result<Place> find_place(const std::string& path) {
  TRY(check_path(path));
  auto parts = components(path);
  if (parts.empty() || parts.back() == ".." || path.back() == '/' || path.ends_with("/.")) {
    return fail(ErrorCode::kAlreadyExists, "{} is a directory", path);
  }
  std::string name = std::move(parts.back());
  parts.pop_back();
  Walk walk(path, Walk::Trust::kAsFarAsItGoes);
  UniqueFd directory = TRY(walk.to_directory(std::move(parts), path.front() == '/'));
  return Place{std::move(directory), std::move(name)};
}

Result<UniqueFd> find_trusted(const std::string& path) {
  TRY(check_path(path));
  Walk walk(path, Walk::Trust::kAllTheWay);
  return walk.to_object(components(path), path.front() == '/');
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

Result<void> check_never_waits(const UniqueFd& directory, const std::string& path) {
  struct statfs status{};
  if (::fstatfs(directory.get(), &status) != 0) return fail_errno("statfs");
  if (std::ranges::count(kNeverWait, status.f_type) > 0) return {};
  return fail(ErrorCode::kUnsupported,
              "{} is on a file system (type {:#x}) where calls may wait for another process or "
              "host; it has to be on ext4, XFS, Btrfs, ZFS, F2FS, bcachefs, tmpfs or an overlay",
              path, status.f_type);
}

Result<FileOwner> file_owner(const UniqueFd& file) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_errno("fstat");
  return FileOwner{status.st_uid, status.st_gid};
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
