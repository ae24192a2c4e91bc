// What the simulation puts in the place of the operating system. Functions of base/ that are
// defined here are linked instead of base/'s own; if the code under test calls one more of the same
// file, the linker finds the others twice, and that one has to be added. __wrap_ functions are
// called where the code under test calls a function of the C or C++ library (CMakeLists.txt names
// them), and go on to the real one for whatever does not belong to the simulation.

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <mutex>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mapping.h"
#include "base/memory_file.h"
#include "base/memory_limits.h"
#include "base/process_exit.h"
#include "base/socket.h"
#include "base/unique_fd.h"
#include "base/userfaultfd.h"
#include "base/vcpu_activity.h"
#include "faulthandler/copy_gate.h"
#include "format/page_client.h"
#include "tests/sim/machine.h"
#include "tests/sim/memory_file.h"
#include "tests/sim/network.h"
#include "tests/sim/unix_socket.h"
#include "tests/sim/userfaultfd.h"

namespace thaw {

using sim::Machine;

// base/unique_fd.h

void UniqueFd::reset() noexcept {
  const int fd = std::exchange(fd_, -1);
  if (fd >= Machine::kFirstDescriptor) return Machine::current().close(fd);
  if (fd >= 0) ::close(fd);
}

// base/clock.h

int Deadline::milliseconds_left() const {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(when_ - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1 << 30));
}

std::uint64_t unix_milliseconds() {
  return static_cast<std::uint64_t>(Clock::now().time_since_epoch().count()) / 1'000'000;
}

// base/log.h

void log_line(LogLevel, std::string_view line) {
  Machine::current().schedule().note("log: {}", line);
}
void log_line(LogLevel level, const LogKind&, std::string_view line) { log_line(level, line); }
void log_last_words(std::string_view line) noexcept { fmt::print(stderr, "{}\n", line); }

// base/socket.h

bool TcpAddress::is_loopback() const { return true; }
std::string TcpAddress::text() const { return "simulated"; }

Result<UniqueFd> create_tcp_socket(const TcpAddress&) {
  return UniqueFd(Machine::current().open_tcp_socket());
}

std::size_t send_at_once(const UniqueFd& socket, ByteSpan bytes) {
  const int sent = Machine::current().file(socket.get())->send(bytes).value_or(0);
  return sent > 0 ? static_cast<std::size_t>(sent) : 0;
}

void shut_down(const UniqueFd& socket) {
  const auto connection = Machine::current().file_as<sim::Connection>(socket.get());
  if (connection != nullptr) connection->shut_down();
}

Result<UniqueFd> accept_connection(const UniqueFd& listener, Deadline) {
  Machine& machine = Machine::current();
  auto socket = machine.file_as<sim::UnixListener>(listener.get())->accept();
  if (socket == nullptr) return fail(ErrorCode::kTimeout, "nobody connected");
  return UniqueFd(machine.open(std::move(socket)));
}

BootTime boot_time() { return BootTime(0); }

Result<PeerProcess> peer_process(const UniqueFd& socket, BootTime) {
  Machine& machine = Machine::current();
  auto process = machine.file_as<sim::UnixSocket>(socket.get())->process();
  return PeerProcess{.pid = sim::Process::kPid,
                     .pidfd = UniqueFd(machine.open(std::move(process))),
                     .user = sim::Process::kUser,
                     .found_by = PeerFoundBy::kSocket};
}

Result<UniqueFd> hold_descriptors(std::span<const UniqueFd>) {
  return fail(ErrorCode::kUnsupported, "no simulated VMM has two userfaultfds");
}

bool is_own_or_root(uid_t user) { return user != sim::Process::kUser; }

bool is_pidfd_of_unseen_process(const UniqueFd&) { return false; }

Result<std::optional<Received>> receive_with_descriptors(const UniqueFd& socket,
                                                         MutableByteSpan to) {
  Machine& machine = Machine::current();
  machine.may_die();
  auto message = machine.file_as<sim::MessageReceiver>(socket.get())->take(to.size());
  machine.may_die();
  if (!message) return std::unexpected(message.error());
  if (!*message) return std::optional<Received>();
  std::ranges::copy((*message)->bytes, to.begin());
  Received received;
  received.bytes = (*message)->bytes.size();
  for (auto& file : (*message)->files) received.descriptors.emplace_back(machine.open(file));
  return std::optional(std::move(received));
}

Result<std::optional<std::size_t>> peek(const UniqueFd& socket, MutableByteSpan to) {
  return Machine::current().file_as<sim::UnixSocket>(socket.get())->peek(to);
}

Result<void> send_with_descriptors(const UniqueFd& socket, ByteSpan bytes,
                                   std::span<const int> descriptors, Deadline) {
  Machine& machine = Machine::current();
  machine.may_die();
  sim::Message message{{bytes.begin(), bytes.end()}, {}};
  for (const int fd : descriptors) message.files.push_back(machine.pass(fd));
  auto sent = machine.file_as<sim::MessageReceiver>(socket.get())->send_message(std::move(message));
  machine.may_die();
  return sent;
}

Result<MessagePair> create_message_pair() {
  Machine& machine = Machine::current();
  const auto [ours, theirs] = sim::MessageSocket::make_pair(machine);
  return MessagePair{UniqueFd(machine.open(ours)), UniqueFd(machine.open(theirs))};
}

Result<void> kill_process(const UniqueFd& pidfd) {
  Machine::current().file_as<sim::Process>(pidfd.get())->kill();
  return {};
}

Result<void> wait_for_exit(const UniqueFd& pidfd, Deadline deadline) {
  const auto process = Machine::current().file_as<sim::Process>(pidfd.get());
  if (!deadline.passed()) process->die();
  if (process->ready() != 0) return {};
  return fail(ErrorCode::kTimeout, "the process did not exit");
}

// base/process_exit.h

std::optional<ExitStatus> exit_status(const UniqueFd&, pid_t) { return ExitStatus{}; }

// base/vcpu_activity.h

VcpuActivity vcpu_activity(pid_t) { return VcpuActivity::kHasRun; }

// base/memory_limits.h

std::string_view memory_limit_name(MemoryLimit::Of) { return "memory"; }

BackingFile backing_file_of(pid_t, std::span<const HostAddress>, const std::string&) { return {}; }

MemoryLimits MemoryLimits::of_process(pid_t pid, std::shared_ptr<const BackingFile> file,
                                      std::string proc) {
  return {pid, std::move(file), std::move(proc)};
}

/// Now and then there is too little for what no vCPU waits for.
std::vector<MemoryLimit> MemoryLimits::read() const {
  constexpr ByteCount kMost{1u << 30};
  const bool is_short = Machine::current().random().chance(50);
  return {{MemoryLimit::Of::kHost, kMost, is_short ? ByteCount{0} : kMost}};
}

// format/page_client.h: of a page server's hashes no simulated restore is checked.

Result<std::span<const Sha256>> PageClient::page_hashes(SnapshotId, std::uint32_t, PageCount) {
  return fail(ErrorCode::kUnsupported, "no simulated page server has hashes");
}

// base/memory_file.h

/// A host image's is of the simulation; records, which processes leave to one another, are real.
Result<UniqueFd> create_memory_file(const std::string& what, ByteCount size) {
  if (what.starts_with("thaw:")) {
    return UniqueFd(Machine::current().open_memory_file());
  }
  UniqueFd file(::memfd_create(what.c_str(), MFD_CLOEXEC));
  CHECK(file.valid() && ::ftruncate(file.get(), static_cast<off_t>(size.value)) == 0);
  return file;
}

Result<UniqueFd> seal_memory_file(const UniqueFd& file) {
  return UniqueFd(Machine::current().open(Machine::current().file(file.get())));
}

Result<ByteCount> allocated_bytes(const UniqueFd& file) {
  return Machine::current().file_as<sim::MemoryFile>(file.get())->allocated();
}

}  // namespace thaw

extern "C" {

using thaw::sim::Machine;

// The names are the linker's.
std::chrono::steady_clock::time_point __wrap__ZNSt6chrono3_V212steady_clock3nowEv();
std::chrono::steady_clock::time_point __real__ZNSt6chrono3_V212steady_clock3nowEv();
std::chrono::steady_clock::time_point __wrap__ZNSt6chrono3_V212steady_clock3nowEv() {
  Machine* const machine = Machine::find_current();
  return machine != nullptr ? machine->schedule().now()
                            : __real__ZNSt6chrono3_V212steady_clock3nowEv();
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (fd < Machine::kFirstDescriptor) return __real_ioctl(fd, request, argument);
  const auto userfaultfd = Machine::current().file_as<thaw::sim::Userfaultfd>(fd);
  if (userfaultfd == nullptr) {
    errno = EBADF;
    return -1;
  }
  Machine::current().may_die();
  const int status = userfaultfd->control(request, argument);
  const int error = errno;
  Machine::current().may_die();
  errno = error;
  return status;
}

ssize_t __real_preadv2(int fd, const iovec* to, int count, off_t offset, int flags);
ssize_t __wrap_preadv2(int fd, const iovec* to, int count, off_t offset, int flags);
ssize_t __wrap_preadv2(int fd, const iovec* to, int count, off_t offset, int flags) {
  if (fd < Machine::kFirstDescriptor) return __real_preadv2(fd, to, count, offset, flags);
  const auto userfaultfd = Machine::current().file_as<thaw::sim::Userfaultfd>(fd);
  CHECK(userfaultfd != nullptr && count == 1);
  // SAFETY: the one caller reads messages of a userfaultfd.
  const auto done =
      userfaultfd->read({static_cast<uffd_msg*>(to->iov_base), to->iov_len / sizeof(uffd_msg)});
  const int error = errno;
  Machine::current().may_die();
  errno = error;
  return done;
}

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (fd < Machine::kFirstDescriptor) return __real_fcntl(fd, command, argument);
  if (command == F_DUPFD_CLOEXEC) return Machine::current().open(Machine::current().file(fd));
  return O_NONBLOCK;  // the flags, which nobody changes here
}

// thaw::create_filling_userfaultfd(), which the handler needs for the memory file alone.
thaw::Result<thaw::UniqueFd> __wrap__ZN4thaw26create_filling_userfaultfdEv();
thaw::Result<thaw::UniqueFd> __wrap__ZN4thaw26create_filling_userfaultfdEv() {
  Machine& machine = Machine::current();
  const auto file = std::dynamic_pointer_cast<thaw::sim::MemoryFile>(machine.memory_file());
  return thaw::UniqueFd(machine.open(std::make_shared<thaw::sim::Userfaultfd>(
      machine, file->memory(), thaw::sim::Userfaultfd::Owner::kHandler)));
}

// thaw::Mapping::shared(const UniqueFd&, ByteCount), whose bytes the handler reads.
thaw::Result<thaw::Mapping> __real__ZN4thaw7Mapping6sharedERKNS_8UniqueFdENS_5CountINS_7ByteTagEEE(
    const thaw::UniqueFd& file, thaw::ByteCount size);
thaw::Result<thaw::Mapping> __wrap__ZN4thaw7Mapping6sharedERKNS_8UniqueFdENS_5CountINS_7ByteTagEEE(
    const thaw::UniqueFd& file, thaw::ByteCount size);
thaw::Result<thaw::Mapping> __wrap__ZN4thaw7Mapping6sharedERKNS_8UniqueFdENS_5CountINS_7ByteTagEEE(
    const thaw::UniqueFd& file, thaw::ByteCount size) {
  if (file.get() < Machine::kFirstDescriptor) {
    return __real__ZN4thaw7Mapping6sharedERKNS_8UniqueFdENS_5CountINS_7ByteTagEEE(file, size);
  }
  auto mapping = thaw::Mapping::anonymous(size);
  Machine::current().file_as<thaw::sim::MemoryFile>(file.get())->map(mapping->address());
  return mapping;
}

// thaw::Mapping::private_file(const UniqueFd&, ByteCount), in which a handler looks at the image of
// one that has died.
thaw::Result<thaw::Mapping>
__real__ZN4thaw7Mapping12private_fileERKNS_8UniqueFdENS_5CountINS_7ByteTagEEE(
    const thaw::UniqueFd& file, thaw::ByteCount size);
thaw::Result<thaw::Mapping>
__wrap__ZN4thaw7Mapping12private_fileERKNS_8UniqueFdENS_5CountINS_7ByteTagEEE(
    const thaw::UniqueFd& file, thaw::ByteCount size);
thaw::Result<thaw::Mapping>
__wrap__ZN4thaw7Mapping12private_fileERKNS_8UniqueFdENS_5CountINS_7ByteTagEEE(
    const thaw::UniqueFd& file, thaw::ByteCount size) {
  if (file.get() < Machine::kFirstDescriptor) {
    return __real__ZN4thaw7Mapping12private_fileERKNS_8UniqueFdENS_5CountINS_7ByteTagEEE(file,
                                                                                         size);
  }
  auto mapping = thaw::Mapping::anonymous(size);
  Machine::current().file_as<thaw::sim::MemoryFile>(file.get())->copy_to(mapping->bytes());
  return mapping;
}

off_t __real_lseek(int fd, off_t offset, int whence);
off_t __wrap_lseek(int fd, off_t offset, int whence);
off_t __wrap_lseek(int fd, off_t offset, int whence) {
  if (fd < Machine::kFirstDescriptor) return __real_lseek(fd, offset, whence);
  const auto next = Machine::current().file_as<thaw::sim::MemoryFile>(fd)->seek(offset, whence);
  if (!next) errno = ENXIO;
  return next.value_or(-1);
}

// thaw::check_userfaultfd(const UniqueFd&), which reads /proc.
thaw::Result<void> __wrap__ZN4thaw17check_userfaultfdERKNS_8UniqueFdE(const thaw::UniqueFd& fd);
thaw::Result<void> __wrap__ZN4thaw17check_userfaultfdERKNS_8UniqueFdE(const thaw::UniqueFd& fd) {
  if (Machine::current().file_as<thaw::sim::Userfaultfd>(fd.get()) != nullptr) return {};
  return thaw::fail(thaw::ErrorCode::kNotUserfaultfd, "the descriptor is something else");
}

// thaw::remove_events_of(const UniqueFd&), the same. The simulated ones tell of all.
thaw::Result<thaw::RemoveEvents> __wrap__ZN4thaw16remove_events_ofERKNS_8UniqueFdE(
    const thaw::UniqueFd& fd);
thaw::Result<thaw::RemoveEvents> __wrap__ZN4thaw16remove_events_ofERKNS_8UniqueFdE(
    const thaw::UniqueFd&) {
  return thaw::RemoveEvents::kReported;
}

// Threads take turns where they would meet: before and after each entry into the gate, in the
// midst of a copy, and where one waits for another.

bool __real__ZN4thaw8CopyGate5enterEm(thaw::CopyGate* gate, std::uint64_t decided);
bool __wrap__ZN4thaw8CopyGate5enterEm(thaw::CopyGate* gate, std::uint64_t decided);
bool __wrap__ZN4thaw8CopyGate5enterEm(thaw::CopyGate* gate, std::uint64_t decided) {
  Machine::current().may_switch();
  return __real__ZN4thaw8CopyGate5enterEm(gate, decided);
}

void __real__ZN4thaw8CopyGate5leaveEv(thaw::CopyGate* gate);
void __wrap__ZN4thaw8CopyGate5leaveEv(thaw::CopyGate* gate);
void __wrap__ZN4thaw8CopyGate5leaveEv(thaw::CopyGate* gate) {
  Machine::current().may_switch();
  __real__ZN4thaw8CopyGate5leaveEv(gate);
}

// std::condition_variable::wait(std::unique_lock<std::mutex>&)
void __wrap__ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(
    std::condition_variable*, std::unique_lock<std::mutex>* lock);
void __wrap__ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(
    std::condition_variable*, std::unique_lock<std::mutex>* lock) {
  lock->unlock();
  Machine::current().wait_for_others();
  lock->lock();
}

}  // extern "C"
