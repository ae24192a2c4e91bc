// The file with a microVM's state: round trips, and refusals by their names.

#include <algorithm>

#include "format/envelope.h"
#include "tests/support/sample_microvm.h"
#include "tests/support/test_support.h"
#include "vmm-client/microvm/limits.h"

namespace thaw::test {
namespace {

/// As STATE.md has it, to seal hostile content.
constexpr EnvelopeKind kStateKind{.magic = 0x31'53'56'54,
                                  .version = 2,
                                  .most_plain_bytes = limits::kMaxMicroVmStateBytes,
                                  .name = "microVM state"};

// Offsets in the plain content of a sample.
constexpr std::size_t kMemoryAt = 0;
constexpr std::size_t kVendorAt = 28;
constexpr std::size_t kContentKindAt = 40;
constexpr std::size_t kWitnessCountAt = 52;
constexpr std::size_t kFirstWitnessAt = 56;
constexpr std::size_t kCpuidCountAt = kFirstWitnessAt + std::size_t{2} * 16;
constexpr std::size_t kVcpuCountAt = kCpuidCountAt + 4 + std::size_t{2} * 28;
constexpr std::size_t kFirstSectionAt = kVcpuCountAt + 4;

Bytes plain_sample(std::size_t vcpus = 2) {
  return open_envelope(kStateKind, encode_state(sample_microvm_state(vcpus))).value();
}
std::optional<ErrorCode> decoding(ByteSpan plain) {
  return code_of(decode_state(seal_envelope(kStateKind, plain)));
}
/// What decoding says when this stands at `at`.
template <typename T>
std::optional<ErrorCode> decoding_with(std::size_t at, T value) {
  Bytes plain = plain_sample();
  store_le(plain.data() + at, value);
  return decoding(plain);
}
/// Where section `kind` of the first vCPU begins.
std::size_t section_at(std::uint32_t kind) {
  const Bytes plain = plain_sample();
  std::size_t at = kFirstSectionAt;
  while (load_le<std::uint32_t>(plain.data() + at) != kind) {
    at += 8 + load_le<std::uint32_t>(plain.data() + at + 4);
  }
  return at;
}

TEST(MicroVmState, RoundTrips) {
  for (std::size_t vcpus = 1; vcpus <= limits::kMaxVcpus; ++vcpus) {
    const MicroVmState state = sample_microvm_state(vcpus);
    const Bytes sealed = encode_state(state);
    const auto back = decode_state(sealed);
    ASSERT_TRUE(succeeded(back));
    EXPECT_EQ(encode_state(*back), sealed);
    ASSERT_EQ(back->vcpus.size(), vcpus);
    EXPECT_EQ(back->memory, state.memory);
    EXPECT_EQ(back->serial_bytes, state.serial_bytes);
    EXPECT_EQ(back->clock_ns, state.clock_ns);
    EXPECT_EQ(back->cpu_vendor, state.cpu_vendor);
    EXPECT_EQ(back->content, state.content);
    ASSERT_EQ(back->witnesses.size(), 2u);
    EXPECT_EQ(back->witnesses[1].page, state.witnesses[1].page);
    EXPECT_EQ(back->witnesses[1].hash, state.witnesses[1].hash);
    EXPECT_EQ(back->cpuid[1].edx, 5u);
    EXPECT_EQ(back->vcpus.back().xsave, state.vcpus.back().xsave);
    EXPECT_EQ(back->vcpus.back().registers.rip, state.vcpus.back().registers.rip);
    EXPECT_EQ(back->vcpus.back().msrs[1].data, 1u << 31);
    EXPECT_EQ(back->vcpus.back().serial.lines, state.vcpus.back().serial.lines);
  }
}

TEST(MicroVmState, LargestStateFitsItsLimit) {
  MicroVmState state = sample_microvm_state(limits::kMaxVcpus);
  state.memory = {limits::kMaxMicroVmMemory};
  state.witnesses.resize(limits::kMaxWitnesses);
  state.cpuid.resize(limits::kMaxCpuidEntries);
  for (VcpuState& vcpu : state.vcpus) {
    vcpu.xsave.resize(limits::kMaxXsaveBytes);
    vcpu.xcrs.resize(limits::kMaxXcrs);
    vcpu.msrs.resize(limits::kMaxMsrs);
  }
  EXPECT_TRUE(succeeded(decode_state(encode_state(state))));
}

TEST(MicroVmState, FilesThatEndEarlyAreTruncated) {
  const Bytes sealed = encode_state(sample_microvm_state(1));
  for (std::size_t size = 0; size < sealed.size(); ++size) {
    ASSERT_EQ(code_of(decode_state(ByteSpan(sealed).first(size))), ErrorCode::kTruncated) << size;
  }
}

TEST(MicroVmState, ContentThatEndsEarlyIsTruncated) {
  const Bytes plain = plain_sample(1);
  for (std::size_t size = 0; size < plain.size(); ++size) {
    ASSERT_EQ(decoding(ByteSpan(plain).first(size)), ErrorCode::kTruncated) << size;
  }
}

TEST(MicroVmState, EveryFlippedBitIsNoticed) {
  const Bytes good = encode_state(sample_microvm_state(1));
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    Bytes bad = good;
    bad[bit / 8] ^= std::byte{1} << bit % 8;
    const auto decoded = decode_state(bad);
    ASSERT_TRUE(!decoded || encode_state(*decoded) == good) << bit;
  }
}

TEST(MicroVmState, OtherFilesAreRefusedByName) {
  const Bytes good = encode_state(sample_microvm_state(1));
  const auto decoding_sealed = [&](std::size_t at, auto value) {
    Bytes bad = good;
    store_le(bad.data() + at, value);
    return code_of(decode_state(bad));
  };
  EXPECT_EQ(decoding_sealed(0, std::uint32_t{0x31'4e'4d'54}), ErrorCode::kBadMagic);
  EXPECT_EQ(decoding_sealed(4, std::uint16_t{1}), ErrorCode::kBadVersion);
  EXPECT_EQ(decoding_sealed(4, std::uint16_t{3}), ErrorCode::kBadVersion);
  EXPECT_EQ(decoding_sealed(6, std::uint16_t{1}), ErrorCode::kMalformed);
  EXPECT_EQ(decoding_sealed(8, std::uint32_t{2u << 20}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding_sealed(16, std::uint64_t{0}), ErrorCode::kChecksumMismatch);
  Bytes longer = good;
  longer.push_back(std::byte{0});
  EXPECT_EQ(code_of(decode_state(longer)), ErrorCode::kMalformed);
}

TEST(MicroVmState, LyingFieldsAreRefusedByName) {
  EXPECT_EQ(decoding(plain_sample()), std::nullopt);
  EXPECT_EQ(decoding_with(kMemoryAt, std::uint64_t{0}), ErrorCode::kMalformed);
  EXPECT_EQ(decoding_with(kMemoryAt, std::uint64_t{5u << 20}), ErrorCode::kMalformed);
  EXPECT_EQ(decoding_with(kMemoryAt, limits::kMaxMicroVmMemory + 1), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding_with(kMemoryAt, ~std::uint64_t{0}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding_with(kVendorAt, '\0'), ErrorCode::kMalformed);
  EXPECT_EQ(decoding_with(kContentKindAt, std::uint32_t{2}), ErrorCode::kMalformed);
  EXPECT_EQ(decoding_with(kContentKindAt, std::uint32_t{0}), ErrorCode::kMalformed);
  EXPECT_EQ(decoding_with(kWitnessCountAt, std::uint32_t{limits::kMaxWitnesses + 1}),
            ErrorCode::kTooLarge);
  EXPECT_EQ(decoding_with(kFirstWitnessAt, std::uint64_t{(64u << 20) / kPageBytes}),
            ErrorCode::kMalformed);
  EXPECT_EQ(decoding_with(kCpuidCountAt, std::uint32_t{limits::kMaxCpuidEntries + 1}),
            ErrorCode::kTooLarge);
  EXPECT_EQ(decoding_with(kCpuidCountAt, ~std::uint32_t{0}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding_with(kVcpuCountAt, std::uint32_t{0}), ErrorCode::kMalformed);
  EXPECT_EQ(decoding_with(kVcpuCountAt, std::uint32_t{1}), ErrorCode::kMalformed);
  EXPECT_EQ(decoding_with(kVcpuCountAt, std::uint32_t{3}), ErrorCode::kTruncated);
  EXPECT_EQ(decoding_with(kVcpuCountAt, std::uint32_t{limits::kMaxVcpus + 1}),
            ErrorCode::kTooLarge);
}

TEST(MicroVmState, LyingSectionsAreRefusedByName) {
  for (std::uint32_t kind = 1; kind <= 9; ++kind) {
    const std::size_t at = section_at(kind);
    EXPECT_EQ(decoding_with(at, kind + 1), ErrorCode::kMalformed) << kind;
    EXPECT_EQ(decoding_with(at, std::uint32_t{0}), ErrorCode::kMalformed) << kind;
    EXPECT_EQ(decoding_with(at + 4, std::uint32_t{1}), ErrorCode::kMalformed) << kind;
    const bool of_fixed_size = kind < 3 || kind > 5;
    EXPECT_EQ(decoding_with(at + 4, ~std::uint32_t{0}),
              of_fixed_size ? ErrorCode::kMalformed : ErrorCode::kTooLarge)
        << kind;
  }
}

TEST(MicroVmState, MayNameNoContent) {
  MicroVmState state = sample_microvm_state(1);
  state.content.reset();
  state.witnesses.clear();
  const auto back = decode_state(encode_state(state));
  ASSERT_TRUE(succeeded(back));
  EXPECT_EQ(back->content, std::nullopt);
  EXPECT_TRUE(back->witnesses.empty());
}

TEST(MicroVmState, SizesOfMemory) {
  EXPECT_EQ(code_of(check_memory_size({limits::kMinMicroVmMemory})), std::nullopt);
  EXPECT_EQ(code_of(check_memory_size({limits::kMaxMicroVmMemory})), std::nullopt);
  EXPECT_EQ(code_of(check_memory_size({2u << 20})), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(check_memory_size({(64u << 20) + kPageBytes})), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(check_memory_size({limits::kMaxMicroVmMemory + kHugePageBytes})),
            ErrorCode::kTooLarge);
}

}  // namespace
}  // namespace thaw::test
