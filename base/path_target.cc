#include "base/path_target.h"

#include <cerrno>
#include <charconv>
#include <filesystem>

#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/place.h"

namespace thaw {

namespace {

bool lies_in(const std::string& path, long magic) {
  struct statfs status{};
  return ::statfs(path.c_str(), &status) == 0 && status.f_type == magic;
}

/// The number of a descriptor of this process that `name` in /proc stands for.
std::optional<int> own_descriptor(const std::filesystem::path& directory, const std::string& name) {
  const std::string own = fmt::format("/proc/{}/", ::getpid());
  const std::string parent = directory.string();
  if (!parent.starts_with(own) || directory.filename() != "fd") return std::nullopt;
  int number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return number;
}

}  // namespace

Result<PathTarget> find_target(const std::string& path, int dash) {
  if (path == "-") return PathTarget{path, dash};
  std::filesystem::path at(path);
  for (unsigned links = 0; links < limits::kMostLinks; ++links) {
    std::error_code error;
    if (!std::filesystem::is_symlink(std::filesystem::symlink_status(at, error))) {
      return PathTarget{at.string(), std::nullopt};
    }
    const auto parent =
        std::filesystem::canonical(at.has_parent_path() ? at.parent_path() : ".", error);
    if (error) return fail_errno(fmt::format("follow {}", path), error.value());
    // Links of /proc lead to open files, not to names.
    if (lies_in(parent.string(), PROC_SUPER_MAGIC)) {
      return PathTarget{at.string(), own_descriptor(parent, at.filename().string())};
    }
    const auto next = std::filesystem::read_symlink(at, error);
    if (error) return fail_errno(fmt::format("follow {}", path), error.value());
    at = parent / next;
  }
  return fail_errno(fmt::format("follow {}", path), ELOOP);
}

bool is_kernel_file(const std::string& path) {
  return lies_in(path, PROC_SUPER_MAGIC) || lies_in(path, SYSFS_MAGIC);
}

}  // namespace thaw
