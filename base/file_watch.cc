#include "base/file_watch.h"

#include <utility>

#include <sys/stat.h>

#include "base/limits.h"

namespace thaw {

FileWatch::FileWatch(std::vector<std::string> paths)
    : paths_(std::move(paths)), seen_(look()), next_look_(Clock::now()) {}

std::vector<FileWatch::Stamp> FileWatch::look() const {
  std::vector<Stamp> stamps;
  for (const std::string& path : paths_) {
    struct stat status{};
    if (::stat(path.c_str(), &status) != 0) {
      stamps.emplace_back();
      continue;
    }
    stamps.push_back({status.st_dev, status.st_ino, status.st_size,
                      status.st_ctim.tv_sec * 1'000'000'000 + status.st_ctim.tv_nsec});
  }
  return stamps;
}

bool FileWatch::changed() {
  {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    if (now < next_look_) return false;
    next_look_ = now + limits::kFileWatchInterval;
  }
  std::vector<Stamp> stamps = look();
  const std::lock_guard lock(mutex_);
  return std::exchange(seen_, stamps) != stamps;
}

}  // namespace thaw
