/// thaw-qemu.so, loaded into an unmodified QEMU by LD_PRELOAD. When QEMU maps the file of its
/// memory-backend-file, the mapping is registered as missing memory and handed over to a fault
/// handler before QEMU sees its address.
///
/// THAW_QEMU_MEMORY  path of that file; on tmpfs or on hugetlbfs with 2 MiB pages
/// THAW_QEMU_SOCKET  path of the prepared session's socket
/// THAW_QEMU_SHARED  1: the session is a shared one. The host's image is mapped in the place of the
///                   file, privately whatever QEMU asks for; the file stays empty
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
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

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
using AdviseFunction = int (*)(void*, std::size_t, int);

constexpr int kDontNeedLocked = 24;  // MADV_DONTNEED_LOCKED of Linux 5.18

// Set before main() by prepare(). A mapping made even earlier goes to the kernel directly.
constinit std::atomic<MapFunction> next_mmap = nullptr;
constinit std::atomic<AdviseFunction> next_madvise = nullptr;
constinit std::atomic_flag was_handed_over = ATOMIC_FLAG_INIT;

/// What was handed over. Never destroyed: vCPUs may touch memory until the process has ended, exit
/// handlers included.
struct Handover {
  std::uint64_t begin;
  std::uint64_t end;
  thaw::MissingMemory memory;
  std::mutex discarding;
};
constinit std::atomic<Handover*> handover = nullptr;

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
  bool shared;
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
  const char* const shared = std::getenv("THAW_QEMU_SHARED");
  const Environment environment{std::getenv("THAW_QEMU_MEMORY"), std::getenv("THAW_QEMU_SOCKET"),
                                shared != nullptr && std::strcmp(shared, "1") == 0};
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

/// The value, or the end of the process.
template <typename T>
T require(thaw::Result<T> result) {
  if (!result) terminate(result.error().message());
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

void* map_or_terminate(const MapRequest& request, const Environment& environment) {
  void* const at = map(request);
  if (at != MAP_FAILED) return at;
  terminate(fmt::format("mmap of {}: {}", environment.memory_path, std::strerror(errno)));
}

thaw::MissingMemory register_memory(void* at, const MapRequest& request,
                                    thaw::ByteCount page_size) {
  // SAFETY: an address as a number, for the kernel.
  const thaw::HostAddress base{reinterpret_cast<std::uint64_t>(at)};
  const std::array regions{thaw::MappedRegion{base, {request.length}, page_size}};
  return require(thaw::MissingMemory::register_regions(regions));
}

void keep(void* at, std::size_t length, thaw::MissingMemory memory) {
  const auto begin = reinterpret_cast<std::uint64_t>(at);
  auto kept = std::make_unique<Handover>(begin, begin + length, std::move(memory));
  handover.store(kept.release(), std::memory_order_release);
}

thaw::Deadline deadline() { return thaw::Deadline::after(thaw::limits::kPartialMessageTimeout); }

void* map_own(const MapRequest& request, const Environment& environment) {
  void* const at = map_or_terminate(request, environment);
  auto memory = register_memory(at, request, page_size_of(request.fd, environment.memory_path));
  require(memory.hand_over(environment.socket_path, deadline()));
  keep(at, request.length, std::move(memory));
  return at;
}

void* map_image(MapRequest request, const Environment& environment) {
  auto session = require(thaw::SharedSession::open(environment.socket_path, deadline()));
  if (session.size.value != request.length) {
    terminate(
        fmt::format("{} bytes of memory, an image of {}", request.length, session.size.value));
  }
  const int protection = std::exchange(request.protection, PROT_NONE);
  request.fd = session.image.get();
  request.flags = (request.flags & ~(MAP_TYPE | MAP_POPULATE)) | MAP_PRIVATE | MAP_NORESERVE;
  void* const at = map_or_terminate(request, environment);
  auto memory = register_memory(at, request, {thaw::kPageBytes});
  require(memory.hand_over(std::move(session), deadline()));
  // SAFETY: the mapping has just been made, by nobody else.
  if (::mprotect(at, request.length, protection) != 0) {
    terminate(fmt::format("mprotect: {}", std::strerror(errno)));
  }
  keep(at, request.length, std::move(memory));
  return at;
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
  void* const at =
      environment.shared ? map_image(request, environment) : map_own(request, environment);
  errno = saved_errno;
  return at;
}

/// madvise as QEMU sees it: what it gives back must not show the image.
int expect_and_advise(void* at, std::size_t length, int advice) noexcept {
  const AdviseFunction next = next_madvise.load(std::memory_order_acquire);
  Handover* const kept = handover.load(std::memory_order_acquire);
  const auto begin = reinterpret_cast<std::uint64_t>(at);
  const bool ours = kept != nullptr && begin < kept->end && begin + length > kept->begin;
  // Huge pages would put zeros where pages are missing.
  if (ours && advice == MADV_HUGEPAGE) return 0;
  const bool gives_back = advice == MADV_DONTNEED || advice == kDontNeedLocked ||
                          advice == MADV_REMOVE || advice == MADV_FREE;
  if (ours && gives_back) {
    const std::lock_guard lock(kept->discarding);
    require(kept->memory.expect_discards());
  }
  if (next != nullptr) return next(at, length, advice);
  // SAFETY: madvise(2) itself.
  return static_cast<int>(::syscall(SYS_madvise, at, length, advice));
}

[[gnu::constructor]] void prepare() {
  // SAFETY: POSIX lets dlsym's object pointer be a function; this one has mmap's type.
  next_mmap.store(reinterpret_cast<MapFunction>(::dlsym(RTLD_NEXT, "mmap")),
                  std::memory_order_release);
  // SAFETY: the same, for madvise.
  next_madvise.store(reinterpret_cast<AdviseFunction>(::dlsym(RTLD_NEXT, "madvise")),
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

int madvise(void* address, std::size_t length, int advice) noexcept {
  return expect_and_advise(address, length, advice);
}

}  // extern "C"
