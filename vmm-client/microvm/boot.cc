#include "vmm-client/microvm/boot.h"

#include <algorithm>

#include "base/check.h"
#include "vmm-client/microvm/limits.h"
#include "vmm-client/microvm/payload/parameters.h"
#include "vmm-client/microvm/payload_image.h"

namespace thaw {

namespace {

// Where things are in guest memory.
constexpr std::uint64_t kPageTables = 0x1000;  // one of level 4, one of level 3, then level 2
constexpr std::uint64_t kDescriptors = 0x8000;
constexpr std::uint64_t kTaskState = 0x9000;
constexpr std::uint64_t kParameters = 0xa000;
constexpr std::uint64_t kStacks = 0x10'0000 + payload::kMostBytes;
constexpr std::uint64_t kStackBytes = 64u << 10;
constexpr std::uint64_t kStructure = 2u << 20;

constexpr std::uint64_t kGib = 1u << 30;
constexpr std::uint64_t kEntriesPerTable = 512;
constexpr std::uint64_t kPresentWritableUser = 7;
constexpr std::uint64_t kLargePage = 1u << 7;

static_assert(kPageTables + (2 + limits::kMaxMicroVmMemory / kGib) * kPageBytes <= kDescriptors);
static_assert(payload::kLoadAddress == 0x10'0000);
static_assert(kStacks + limits::kMaxVcpus * kStackBytes <= kStructure);
static_assert(kStructure < limits::kMinMicroVmMemory);

// Selectors, and the segments in the descriptor table that they stand for.
constexpr std::uint16_t kRing3 = 3;
constexpr std::uint16_t kCode = 1 << 3 | kRing3;
constexpr std::uint16_t kData = 2 << 3 | kRing3;
constexpr std::uint16_t kTask = 3 << 3;
constexpr std::uint64_t kCodeDescriptor = 0x00af'fb00'0000'ffff;
constexpr std::uint64_t kDataDescriptor = 0x00cf'f300'0000'ffff;
constexpr std::uint64_t kDescriptorTableBytes = std::uint64_t{5} * 8;

/// A 64-bit task state segment: 104 bytes, then a bit for each port, set where ring 3 must not use
/// it, then a byte that the processor may read too.
constexpr std::uint64_t kTaskStateHeader = 104;
constexpr std::uint64_t kPortBitmapAt = 102;
constexpr std::uint64_t kPortBitmapBytes = 1024 / 8;
constexpr std::uint64_t kTaskStateBytes = kTaskStateHeader + kPortBitmapBytes + 1;

// Bits of control registers and of EFER.
constexpr std::uint64_t kCr0 =
    1u << 31 | 1u << 16 | 1u << 5 | 1u << 4 | 1u << 1 | 1u;   // PG, PE ...
constexpr std::uint64_t kCr4 = 1u << 10 | 1u << 9 | 1u << 5;  // OSXMMEXCPT, OSFXSR, PAE
constexpr std::uint64_t kEfer = 1u << 10 | 1u << 8 | 1u;      // LMA, LME, SCE
constexpr std::uint64_t kRflags = 1u << 1;

template <typename T>
void put(MutableByteSpan memory, std::uint64_t at, T value) {
  CHECK(within(at, sizeof(T), memory.size()));
  store_le(memory.data() + at, value);
}

void write_page_tables(MutableByteSpan memory) {
  const std::uint64_t level3 = kPageTables + kPageBytes;
  const std::uint64_t level2 = level3 + kPageBytes;
  put(memory, kPageTables, level3 | kPresentWritableUser);
  for (std::uint64_t at = 0; at < memory.size(); at += kHugePageBytes) {
    const std::uint64_t page = at / kHugePageBytes;
    const std::uint64_t table = page / kEntriesPerTable;
    put(memory, level3 + table * 8, (level2 + table * kPageBytes) | kPresentWritableUser);
    put(memory, level2 + page * 8, at | kLargePage | kPresentWritableUser);
  }
}

void write_segments(MutableByteSpan memory) {
  put(memory, kDescriptors + (kCode & ~kRing3), kCodeDescriptor);
  put(memory, kDescriptors + (kData & ~kRing3), kDataDescriptor);
  const std::uint64_t limit = kTaskStateBytes - 1;
  const std::uint64_t task_descriptor = limit | kTaskState << 16 | std::uint64_t{0x8b} << 40;
  put(memory, kDescriptors + kTask, task_descriptor);
  put(memory, kTaskState + kPortBitmapAt, static_cast<std::uint16_t>(kTaskStateHeader));
  const auto bitmap = memory.subspan(kTaskState + kTaskStateHeader, kPortBitmapBytes + 1);
  std::ranges::fill(bitmap, std::byte{0xff});
  for (const unsigned port : {0u, 1u, 2u, 3u}) {
    const unsigned exit = payload::kExitPort + port;  // it is written 4 bytes wide
    bitmap[exit / 8] &= ~(std::byte{1} << exit % 8);
  }
  bitmap[payload::kSerialPort / 8] &= ~(std::byte{1} << payload::kSerialPort % 8);
}

/// A flat segment of ring 3.
kvm_segment flat_segment(std::uint16_t selector, std::uint8_t type) {
  kvm_segment segment{};
  segment.limit = 0xffff'ffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.dpl = kRing3;
  segment.s = 1;
  segment.g = 1;
  return segment;
}

}  // namespace

Result<void> write_boot_memory(MutableByteSpan memory, const PayloadOptions& options) {
  const std::uint64_t room = memory.size() - kStructure;
  if (options.structure.value > room) {
    return fail(ErrorCode::kTooLarge, "a structure of {} bytes, where {} are free",
                options.structure.value, room);
  }
  const ByteSpan payload = payload_image();
  CHECK(payload.size() <= payload::kMostBytes);
  std::ranges::copy(payload, memory.begin() + payload::kLoadAddress);
  write_page_tables(memory);
  write_segments(memory);
  put(memory, kParameters,
      payload::Parameters{.structure = kStructure,
                          .structure_bytes = options.structure.value,
                          .seed = options.seed,
                          .steps = options.steps});
  return {};
}

kvm_regs boot_registers(std::size_t vcpu, std::size_t vcpus) {
  kvm_regs registers{};
  registers.rip = payload::kLoadAddress;
  registers.rsp = kStacks + (vcpu + 1) * kStackBytes;
  registers.rdi = vcpu;
  registers.rsi = vcpus;
  registers.rflags = kRflags;
  return registers;
}

kvm_sregs boot_system(kvm_sregs reset) {
  kvm_sregs system = reset;
  system.cs = flat_segment(kCode, 0xb);  // execute, read, accessed
  system.cs.l = 1;
  kvm_segment data = flat_segment(kData, 0x3);  // read, write, accessed
  data.db = 1;
  system.ds = system.es = system.fs = system.gs = system.ss = data;
  system.fs.base = kParameters;
  system.tr = {};
  system.tr.base = kTaskState;
  system.tr.limit = kTaskStateBytes - 1;
  system.tr.selector = kTask;
  system.tr.type = 0xb;  // busy 64-bit task
  system.tr.present = 1;
  system.ldt = {};
  system.ldt.unusable = 1;
  system.gdt.base = kDescriptors;
  system.gdt.limit = kDescriptorTableBytes - 1;
  system.idt.base = 0;
  system.idt.limit = 0;
  system.cr0 = kCr0;
  system.cr3 = kPageTables;
  system.cr4 = kCr4;
  system.efer = kEfer;
  return system;
}

}  // namespace thaw
