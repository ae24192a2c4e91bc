// The parts of the microVM inside this process: the guest's progress, the memory image, and a VM
// that is paused again and again.

#include "vmm-client/microvm/microvm.h"

#include <algorithm>
#include <filesystem>
#include <mutex>

#include <poll.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory_file.h"
#include "base/partial_file.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "format/chunk.h"
#include "tests/support/kvm.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"
#include "vmm-client/microvm/memory_identity.h"
#include "vmm-client/microvm/memory_image.h"

namespace thaw::test {
namespace {

using Event = GuestProgress::Event;

TEST(GuestProgress, CountsBytesAndLinesOfEachVcpu) {
  std::string shown;
  GuestProgress progress([&](ByteSpan bytes) { shown += as_text(bytes); });
  progress.begin(100, {{.lines = 7}, {.lines = 8}});

  progress.write(0, as_bytes("one\ntwo\nthr"));
  progress.write(1, as_bytes("x\n"));

  EXPECT_EQ(shown, "one\ntwo\nthrx\n");
  EXPECT_EQ(progress.serial_bytes(), 113u);
  EXPECT_EQ(progress.cursor(0).lines, 9u);
  EXPECT_EQ(progress.cursor(0).column, 3u);
  EXPECT_EQ(progress.cursor(1).lines, 9u);
  EXPECT_EQ(progress.cursor(1).column, 0u);
  EXPECT_TRUE(progress.first_output());
}

TEST(GuestProgress, ShowsNoMoreLinesThanWanted) {
  std::string shown;
  GuestProgress progress([&](ByteSpan bytes) { shown += as_text(bytes); });
  progress.begin(0, {{}, {.lines = 1}});
  progress.show_at_most(2);

  progress.write(0, as_bytes("a\nb\nc"));
  progress.write(1, as_bytes("d\n"));
  progress.write(1, as_bytes("e"));

  EXPECT_EQ(shown, "a\nb\nd\n");
  EXPECT_EQ(progress.serial_bytes(), 8u);
}

TEST(GuestProgress, FinishesALineThatWasInParts) {
  std::string shown;
  GuestProgress progress([&](ByteSpan bytes) { shown += as_text(bytes); });
  progress.begin(0, {{.lines = 5, .column = 1}, {.lines = 5, .column = 0}});
  progress.show_at_most(2);

  progress.write(0, as_bytes("a\nb\n"));
  progress.write(1, as_bytes("c\n"));

  EXPECT_EQ(shown, "a\n");
}

TEST(GuestProgress, WaitsEndWithWhatHappens) {
  GuestProgress progress([](ByteSpan) {});
  progress.begin(0, {{}, {}});
  progress.write(0, as_bytes("a\nb\n"));
  progress.write(1, as_bytes("a\n"));
  EXPECT_EQ(progress.wait_for_rounds(1).value(), Event::kReached);
  EXPECT_EQ(progress.wait_for_output().value(), Event::kReached);

  progress.exit(3);
  progress.exit(4);
  EXPECT_EQ(progress.wait_for_rounds(2).value(), Event::kExited);
  EXPECT_EQ(progress.exit_code(), 3u);

  progress.fail_with({ErrorCode::kCorrupt, "broken"});
  EXPECT_EQ(code_of(progress.wait_for_rounds(1)), ErrorCode::kCorrupt);
}

TEST(MemoryImage, IsTheMemoryWithHolesForZeros) {
  constexpr std::size_t kPages = 1500;  // more than one block, the last one in part
  const ScratchDirectory directory;
  const Bytes memory = make_image(3, kPages);
  std::size_t zero = 0;
  for (std::size_t page = 0; page < kPages; ++page) {
    zero += is_zero_page(PageSpan(ByteSpan(memory).subspan(page * kPageBytes, kPageBytes))) ? 1 : 0;
  }

  PartialFile file = PartialFile::create(directory.path("image")).value();
  const auto written = write_memory_image(memory, file.fd());

  ASSERT_TRUE(succeeded(written));
  ASSERT_TRUE(succeeded(file.publish()));
  EXPECT_TRUE(succeeded(check_content(open_for_reading(directory.path("image")).value(),
                                      {memory.size()}, written->content)));
  EXPECT_EQ(written->holes.value, zero * kPageBytes);
  EXPECT_EQ(written->data.value, memory.size() - zero * kPageBytes);
  EXPECT_EQ(read_file(directory.path("image")), memory);
  struct stat status{};
  ASSERT_EQ(::stat(directory.path("image").c_str(), &status), 0);
  EXPECT_LE(static_cast<std::uint64_t>(status.st_blocks) * 512, written->data.value + (64u << 10));
}

TEST(MemoryIdentity, EveryByteOfAFileCounts) {
  const Bytes memory = make_image(3, 1500);
  const UniqueFd file = create_memory_file("identity", {memory.size()}).value();
  const std::uint64_t content = write_memory_image(memory, file)->content;
  EXPECT_TRUE(succeeded(check_content(file, {memory.size()}, content)));
  for (const std::size_t at : {std::size_t{0}, kIdentityPieceBytes, memory.size() - 1}) {
    const std::byte other = memory[at] ^ std::byte{1};
    ASSERT_TRUE(succeeded(write_at(file, {&other, 1}, at)));
    EXPECT_EQ(code_of(check_content(file, {memory.size()}, content)), ErrorCode::kChecksumMismatch);
    ASSERT_TRUE(succeeded(write_at(file, {&memory[at], 1}, at)));
  }
  EXPECT_TRUE(succeeded(check_content(file, {memory.size()}, content)));
}

TEST(MemoryIdentity, WitnessesAreTheirPagesAlone) {
  Bytes memory = make_image(3, 10);
  const auto witnesses = take_witnesses(
      {3 * kPageBytes + 5, 3 * kPageBytes + 9, 7 * kPageBytes, memory.size()}, memory);
  ASSERT_EQ(witnesses.size(), 2u) << "each page once, and none outside";
  EXPECT_TRUE(succeeded(check_witnesses(witnesses, memory)));
  memory[4 * kPageBytes] ^= std::byte{1};
  EXPECT_TRUE(succeeded(check_witnesses(witnesses, memory)));
  memory[8 * kPageBytes - 1] ^= std::byte{1};
  EXPECT_EQ(code_of(check_witnesses(witnesses, memory)), ErrorCode::kChecksumMismatch);
}

class MicroVmTest : public testing::Test {
 protected:
  static constexpr ByteCount kMemory{16u << 20};
  static constexpr std::uint64_t kRounds = 30;
  static constexpr PayloadOptions kPayload{.structure = {4u << 20}, .seed = 5, .steps = 2000};

  void SetUp() override {
    if (const auto missing = why_no_kvm()) GTEST_SKIP() << *missing;
  }

  std::unique_ptr<MicroVm> shell(std::size_t vcpus, std::string& serial) {
    auto sink = [this, &serial](ByteSpan bytes) {
      const std::lock_guard lock(mutex_);
      serial += as_text(bytes);
    };
    auto vm = MicroVm::create(MicroVmMemory::zeros(kMemory).value(), sink).value();
    EXPECT_TRUE(succeeded(vm->add_vcpus(vcpus)));
    return vm;
  }
  static void run_until(MicroVm& vm, std::uint64_t rounds) {
    vm.progress().show_at_most(rounds);
    ASSERT_TRUE(succeeded(vm.start()));
    ASSERT_TRUE(succeeded(vm.progress().wait_for_rounds(rounds)));
    vm.pause();
  }
  /// Until it has printed so many bytes more.
  static void run_for(MicroVm& vm, std::uint64_t bytes) {
    const std::uint64_t end = vm.progress().serial_bytes() + bytes;
    const Deadline deadline = Deadline::after(kPatience);
    ASSERT_TRUE(succeeded(vm.start()));
    while (vm.progress().serial_bytes() < end && !deadline.passed()) std::this_thread::yield();
    vm.pause();
    ASSERT_FALSE(deadline.passed());
  }
  std::string uninterrupted(std::size_t vcpus, std::uint64_t rounds) {
    std::string serial;
    const auto vm = shell(vcpus, serial);
    EXPECT_TRUE(succeeded(vm->load_payload(kPayload)));
    run_until(*vm, rounds);
    return serial;
  }

  /// Lets a VM of two vCPUs finish its rounds; what it printed is what one prints that was never
  /// interrupted.
  void expect_uninterrupted(MicroVm& vm, const std::string& serial) {
    const std::uint64_t rounds =
        1 + std::max(vm.progress().cursor(0).lines, vm.progress().cursor(1).lines);
    run_until(vm, rounds);
    EXPECT_EQ(lines_by_vcpu(serial, rounds), lines_by_vcpu(uninterrupted(2, rounds), rounds));
  }

  std::mutex mutex_;
};

TEST_F(MicroVmTest, PausesAnywhereWithoutATrace) {
  constexpr int kPauses = 100;
  std::string serial;
  const auto vm = shell(2, serial);
  ASSERT_TRUE(succeeded(vm->load_payload(kPayload)));

  // Most pauses come in the midst of a line, some while a vCPU walks.
  auto generator = seeded_generator();
  for (int i = 0; i < kPauses; ++i) run_for(*vm, 1 + pick(generator, 60));

  expect_uninterrupted(*vm, serial);
}

TEST_F(MicroVmTest, StateGoesIntoAShellThatWasMadeBefore) {
  std::string serial;
  const auto first = shell(2, serial);
  const auto second = shell(2, serial);
  ASSERT_TRUE(succeeded(first->load_payload(kPayload)));
  ASSERT_TRUE(succeeded(first->start()));
  ASSERT_TRUE(succeeded(first->progress().wait_for_rounds(5)));
  first->pause();

  std::ranges::copy(first->memory(), second->memory().begin());
  ASSERT_TRUE(succeeded(second->load_state(first->state().value())));
  run_until(*second, kRounds);

  EXPECT_EQ(lines_by_vcpu(serial, kRounds), lines_by_vcpu(uninterrupted(2, kRounds), kRounds));
}

TEST_F(MicroVmTest, GoesOnInAnotherVmFromAnywhere) {
  constexpr int kHops = 20;
  std::string serial;
  auto vm = shell(2, serial);
  ASSERT_TRUE(succeeded(vm->load_payload(kPayload)));

  // Most captures come while a vCPU is in the midst of writing to its port.
  auto generator = seeded_generator();
  for (int i = 0; i < kHops; ++i) {
    run_for(*vm, 1 + pick(generator, 60));
    auto next = shell(2, serial);
    std::ranges::copy(vm->memory(), next->memory().begin());
    ASSERT_TRUE(succeeded(next->load_state(vm->state().value())));
    vm = std::move(next);
  }

  expect_uninterrupted(*vm, serial);
}

TEST_F(MicroVmTest, ItsClockGoesOn) {
  std::string serial;
  const auto first = shell(1, serial);
  ASSERT_TRUE(succeeded(first->load_payload(kPayload)));
  MicroVmState state = first->state().value();
  constexpr std::uint64_t kHour = 3'600'000'000'000;
  state.clock_ns += kHour;  // it has run for so long

  const auto second = shell(1, serial);
  ASSERT_TRUE(succeeded(second->load_state(state)));
  const MicroVmState after = second->state().value();

  EXPECT_GE(after.clock_ns, state.clock_ns);
  EXPECT_LT(after.clock_ns, state.clock_ns + kHour);
}

TEST_F(MicroVmTest, PausesWhileAPageIsMissing) {
  // This handler fills the guest's page tables and no page of its own.
  constexpr std::size_t kTables = 64u << 10;
  const ScratchDirectory directory;
  const UniqueFd listener = listen_unix(directory.path("socket"), std::nullopt).value();
  std::string serial;
  const auto first = shell(2, serial);
  ASSERT_TRUE(succeeded(first->load_payload(kPayload)));
  const MicroVmState state = first->state().value();

  const auto vm = MicroVm::create(MicroVmMemory::missing(kMemory).value(), [](ByteSpan) {}).value();
  ASSERT_TRUE(succeeded(vm->add_vcpus(2)));
  ASSERT_TRUE(succeeded(vm->set_cpuid(state.cpuid)));
  PhaseTimer phases;
  ASSERT_TRUE(succeeded(vm->restore_memory(PreparedSession{directory.path("socket")},
                                           Deadline::after(kPatience), phases)));
  ASSERT_TRUE(succeeded(vm->load_state(state)));
  const UniqueFd handed = accept_connection(listener, Deadline::after(kPatience)).value();
  Bytes handoff(4096);
  const auto received = receive_with_descriptors(handed, handoff).value();
  ASSERT_EQ(received.value().descriptors.size(), 1u);
  const UniqueFd& uffd = received->descriptors[0];
  // SAFETY: an address as a number, for the kernel.
  const HostAddress start{reinterpret_cast<std::uint64_t>(vm->memory().data())};
  ASSERT_EQ(copy_pages(uffd, start, first->memory().first(kTables)).outcome, FillOutcome::kFilled);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(succeeded(vm->start()));
    pollfd fault{.fd = uffd.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&fault, 1, Deadline::after(kPatience).milliseconds_left()), 1);
    vm->pause();
    std::vector<MemoryEvent> events;
    ASSERT_TRUE(succeeded(read_events(uffd, events)));
  }

  const MicroVmState after = vm->state().value();
  EXPECT_EQ(after.vcpus[0].registers.rip, state.vcpus[0].registers.rip);
  EXPECT_EQ(after.serial_bytes, 0u);
}

TEST_F(MicroVmTest, StateOfAnotherShapeIsRefused) {
  std::string serial;
  const auto vm = shell(2, serial);
  ASSERT_TRUE(succeeded(vm->load_payload(kPayload)));
  const MicroVmState state = vm->state().value();
  EXPECT_EQ(code_of(shell(1, serial)->load_state(state)), ErrorCode::kInvalidArgument);
  MicroVmState larger = state;
  larger.memory.value *= 2;
  EXPECT_EQ(code_of(vm->load_state(larger)), ErrorCode::kInvalidArgument);
}

TEST_F(MicroVmTest, RegistersThatNoCpuHasAreRefused) {
  std::string serial;
  const auto vm = shell(1, serial);
  ASSERT_TRUE(succeeded(vm->load_payload(kPayload)));
  MicroVmState state = vm->state().value();
  state.vcpus[0].system.cr4 = ~std::uint64_t{0};
  EXPECT_FALSE(vm->load_state(state));
}

TEST_F(MicroVmTest, GuestThatBreaksDownIsAnError) {
  std::string serial;
  const auto vm = shell(1, serial);
  ASSERT_TRUE(succeeded(vm->load_payload(kPayload)));
  MicroVmState state = vm->state().value();
  state.vcpus[0].registers.rip = std::uint64_t{1} << 40;  // not mapped
  ASSERT_TRUE(succeeded(vm->load_state(state)));
  ASSERT_TRUE(succeeded(vm->start()));
  EXPECT_EQ(code_of(vm->progress().wait_for_rounds(1)), ErrorCode::kIo);
}

}  // namespace
}  // namespace thaw::test
