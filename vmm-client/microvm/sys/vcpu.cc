#include "vmm-client/microvm/sys/vcpu.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <utility>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include "vmm-client/microvm/payload/parameters.h"

namespace thaw {

namespace {

constexpr int kStopSignal = SIGUSR1;

}  // namespace

Result<void> allow_stop_signal() {
  struct sigaction action{};
  action.sa_handler = [](int) {};  // without SA_RESTART: it interrupts KVM_RUN
  if (::sigaction(kStopSignal, &action, nullptr) != 0) return fail_errno("sigaction");
  return {};
}

Result<Vcpu> Vcpu::create(const Kvm& kvm, const UniqueFd& vm, std::size_t number) {
  UniqueFd fd(
      TRY(kvm_call(vm, KVM_CREATE_VCPU, static_cast<unsigned long>(number), "KVM_CREATE_VCPU")));
  const std::size_t bytes = kvm.run_bytes();
  void* const shared = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (shared == MAP_FAILED) return fail_errno("map a vCPU's structure");
  return Vcpu(number, std::move(fd), static_cast<kvm_run*>(shared), bytes);
}

Vcpu::Vcpu(Vcpu&& other) noexcept
    : number_(other.number_),
      fd_(std::move(other.fd_)),
      shared_(std::exchange(other.shared_, nullptr)),
      shared_bytes_(other.shared_bytes_) {}

Vcpu::~Vcpu() {
  if (shared_ != nullptr) ::munmap(shared_, shared_bytes_);
}

void Vcpu::request_stop(pthread_t thread) {
  // In this order: a thread that the signal meets before KVM_RUN finds the flag there.
  std::atomic_ref(shared_->immediate_exit).store(1);
  ::pthread_kill(thread, kStopSignal);
}

void Vcpu::clear_stop() { std::atomic_ref(shared_->immediate_exit).store(0); }

bool Vcpu::stop_requested() const { return std::atomic_ref(shared_->immediate_exit).load() != 0; }

Result<VcpuEnd> Vcpu::run(VcpuPorts& ports) {
  while (true) {
    // KVM completes the port access that it told of last before it looks at anything else, so
    // where it says EINTR none is under way.
    if (::ioctl(fd_.get(), KVM_RUN, 0) < 0) {
      if (errno == EINTR && stop_requested()) return VcpuEnd{VcpuEnd::Reason::kStopped};
      if (errno == EINTR || errno == EAGAIN) continue;
      return fail_errno(fmt::format("run vCPU {}", number_));
    }
    if (shared_->exit_reason == KVM_EXIT_INTR) continue;
    if (shared_->exit_reason != KVM_EXIT_IO) return std::unexpected(broken_down());
    if (const auto end = handle_port(ports)) return *end;
  }
}

std::optional<VcpuEnd> Vcpu::handle_port(VcpuPorts& ports) {
  const auto& access = shared_->io;
  const std::size_t size = std::size_t{access.size} * access.count;
  if (!within(access.data_offset, size, shared_bytes_)) return std::nullopt;
  // SAFETY: KVM has put the data there, behind its structure in the same mapping.
  auto* const at = reinterpret_cast<std::byte*>(shared_) + access.data_offset;
  if (access.direction == KVM_EXIT_IO_IN) {
    std::memset(at, 0xff, size);  // nobody is there
  } else if (access.port == payload::kSerialPort && access.size == 1) {
    ports.on_serial(number_, {at, size});
  } else if (access.port == payload::kExitPort && access.size == sizeof(std::uint32_t)) {
    return VcpuEnd{VcpuEnd::Reason::kExited, load_le<std::uint32_t>(at)};
  }
  return std::nullopt;
}

Error Vcpu::broken_down() const {
  kvm_regs registers{};
  const auto got = kvm_call(fd_, KVM_GET_REGS, &registers, "KVM_GET_REGS");
  return {ErrorCode::kIo,
          fmt::format("vCPU {} broke down at {:#x}: KVM's exit reason {}", number_,
                      got ? std::uint64_t{registers.rip} : 0, std::uint32_t{shared_->exit_reason})};
}

}  // namespace thaw
