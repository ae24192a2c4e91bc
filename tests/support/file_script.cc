/// Does to files what its arguments say, in order, in the directory that is the first of them:
///   write FILE BYTES (opened and made as needed, appended)   sync FILE   close FILE
///   rename FROM TO   link FROM TO   unlink FILE   directory (syncs it)   read FILE (its first
///   byte) truncate FILE SIZE   die (SIGKILL)
/// Prints the name of the errno of each that fails, else "ok".

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <span>
#include <string>

#include <fcntl.h>
#include <unistd.h>

namespace {

std::string directory;
std::map<std::string, int> files;

std::string path(const char* name) { return directory + "/" + name; }

int file(const char* name) {
  const auto known = files.find(name);
  if (known != files.end()) return known->second;
  const int fd = ::open(path(name).c_str(), O_RDWR | O_CREAT, 0600);
  ::lseek(fd, 0, SEEK_END);
  return files[name] = fd;
}

int sync_directory() {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY);
  const int result = ::fsync(fd);
  ::close(fd);
  return result;
}

int write_all(int fd, const char* bytes) {
  const size_t size = std::strlen(bytes);
  for (size_t done = 0; done < size;) {
    const ssize_t n = ::write(fd, bytes + done, size - done);
    if (n < 0) return -1;
    done += static_cast<size_t>(n);
  }
  return 0;
}

int close_file(const char* name) {
  const int fd = file(name);
  files.erase(name);
  return ::close(fd);
}

/// Does the first step of `words` and takes it off; below 0 when it failed.
int step(std::span<char*>& words) {
  const std::string verb = words[0];
  const auto take = [&](size_t n) {
    const auto taken = words.subspan(1, n);
    words = words.subspan(1 + n);
    return taken;
  };
  if (verb == "write") {
    const auto a = take(2);
    return write_all(file(a[0]), a[1]);
  }
  if (verb == "truncate") {
    const auto a = take(2);
    return ::ftruncate(file(a[0]), std::atoi(a[1]));
  }
  if (verb == "rename") {
    const auto a = take(2);
    return ::rename(path(a[0]).c_str(), path(a[1]).c_str());
  }
  if (verb == "link") {
    const auto a = take(2);
    return ::link(path(a[0]).c_str(), path(a[1]).c_str());
  }
  if (verb == "sync") return ::fdatasync(file(take(1)[0]));
  if (verb == "close") return close_file(take(1)[0]);
  if (verb == "unlink") return ::unlink(path(take(1)[0]).c_str());
  if (verb == "read") {
    char byte = 0;
    return ::pread(file(take(1)[0]), &byte, 1, 0) == 1 ? 0 : -1;
  }
  if (verb == "directory") return take(0), sync_directory();
  if (verb == "die") ::kill(::getpid(), SIGKILL);
  std::printf("unknown step %s\n", verb.c_str());
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  directory = argv[1];
  std::span<char*> words(argv + 2, static_cast<size_t>(argc - 2));
  while (!words.empty()) {
    const int result = step(words);
    std::printf("%s\n", result < 0 ? ::strerrorname_np(errno) : "ok");
    std::fflush(stdout);
  }
}
