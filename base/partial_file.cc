#include "base/partial_file.h"

#include <cerrno>
#include <csignal>
#include <filesystem>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace thaw {

namespace {

constexpr mode_t kPermissions = 0777;

std::string name_in_proc(const UniqueFd& fd) { return fmt::format("/proc/self/fd/{}", fd.get()); }

const char* kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "a directory";
    case S_IFLNK:
      return "a symbolic link";
    case S_IFIFO:
      return "a pipe";
    case S_IFSOCK:
      return "a socket";
    case S_IFCHR:
      return "a character device";
    case S_IFBLK:
      return "a block device";
    default:
      return "no regular file";
  }
}

/// Without permission to read the directory, its entries become durable with the file system.
Result<void> sync_directory(const UniqueFd& directory, const std::string& path) {
  const UniqueFd readable(::openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!readable.valid() && errno == EACCES) return {};
  if (!readable.valid() || ::fsync(readable.get()) != 0) {
    return fail_errno(fmt::format("sync the directory of {}", path));
  }
  return {};
}

/// Signals wait for a moment in which a whole file has its temporary name.
class SignalsHeld {
 public:
  SignalsHeld() {
    sigset_t all;
    sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;
  ~SignalsHeld() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

}  // namespace

Result<PartialFile> PartialFile::create(const std::string& path) {
  const std::filesystem::path whole(path);
  const std::string parent = whole.has_parent_path() ? whole.parent_path().string() : ".";
  const std::string name = whole.filename().string();
  if (name.empty() || name == "." || name == "..") {
    return fail(ErrorCode::kAlreadyExists, "{} is a directory", path);
  }
  UniqueFd directory(::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return fail_errno(fmt::format("open the directory of {}", path));
  PartialFile file(path, {std::move(directory), name});
  TRY(file.look_at_target());
  TRY(file.open());
  TRY(file.keep_mode_and_owner());
  return file;
}

Result<PartialFile> PartialFile::create_private(const std::string& path, Place place) {
  PartialFile file(path, std::move(place));
  TRY(file.look_at_target());
  file.replaced_.reset();
  TRY(file.open());
  return file;
}

Result<void> PartialFile::look_at_target() {
  struct statx target{};
  constexpr unsigned kWanted = STATX_TYPE | STATX_MODE | STATX_UID | STATX_GID;
  if (::statx(place_.directory.get(), place_.name.c_str(), AT_SYMLINK_NOFOLLOW, kWanted, &target) !=
      0) {
    if (errno == ENOENT) return {};
    return fail_errno(fmt::format("look at {}", path_));
  }
  if (!S_ISREG(target.stx_mode)) {
    return fail(ErrorCode::kAlreadyExists, "{} is {}", path_, kind_of(target.stx_mode));
  }
  if ((target.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0) {
    return fail(ErrorCode::kAlreadyExists, "{} is a mount point, which cannot be replaced", path_);
  }
  replaced_ = Replaced{{target.stx_uid, target.stx_gid},
                       static_cast<mode_t>(target.stx_mode) & kPermissions};
  return {};
}

Result<void> PartialFile::open() {
  constexpr mode_t kOwnerOnly = 0600;
  fd_ = UniqueFd(::openat(place_.directory.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, kOwnerOnly));
  if (fd_.valid() && ::access(name_in_proc(fd_).c_str(), F_OK) == 0) return {};
  if (!fd_.valid() && errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) {
    return fail_errno(fmt::format("create {}", path_));
  }
  temporary_ = TRY(UnfinishedName::draw(place_.directory));
  fd_ = UniqueFd(::openat(place_.directory.get(), temporary_.text().c_str(),
                          O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kOwnerOnly));
  if (!fd_.valid()) return fail_errno(fmt::format("create {}", path_));
  return {};
}

Result<void> PartialFile::keep_mode_and_owner() {
  if (!replaced_) return {};
  struct stat own{};
  if (::fstat(fd_.get(), &own) != 0) return fail_errno("fstat");
  const auto& [owner, mode] = *replaced_;
  if (own.st_uid != owner.uid || own.st_gid != owner.gid) {
    if (::fchown(fd_.get(), owner.uid, owner.gid) != 0) {
      return fail_errno(fmt::format("keep the owner {}:{} of {}", owner.uid, owner.gid, path_));
    }
  }
  if (::fchmod(fd_.get(), mode) != 0) return fail_errno(fmt::format("keep the mode of {}", path_));
  return {};
}

Result<void> PartialFile::give_to(FileOwner owner) {
  if (::fchown(fd_.get(), owner.uid, owner.gid) != 0) {
    return fail_errno(fmt::format("chown {}", path_));
  }
  return {};
}

Result<void> PartialFile::give_temporary_name() {
  if (!temporary_.empty()) return {};
  UnfinishedName drawn = TRY(UnfinishedName::draw(place_.directory));
  if (::linkat(AT_FDCWD, name_in_proc(fd_).c_str(), place_.directory.get(), drawn.text().c_str(),
               AT_SYMLINK_FOLLOW) != 0) {
    const int error_number = errno;
    drawn.forget();
    return fail_errno(fmt::format("name {}", path_), error_number);
  }
  temporary_ = std::move(drawn);
  return {};
}

Result<void> PartialFile::publish_together(std::initializer_list<PartialFile*> files) {
  for (const PartialFile* file : files) {
    if (::fsync(file->fd_.get()) != 0) return fail_errno(fmt::format("sync {}", file->path_));
  }
  {
    const SignalsHeld held;
    for (PartialFile* file : files) TRY(file->give_temporary_name());
    for (PartialFile* file : files) {
      if (::renameat(file->place_.directory.get(), file->temporary_.text().c_str(),
                     file->place_.directory.get(), file->place_.name.c_str()) != 0) {
        return fail_errno(fmt::format("replace {}", file->path_));
      }
      file->temporary_.forget();
      file->fd_.reset();
    }
  }
  for (const PartialFile* file : files) TRY(sync_directory(file->place_.directory, file->path_));
  return {};
}

Result<std::optional<ByteCount>> PartialFile::room() const {
  struct statvfs status{};
  if (::fstatvfs(fd_.get(), &status) != 0) return fail_errno("fstatvfs");
  // A tmpfs without a limit says that it has no blocks at all.
  if (status.f_blocks == 0) return std::optional<ByteCount>();
  const std::uint64_t blocks = ::geteuid() == 0 ? status.f_bfree : status.f_bavail;
  return std::optional(ByteCount{blocks * status.f_frsize});
}

Result<void> write_whole_file(const std::string& path, ByteSpan content) {
  PartialFile file = TRY(PartialFile::create(path));
  TRY(write_at(file.fd(), content, 0));
  return file.publish();
}

}  // namespace thaw
