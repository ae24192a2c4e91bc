#include "vmm-client/microvm/state.h"

#include <algorithm>

#include "base/check.h"
#include "format/envelope.h"
#include "vmm-client/microvm/limits.h"

namespace thaw {

namespace {

constexpr EnvelopeKind kState{.magic = 0x31'53'56'54,  // "TVS1"
                              .version = 2,
                              .most_plain_bytes = limits::kMaxMicroVmStateBytes,
                              .name = "microVM state"};

/// What a vCPU's sections hold. Each vCPU has each once, in this order.
enum class Section : std::uint32_t {
  kRegisters = 1,
  kSystem = 2,
  kXsave = 3,
  kXcrs = 4,
  kMsrs = 5,
  kEvents = 6,
  kDebug = 7,
  kMultiprocessing = 8,
  kSerial = 9,
};

/// Whether a name of all memory follows.
constexpr std::uint32_t kNoContent = 0;
constexpr std::uint32_t kContent = 1;

constexpr std::size_t kCpuidEntryBytes = 28;
constexpr std::size_t kNumberedValueBytes = 12;  // an MSR or an XCR

static_assert(sizeof(kvm_regs) == 144 && sizeof(kvm_sregs) == 312 &&
                  sizeof(kvm_vcpu_events) == 64 && sizeof(kvm_debugregs) == 128 &&
                  sizeof(kvm_mp_state) == 4 && sizeof(SerialCursor) == 16,
              "STATE.md has these sizes");

class Writer {
 public:
  template <typename T>
  void add(const T& value) {
    add_bytes(std::as_bytes(std::span(&value, 1)));
  }
  void add_bytes(ByteSpan more) { bytes_.insert(bytes_.end(), more.begin(), more.end()); }
  void begin_section(Section section, std::size_t size) {
    add(section);
    add(static_cast<std::uint32_t>(size));
  }
  template <typename T>
  void add_section(Section section, const T& value) {
    begin_section(section, sizeof(T));
    add(value);
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

/// Reads from bytes that it does not own. After the first failure all reads yield zeros or nothing.
class Reader {
 public:
  explicit Reader(ByteSpan bytes) : bytes_(bytes) {}

  template <typename T>
  T next() {
    T value{};
    const ByteSpan from = take(sizeof(T));
    if (!from.empty()) std::memcpy(&value, from.data(), sizeof(T));
    return value;
  }
  ByteSpan take(std::size_t size) {
    if (size > bytes_.size()) ok_ = false;
    if (!ok_) return {};
    const ByteSpan taken = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return taken;
  }
  bool ok() const { return ok_; }
  bool at_end() const { return bytes_.empty(); }

 private:
  ByteSpan bytes_;
  bool ok_ = true;
};

void write_vcpu(const VcpuState& vcpu, Writer& to) {
  CHECK(vcpu.xsave.size() <= limits::kMaxXsaveBytes && vcpu.xcrs.size() <= limits::kMaxXcrs &&
        vcpu.msrs.size() <= limits::kMaxMsrs);
  to.add_section(Section::kRegisters, vcpu.registers);
  to.add_section(Section::kSystem, vcpu.system);
  to.begin_section(Section::kXsave, vcpu.xsave.size());
  to.add_bytes(vcpu.xsave);
  to.begin_section(Section::kXcrs, vcpu.xcrs.size() * kNumberedValueBytes);
  for (const kvm_xcr& xcr : vcpu.xcrs) {
    to.add(std::uint32_t{xcr.xcr});
    to.add(std::uint64_t{xcr.value});
  }
  to.begin_section(Section::kMsrs, vcpu.msrs.size() * kNumberedValueBytes);
  for (const kvm_msr_entry& msr : vcpu.msrs) {
    to.add(std::uint32_t{msr.index});
    to.add(std::uint64_t{msr.data});
  }
  to.add_section(Section::kEvents, vcpu.events);
  to.add_section(Section::kDebug, vcpu.debug);
  to.add_section(Section::kMultiprocessing, vcpu.multiprocessing);
  to.add_section(Section::kSerial, vcpu.serial);
}

/// The content of the section that comes next, which must be this one, of `least` to `most` bytes
/// in units of `unit`.
struct Extent {
  std::size_t least;
  std::size_t most;
  std::size_t unit = 1;
};
Result<ByteSpan> read_section(Reader& from, Section section, Extent extent) {
  const auto kind = from.next<std::uint32_t>();
  const std::size_t size = from.next<std::uint32_t>();
  if (!from.ok()) return fail(ErrorCode::kTruncated, "a state ends before a section");
  if (kind != static_cast<std::uint32_t>(section)) {
    return fail(ErrorCode::kMalformed, "section {} where section {} is due", kind,
                static_cast<std::uint32_t>(section));
  }
  if (size > extent.most && extent.most > extent.least) {
    return fail(ErrorCode::kTooLarge, "section {} of {} bytes", kind, size);
  }
  if (size < extent.least || size > extent.most || size % extent.unit != 0) {
    return fail(ErrorCode::kMalformed, "section {} of {} bytes", kind, size);
  }
  const ByteSpan content = from.take(size);
  if (!from.ok()) return fail(ErrorCode::kTruncated, "a state ends in section {}", kind);
  return content;
}

template <typename T>
Result<T> read_value(Reader& from, Section section) {
  return Reader(TRY(read_section(from, section, {sizeof(T), sizeof(T)}))).next<T>();
}

Result<VcpuState> read_vcpu(Reader& from) {
  VcpuState vcpu;
  vcpu.registers = TRY(read_value<kvm_regs>(from, Section::kRegisters));
  vcpu.system = TRY(read_value<kvm_sregs>(from, Section::kSystem));
  const ByteSpan xsave =
      TRY(read_section(from, Section::kXsave, {limits::kMinXsaveBytes, limits::kMaxXsaveBytes, 4}));
  vcpu.xsave.assign(xsave.begin(), xsave.end());
  const auto read_numbered = [&](Section section, std::size_t most, auto add) -> Result<void> {
    const ByteSpan content =
        TRY(read_section(from, section, {0, most * kNumberedValueBytes, kNumberedValueBytes}));
    for (Reader values(content); !values.at_end();) {
      const auto number = values.next<std::uint32_t>();
      add(number, values.next<std::uint64_t>());
    }
    return {};
  };
  TRY(read_numbered(Section::kXcrs, limits::kMaxXcrs, [&](std::uint32_t number, auto value) {
    vcpu.xcrs.push_back({.xcr = number, .reserved = 0, .value = value});
  }));
  TRY(read_numbered(Section::kMsrs, limits::kMaxMsrs, [&](std::uint32_t number, auto value) {
    vcpu.msrs.push_back({.index = number, .reserved = 0, .data = value});
  }));
  vcpu.events = TRY(read_value<kvm_vcpu_events>(from, Section::kEvents));
  vcpu.debug = TRY(read_value<kvm_debugregs>(from, Section::kDebug));
  vcpu.multiprocessing = TRY(read_value<kvm_mp_state>(from, Section::kMultiprocessing));
  vcpu.serial = TRY(read_value<SerialCursor>(from, Section::kSerial));
  return vcpu;
}

/// What names the memory.
Result<void> read_identity(Reader& from, MicroVmState& state) {
  const auto kind = from.next<std::uint32_t>();
  const auto content = from.next<std::uint64_t>();
  const std::size_t count = from.next<std::uint32_t>();
  if (!from.ok()) return fail(ErrorCode::kTruncated, "a state ends in the name of its memory");
  if (kind > kContent || (kind == kNoContent && content != 0)) {
    return fail(ErrorCode::kMalformed, "a state that names its memory in way {}", kind);
  }
  if (kind == kContent) state.content = content;
  if (count > limits::kMaxWitnesses) {
    return fail(ErrorCode::kTooLarge, "a state with {} witnesses", count);
  }
  for (std::size_t i = 0; i < count; ++i) {
    const PageIndex page{from.next<std::uint64_t>()};
    state.witnesses.push_back({page, from.next<std::uint64_t>()});
    if (!from.ok()) return fail(ErrorCode::kTruncated, "a state ends in its witnesses");
    if (page.value < pages_for(state.memory).value) continue;
    return fail(ErrorCode::kMalformed, "a witness is page {} of {}", page.value,
                pages_for(state.memory).value);
  }
  return {};
}

Result<std::vector<kvm_cpuid_entry2>> read_cpuid(Reader& from) {
  const std::size_t count = from.next<std::uint32_t>();
  if (count > limits::kMaxCpuidEntries) {
    return fail(ErrorCode::kTooLarge, "a state with {} CPUID entries", count);
  }
  std::vector<kvm_cpuid_entry2> entries(count);
  for (kvm_cpuid_entry2& entry : entries) {
    for (auto* const field : {&entry.function, &entry.index, &entry.flags, &entry.eax, &entry.ebx,
                              &entry.ecx, &entry.edx}) {
      *field = from.next<std::uint32_t>();
    }
  }
  if (!from.ok()) return fail(ErrorCode::kTruncated, "a state ends in its CPUID entries");
  return entries;
}

}  // namespace

Result<void> check_memory_size(ByteCount memory) {
  if (memory.value > limits::kMaxMicroVmMemory) {
    return fail(ErrorCode::kTooLarge, "{} bytes of memory, more than {}", memory.value,
                limits::kMaxMicroVmMemory);
  }
  if (memory.value < limits::kMinMicroVmMemory || memory.value % limits::kMicroVmMemoryUnit != 0) {
    return fail(ErrorCode::kInvalidArgument, "{} bytes of memory, not {} or more in units of {}",
                memory.value, limits::kMinMicroVmMemory, limits::kMicroVmMemoryUnit);
  }
  return {};
}

Bytes encode_state(const MicroVmState& state) {
  CHECK(check_memory_size(state.memory) && state.cpuid.size() <= limits::kMaxCpuidEntries &&
        state.witnesses.size() <= limits::kMaxWitnesses && !state.vcpus.empty() &&
        state.vcpus.size() <= limits::kMaxVcpus);
  Writer to;
  to.add(state.memory.value);
  to.add(state.serial_bytes);
  to.add(state.clock_ns);
  to.add(state.tsc_khz);
  to.add(state.cpu_vendor);
  to.add(state.content ? kContent : kNoContent);
  to.add(state.content.value_or(0));
  to.add(static_cast<std::uint32_t>(state.witnesses.size()));
  for (const PageWitness& witness : state.witnesses) {
    to.add(witness.page.value);
    to.add(witness.hash);
  }
  to.add(static_cast<std::uint32_t>(state.cpuid.size()));
  for (const kvm_cpuid_entry2& entry : state.cpuid) {
    to.add_bytes(std::as_bytes(std::span(&entry, 1)).first(kCpuidEntryBytes));
  }
  to.add(static_cast<std::uint32_t>(state.vcpus.size()));
  for (const VcpuState& vcpu : state.vcpus) write_vcpu(vcpu, to);
  return seal_envelope(kState, to.bytes());
}

Result<MicroVmState> decode_state(ByteSpan sealed) {
  const Bytes plain = TRY(open_envelope(kState, sealed));
  Reader from(plain);
  MicroVmState state;
  state.memory.value = from.next<std::uint64_t>();
  state.serial_bytes = from.next<std::uint64_t>();
  state.clock_ns = from.next<std::uint64_t>();
  state.tsc_khz = from.next<std::uint32_t>();
  state.cpu_vendor = from.next<CpuVendor>();
  if (!from.ok()) return fail(ErrorCode::kTruncated, "a state of {} bytes", plain.size());
  if (const auto size = check_memory_size(state.memory); !size) {
    if (size.error().code() == ErrorCode::kTooLarge) return std::unexpected(size.error());
    return fail(ErrorCode::kMalformed, "a state with {}", size.error().context());
  }
  const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
  if (!std::ranges::all_of(state.cpu_vendor, printable)) {
    return fail(ErrorCode::kMalformed, "a CPU vendor with unprintable characters");
  }
  TRY(read_identity(from, state));
  state.cpuid = TRY(read_cpuid(from));
  const std::size_t vcpus = from.next<std::uint32_t>();
  if (!from.ok()) return fail(ErrorCode::kTruncated, "a state ends before its vCPUs");
  if (vcpus > limits::kMaxVcpus) return fail(ErrorCode::kTooLarge, "a state of {} vCPUs", vcpus);
  if (vcpus == 0) return fail(ErrorCode::kMalformed, "a state without vCPUs");
  for (std::size_t i = 0; i < vcpus; ++i) state.vcpus.push_back(TRY(read_vcpu(from)));
  if (!from.at_end()) return fail(ErrorCode::kMalformed, "bytes after the last vCPU");
  return state;
}

}  // namespace thaw
