/// thaw-qemu.so, loaded into an unmodified QEMU by LD_PRELOAD. When QEMU maps the file of its
/// memory-backend-file, the mapping is registered as missing memory and handed over to a fault
/// handler before QEMU sees its address.
///
/// THAW_QEMU_MEMORY  path of that file; on tmpfs or on hugetlbfs with 2 MiB pages
/// THAW_QEMU_SOCKET  path of the prepared session's socket
///
/// QEMU must never run on memory that nobody serves: whatever fails ends the process with one line
/// on stderr and exit code 1. Processes that do not map the file are left alone, so children that
/// inherit the environment (the shell of an exec: migration) are too.
///
/// Any thread may map. Nothing here maps the file a second time, and anonymous mappings (those of
/// allocators) are passed on first of all, so the wrappers do not recurse.

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include <dlfcn.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "format/limits.h"
#include "vmm-client/guest_memory.h"

namespace {

using MapFunction = void* (*)(void*, std::size_t, int, int, int, off_t);

// Set before main() by prepare(). A mapping made even earlier goes to the kernel directly.
constinit std::atomic<MapFunction> next_mmap = nullptr;
constinit std::atomic_flag was_handed_over = ATOMIC_FLAG_INIT;

struct MapRequest {
  void* address;
  std::size_t length;
  int protection;
  int flags;
  int fd;
  off_t offset;
};

struct Environment {
  const char* memory_path;
  const char* socket_path;
};

[[noreturn]] void terminate(const std::string& reason) {
  const std::string line = fmt::format("thaw-qemu: {}\n", reason);
  // Nothing is left to do when even this cannot be written.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
  ::_exit(1);
}

void* map(const MapRequest& request) {
  const MapFunction next = next_mmap.load(std::memory_order_acquire);
  if (next != nullptr) {
    return next(request.address, request.length, request.protection, request.flags, request.fd,
                request.offset);
  }
  // SAFETY: mmap(2) itself; 64-bit Linux takes the offset in bytes.
  return reinterpret_cast<void*>(::syscall(SYS_mmap, request.address, request.length,
                                           request.protection, request.flags, request.fd,
                                           request.offset));
}

/// Both paths, or none when this process has nothing to do with Thaw.
Environment read_environment() {
  const Environment environment{std::getenv("THAW_QEMU_MEMORY"), std::getenv("THAW_QEMU_SOCKET")};
  if ((environment.memory_path == nullptr) != (environment.socket_path == nullptr)) {
    terminate(fmt::format("{} is not set", environment.memory_path == nullptr
                                               ? "THAW_QEMU_MEMORY"
                                               : "THAW_QEMU_SOCKET"));
  }
  return environment;
}

/// Whether the descriptor is the memory file; `status` is then the file's.
bool is_memory_file(int fd, const char* memory_path, struct stat& status) {
  struct stat wanted{};
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
  if (::stat(memory_path, &wanted) != 0) {
    // Before QEMU has created the file, no descriptor is that file.
    if (errno == ENOENT || errno == ENOTDIR) return false;
    terminate(fmt::format("{}: {}", memory_path, std::strerror(errno)));
  }
  return status.st_dev == wanted.st_dev && status.st_ino == wanted.st_ino;
}

/// The size of the pages that the file's mappings consist of.
thaw::ByteCount page_size_of(int fd, const char* memory_path) {
  struct statfs system{};
  if (::fstatfs(fd, &system) != 0) {
    terminate(fmt::format("{}: {}", memory_path, std::strerror(errno)));
  }
  if (system.f_type == TMPFS_MAGIC) return {thaw::kPageBytes};
  if (system.f_type != HUGETLBFS_MAGIC) {
    terminate(fmt::format("{} is neither on tmpfs nor on hugetlbfs", memory_path));
  }
  return {static_cast<std::uint64_t>(system.f_bsize)};  // register_regions() judges it
}

/// Refuses what would leave QEMU with memory that is not the snapshot's.
void check_mapping(const MapRequest& request, const struct stat& status, const char* memory_path) {
  if (request.offset != 0 || request.length != static_cast<std::uint64_t>(status.st_size)) {
    terminate(fmt::format("{} has {} bytes, but {} bytes at offset {} of it are mapped",
                          memory_path, status.st_size, request.length, request.offset));
  }
  // Pages that are in a file raise no fault. Behind a private mapping they are the handler's own;
  // in a shared one they are what an earlier guest has left.
  if ((request.flags & MAP_TYPE) != MAP_PRIVATE && status.st_blocks != 0) {
    terminate(fmt::format("{} holds content already; a restore needs an empty file", memory_path));
  }
  if (was_handed_over.test_and_set()) {
    terminate(fmt::format("{} is mapped a second time", memory_path));
  }
}

void hand_over(void* at, const MapRequest& request, const Environment& environment) {
  // SAFETY: an address as a number, for the kernel.
  const thaw::HostAddress base{reinterpret_cast<std::uint64_t>(at)};
  const std::array regions{thaw::MappedRegion{
      base, {request.length}, page_size_of(request.fd, environment.memory_path)}};
  auto registered = thaw::MissingMemory::register_regions(regions);
  if (!registered) terminate(registered.error().message());
  const auto deadline = thaw::Deadline::after(thaw::limits::kPartialMessageTimeout);
  const auto sent = registered->hand_over(environment.socket_path, deadline);
  if (!sent) terminate(sent.error().message());
  // Never destroyed: vCPUs may touch memory until the process has ended, exit handlers included.
  [[maybe_unused]] static thaw::MissingMemory* const kept =
      std::make_unique<thaw::MissingMemory>(*std::move(registered)).release();
}

/// mmap as QEMU sees it. The border to C: nothing is thrown across it.
void* map_and_hand_over(const MapRequest& request) noexcept {
  if ((request.flags & MAP_ANONYMOUS) != 0 || request.fd < 0) return map(request);
  const int saved_errno = errno;
  const Environment environment = read_environment();
  struct stat status{};
  const bool matches = environment.memory_path != nullptr &&
                       is_memory_file(request.fd, environment.memory_path, status);
  errno = saved_errno;
  if (!matches) return map(request);
  check_mapping(request, status, environment.memory_path);
  void* const at = map(request);
  if (at == MAP_FAILED)
    terminate(fmt::format("mmap of {}: {}", environment.memory_path, std::strerror(errno)));
  hand_over(at, request, environment);
  errno = saved_errno;
  return at;
}

[[gnu::constructor]] void prepare() {
  // SAFETY: POSIX lets dlsym's object pointer be a function; this one has mmap's type.
  next_mmap.store(reinterpret_cast<MapFunction>(::dlsym(RTLD_NEXT, "mmap")),
                  std::memory_order_release);
  read_environment();  // a missing variable is found before QEMU has done anything
}

}  // namespace

extern "C" {

void* mmap(void* address, std::size_t length, int protection, int flags, int fd,
           off_t offset) noexcept {
  return map_and_hand_over({address, length, protection, flags, fd, offset});
}

void* mmap64(void* address, std::size_t length, int protection, int flags, int fd,
             off64_t offset) noexcept {
  return map_and_hand_over({address, length, protection, flags, fd, offset});
}

}  // extern "C"
