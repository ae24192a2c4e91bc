/// thaw-qemu.so, loaded into an unmodified QEMU by LD_PRELOAD. When QEMU maps its guest memory, the
/// mapping is registered as missing memory and handed over to a fault handler before QEMU sees its
/// address. Guest memory is the file of a memory-backend-file, or a memory-backend-memfd.
///
/// THAW_QEMU_MEMORY  path of that file; on tmpfs or on hugetlbfs with 2 MiB pages. Or `memfd`: the
///                   memory is a memory-backend-memfd, which is recognised by its name
/// THAW_QEMU_SOCKET  path of the prepared session's socket
/// THAW_QEMU_SHARED  1: the session is a shared one. The host's image is mapped in the place of the
///                   file, privately whatever QEMU asks for; the file stays empty
///
/// A guest must never run on memory that is not served: every failure ends the process with one
/// line on stderr and exit code 1. So does a guest that could run before a handover: at the first
/// turn of the main loop of a process that emulates a machine, before it becomes a daemon, and at
/// each KVM_RUN. Such a process
/// has made a VM of KVM, or memory for translated code. Others are left alone, so children that
/// inherit the environment (the shell of an exec: migration, QEMU's helpers) are too.
///
/// Migration with x-ignore-shared leaves out all shared memory, and a session has one object of it.
/// So QEMU also ends if it has shared memory beside that. What is plugged in later is new memory.
///
/// Any thread may map. Nothing here maps the file a second time, and anonymous mappings (those of
/// allocators) are passed on first of all, so the wrappers do not recurse.

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <dlfcn.h>
#include <fmt/core.h>
#include <linux/kvm.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
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
using ProtectFunction = int (*)(void*, std::size_t, int);
using ControlFunction = int (*)(int, unsigned long, ...);
using AcquireFunction = int (*)(void*);
using EnterFunction = int (*)(const char*);

constexpr int kDontNeedLocked = 24;  // MADV_DONTNEED_LOCKED of Linux 5.18

/// QEMU's smallest memory for translated code, and less than any guest's memory.
constexpr std::size_t kLeastMemory = 1u << 20;

constexpr std::string_view kMemfd = "memfd";  // as the value of THAW_QEMU_MEMORY
/// What the kernel calls the memory of a memory-backend-memfd (QEMU's backends/hostmem-memfd.c).
constexpr std::string_view kMemfdLink = "/memfd:memory-backend-memfd (deleted)";

// Set before main() by prepare(). A call made even earlier goes to the kernel directly.
constinit std::atomic<MapFunction> next_mmap = nullptr;
constinit std::atomic<AdviseFunction> next_madvise = nullptr;
constinit std::atomic<ProtectFunction> next_mprotect = nullptr;
constinit std::atomic<ControlFunction> next_ioctl = nullptr;
constinit std::atomic<AcquireFunction> next_acquire = nullptr;
constinit std::atomic<EnterFunction> next_chdir = nullptr;

constinit std::atomic<bool> emulates = false;       // this process emulates a machine
constinit std::atomic<bool> guest_may_run = false;  // its memory was handed over
constinit std::atomic_flag was_mapped = ATOMIC_FLAG_INIT;

/// Memory that was mapped and not handed over, for require_handover() to judge.
struct OtherMemory {
  std::mutex mutex;
  std::string any;     // looks like guest memory
  std::string shared;  // would be left out of a migration
};
OtherMemory& other_memory() {
  static auto& memory = *std::make_unique<OtherMemory>().release();
  return memory;
}
constinit std::atomic<std::size_t> shared_anonymous = 0;  // bytes

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

/// A misspelt variable must not be an absent one.
void check_names() {
  for (char** each = environ; *each != nullptr; ++each) {
    const std::string_view name(*each, std::strcspn(*each, "="));
    if (!name.starts_with("THAW_QEMU_") || name == "THAW_QEMU_MEMORY" ||
        name == "THAW_QEMU_SOCKET" || name == "THAW_QEMU_SHARED") {
      continue;
    }
    terminate(
        fmt::format("{} is none of THAW_QEMU_MEMORY, THAW_QEMU_SOCKET, THAW_QEMU_SHARED", name));
  }
}

/// Both paths, or none: then this process must not run a guest.
Environment read_environment() {
  const char* const set = std::getenv("THAW_QEMU_SHARED");
  const std::string_view shared = set != nullptr ? set : "";
  if (shared != "" && shared != "0" && shared != "1") {
    terminate(fmt::format("THAW_QEMU_SHARED is {}, not 0 or 1", shared));
  }
  const Environment environment{std::getenv("THAW_QEMU_MEMORY"), std::getenv("THAW_QEMU_SOCKET"),
                                shared == "1"};
  if ((environment.memory_path == nullptr) != (environment.socket_path == nullptr)) {
    terminate(fmt::format("{} is not set", environment.memory_path == nullptr
                                               ? "THAW_QEMU_MEMORY"
                                               : "THAW_QEMU_SOCKET"));
  }
  return environment;
}

/// What /proc calls an open file: its path, or for a memfd "/memfd:NAME (deleted)".
std::string link_of(int fd) {
  std::array<char, 4096> target;
  const ssize_t size =
      ::readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), target.data(), target.size());
  return {target.data(), size > 0 ? static_cast<std::size_t>(size) : 0};
}

/// Whether the descriptor is guest memory; `status` is then the file's. A file is known by device
/// and inode, however QEMU has come to it.
bool is_guest_memory(int fd, const char* memory_path, struct stat& status) {
  struct stat wanted{};
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
  if (status.st_nlink == 0 && link_of(fd) == kMemfdLink) return true;
  if (memory_path == kMemfd) return false;
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
  if (was_mapped.test_and_set()) {
    terminate(
        fmt::format("{} is mapped a second time, or there is a second memory object", memory_path));
  }
}

/// Looks at a file that is not the memory file.
void note_other_memory(const MapRequest& request, const struct stat& status) {
  struct statfs system{};
  if (request.length < kLeastMemory || (request.protection & PROT_WRITE) == 0) return;
  if (!S_ISREG(status.st_mode) || ::fstatfs(request.fd, &system) != 0) return;
  const bool in_memory = system.f_type == TMPFS_MAGIC || system.f_type == HUGETLBFS_MAGIC;
  const std::string link = link_of(request.fd);
  // Other memfds are QEMU's own: code buffers, logs of vhost.
  if (!in_memory || link.starts_with("/memfd:")) return;
  const std::string text = fmt::format("{} of {} bytes", link, request.length);
  const bool shared = (request.flags & MAP_TYPE) != MAP_PRIVATE;
  OtherMemory& other = other_memory();
  const std::lock_guard lock(other.mutex);
  other.any = text;
  // One that holds something is a device's, such as memory that several VMs share.
  if (shared && status.st_blocks == 0) other.shared = text;
}

/// A guest is about to run.
void require_handover() {
  if (guest_may_run.load(std::memory_order_acquire)) return;
  const Environment environment = read_environment();
  if (environment.memory_path == nullptr) {
    terminate(
        "a guest is about to run, and its memory was not handed over: THAW_QEMU_MEMORY and "
        "THAW_QEMU_SOCKET are not set");
  }
  OtherMemory& other = other_memory();
  const std::lock_guard lock(other.mutex);
  if (handover.load(std::memory_order_acquire) == nullptr) {
    terminate(fmt::format(
        "a guest is about to run, and its memory was not handed over: QEMU has mapped neither "
        "{} (THAW_QEMU_MEMORY) nor a memory-backend-memfd{}",
        environment.memory_path, other.any.empty() ? "" : ", but " + other.any));
  }
  const std::size_t anonymous = shared_anonymous.load(std::memory_order_relaxed);
  if (anonymous != 0) other.shared = fmt::format("anonymous memory of {} bytes", anonymous);
  if (!other.shared.empty()) {
    terminate(fmt::format("there is shared memory beside {}: {}. A snapshot has one memory object",
                          environment.memory_path, other.shared));
  }
  guest_may_run.store(true, std::memory_order_release);
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

/// Maps without access: mlockall(MCL_FUTURE) would fill what is not registered yet with zeros.
void* map_unpopulated(MapRequest request, const Environment& environment) {
  request.protection = PROT_NONE;
  request.flags &= ~MAP_POPULATE;
  return map_or_terminate(request, environment);
}

void allow_access(void* at, const MapRequest& request) {
  // SAFETY: the mapping has just been made here.
  if (::mprotect(at, request.length, request.protection) != 0) {
    terminate(fmt::format("mprotect: {}", std::strerror(errno)));
  }
}

void* map_own(const MapRequest& request, const Environment& environment) {
  void* const at = map_unpopulated(request, environment);
  auto memory = register_memory(at, request, page_size_of(request.fd, environment.memory_path));
  require(memory.hand_over(environment.socket_path, deadline()));
  allow_access(at, request);
  keep(at, request.length, std::move(memory));
  return at;
}

void* map_image(MapRequest request, const Environment& environment) {
  auto session = require(thaw::SharedSession::open(environment.socket_path, deadline()));
  if (session.size.value != request.length) {
    terminate(
        fmt::format("{} bytes of memory, an image of {}", request.length, session.size.value));
  }
  request.fd = session.image.get();
  request.flags = (request.flags & ~MAP_TYPE) | MAP_PRIVATE | MAP_NORESERVE;
  void* const at = map_unpopulated(request, environment);
  auto memory = register_memory(at, request, {thaw::kPageBytes});
  require(memory.hand_over(std::move(session), deadline()));
  allow_access(at, request);
  keep(at, request.length, std::move(memory));
  return at;
}

/// Memory for translated code is that of an emulator. The loader does not come by here.
void note_code(std::size_t length, int protection) {
  if ((protection & PROT_EXEC) == 0 || length < kLeastMemory) return;
  emulates.store(true, std::memory_order_release);
}

/// mmap as QEMU sees it. The border to C: nothing is thrown across it.
void* map_and_hand_over(const MapRequest& request) noexcept {
  note_code(request.length, request.protection);
  if ((request.flags & MAP_ANONYMOUS) != 0 || request.fd < 0) {
    const bool shared = (request.flags & MAP_TYPE) != MAP_PRIVATE;
    const bool written = (request.protection & PROT_WRITE) != 0;
    if (shared && written && request.length >= kLeastMemory) shared_anonymous = request.length;
    return map(request);
  }
  const int saved_errno = errno;
  const Environment environment = read_environment();
  struct stat status{};
  bool matches = environment.memory_path != nullptr &&
                 is_guest_memory(request.fd, environment.memory_path, status);
  const bool plugged_in = guest_may_run.load(std::memory_order_acquire);
  // A memory-backend-memfd that is plugged into a running guest is new memory.
  if (matches && plugged_in && status.st_nlink == 0) matches = false;
  if (environment.memory_path != nullptr && !matches && !plugged_in) {
    note_other_memory(request, status);
  }
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

int note_and_protect(void* at, std::size_t length, int protection) noexcept {
  note_code(length, protection);
  const ProtectFunction next = next_mprotect.load(std::memory_order_acquire);
  if (next != nullptr) return next(at, length, protection);
  // SAFETY: mprotect(2) itself.
  return static_cast<int>(::syscall(SYS_mprotect, at, length, protection));
}

int check_and_control(int fd, unsigned long request, void* argument) noexcept {
  if (request == KVM_CREATE_VM) emulates.store(true, std::memory_order_release);
  if (request == KVM_RUN) require_handover();
  const ControlFunction next = next_ioctl.load(std::memory_order_acquire);
  if (next != nullptr) return next(fd, request, argument);
  // SAFETY: ioctl(2) itself.
  return static_cast<int>(::syscall(SYS_ioctl, fd, request, argument));
}

/// The main loop begins a turn, before it lets vCPUs have their lock (QEMU's util/main-loop.c).
int check_and_acquire(void* context) noexcept {
  if (emulates.load(std::memory_order_acquire)) require_handover();
  const AcquireFunction next = next_acquire.load(std::memory_order_acquire);
  if (next == nullptr) terminate("GLib has no g_main_context_acquire");
  return next(context);
}

/// With -daemonize QEMU does this once its machine is made, and then tells its caller that all is
/// well and closes stderr (os_setup_post() in os-posix.c). Later the failure could not be told.
int check_and_enter(const char* directory) noexcept {
  if (emulates.load(std::memory_order_acquire)) require_handover();
  const EnterFunction next = next_chdir.load(std::memory_order_acquire);
  if (next != nullptr) return next(directory);
  return static_cast<int>(::syscall(SYS_chdir, directory));
}

template <typename Function>
void find_next(const char* name, std::atomic<Function>& next) {
  // SAFETY: POSIX lets dlsym's object pointer be a function; `Function` is the type of that name.
  next.store(reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name)), std::memory_order_release);
}

[[gnu::constructor]] void prepare() {
  find_next("mmap", next_mmap);
  find_next("madvise", next_madvise);
  find_next("mprotect", next_mprotect);
  find_next("ioctl", next_ioctl);
  find_next("chdir", next_chdir);
  find_next("g_main_context_acquire", next_acquire);  // none in programs without GLib
  // What is misspelt or missing is found before QEMU has done anything.
  check_names();
  read_environment();
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

int mprotect(void* address, std::size_t length, int protection) noexcept {
  return note_and_protect(address, length, protection);
}

int ioctl(int fd, unsigned long request, ...) noexcept {
  std::va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  return check_and_control(fd, request, argument);
}

int chdir(const char* directory) noexcept { return check_and_enter(directory); }

/// GLib's, whose headers are not needed for it.
int g_main_context_acquire(void* context);
int g_main_context_acquire(void* context) { return check_and_acquire(context); }

}  // extern "C"
