// Files in memory that several mappings share, and what the kernel does with them: the facts that
// shared restores stand on.

#include "base/memory_file.h"

#include <array>
#include <atomic>
#include <limits>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mapping.h"
#include "base/pagemap.h"
#include "base/process_maps.h"
#include "base/userfaultfd.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::succeeded;

constexpr PageCount kPages{8};
constexpr ByteCount kSize = bytes_of(kPages);

/// An image that is filled through a mapping and a userfaultfd of its own, and one VM on it.
class MemoryFile : public testing::Test {
 protected:
  void SetUp() override {
    file_ = create_memory_file("test", kSize).value();
    image_ = Mapping::shared(file_, kSize).value();
    auto created = create_userfaultfd();
    if (!created) GTEST_SKIP() << created.error().message();
    image_faults_ = *std::move(created);
    ASSERT_TRUE(succeeded(register_missing(image_faults_, image_.address(), kSize)));
    read_only_ = seal_memory_file(file_).value();
    vm_ = Mapping::copy_on_write(read_only_, {0}, kSize).value();
    faults_ = create_userfaultfd().value();
    ASSERT_TRUE(succeeded(register_missing(faults_, vm_.address(), kSize)));
    ASSERT_TRUE(succeeded(vm_.allow_access()));
    page_.fill(std::byte{7});
  }

  HostAddress in_image(std::uint64_t page) const {
    return image_.address() + bytes_of(PageCount{page});
  }
  HostAddress in_vm(std::uint64_t page) const { return vm_.address() + bytes_of(PageCount{page}); }
  void bring(std::uint64_t page) {
    EXPECT_EQ(copy_pages(image_faults_, in_image(page), page_).outcome, FillOutcome::kFilled);
  }
  std::byte touch(std::uint64_t page) const {
    return std::atomic_ref(vm_.bytes()[page * kPageBytes]).load();
  }
  bool wait_for_event() {
    pollfd request{.fd = faults_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&request, 1, 10'000) != 1) return false;
    std::vector<MemoryEvent> events;
    return succeeded(read_events(faults_, events)) && !events.empty();
  }
  /// Gives a page back as a VMM does, whose event somebody has to read.
  void discard(std::uint64_t page) {
    const std::jthread vmm(
        [&] { EXPECT_TRUE(succeeded(vm_.discard(bytes_of(PageCount{page}), {kPageBytes}))); });
    EXPECT_TRUE(wait_for_event());
  }

  UniqueFd file_;
  UniqueFd read_only_;
  Mapping image_;
  UniqueFd image_faults_;
  Mapping vm_;
  UniqueFd faults_;
  std::array<std::byte, kPageBytes> page_;
};

TEST_F(MemoryFile, PresentPagesRaiseNoFault) {
  bring(1);
  EXPECT_EQ(touch(1), std::byte{7});  // nobody answers
}

TEST_F(MemoryFile, MissingPageIsBroughtIntoTheFileAndShown) {
  std::byte value{};
  {
    const std::jthread guest([&] { value = touch(2); });
    ASSERT_TRUE(wait_for_event());
    bring(2);
    EXPECT_EQ(show_pages(faults_, in_vm(2), {kPageBytes}).outcome, FillOutcome::kFilled);
  }
  EXPECT_EQ(value, std::byte{7});
  EXPECT_EQ(show_pages(faults_, in_vm(2), {kPageBytes}).outcome, FillOutcome::kExists);
}

TEST_F(MemoryFile, PageThatTheFileLacksCannotBeShown) {
  EXPECT_EQ(show_pages(faults_, in_vm(3), {kPageBytes}).outcome, FillOutcome::kFailed);
}

TEST_F(MemoryFile, AnonymousMemoryCannotBeShownPages) {
  const Mapping memory = Mapping::anonymous(kSize).value();
  ASSERT_TRUE(succeeded(register_missing(faults_, memory.address(), kSize)));
  EXPECT_EQ(show_pages(faults_, memory.address(), {kPageBytes}).outcome, FillOutcome::kFailed);
}

TEST_F(MemoryFile, PageIsBroughtOnce) {
  bring(1);
  EXPECT_EQ(copy_pages(image_faults_, in_image(1), page_).outcome, FillOutcome::kExists);
  EXPECT_EQ(allocated_bytes(file_).value(), ByteCount{kPageBytes});
}

TEST_F(MemoryFile, WritesOfAMappingStayInIt) {
  bring(1);
  std::atomic_ref(vm_.bytes()[kPageBytes]).store(std::byte{9});
  EXPECT_EQ(image_.bytes()[kPageBytes], std::byte{7});
}

TEST_F(MemoryFile, PagesOfItsOwnAreThoseThatWereWrittenOrPutThere) {
  for (const std::uint64_t page : {1, 2}) bring(page);
  EXPECT_EQ(touch(1), std::byte{7});
  std::atomic_ref(vm_.bytes()[2 * kPageBytes]).store(std::byte{9});
  EXPECT_EQ(zero_pages(faults_, in_vm(3), {kPageBytes}).outcome, FillOutcome::kFilled);

  const auto own = own_pages(vm_.address(), kSize);

  ASSERT_TRUE(succeeded(own));
  EXPECT_EQ(*own, (std::vector<bool>{false, false, true, true, false, false, false, false}));
}

TEST_F(MemoryFile, WhatIsGivenBackRaisesMinorFaultsAndMayBecomeZero) {
  bring(1);
  EXPECT_EQ(touch(1), std::byte{7});
  ASSERT_TRUE(succeeded(register_missing_and_minor(faults_, vm_.address(), kSize)));

  discard(1);
  std::byte value{1};
  {
    const std::jthread guest([&] { value = touch(1); });
    ASSERT_TRUE(wait_for_event());
    EXPECT_EQ(zero_pages(faults_, in_vm(1), {kPageBytes}).outcome, FillOutcome::kFilled);
  }

  EXPECT_EQ(value, std::byte{0});
  EXPECT_EQ(image_.bytes()[kPageBytes], std::byte{7});
}

TEST_F(MemoryFile, PartsThatAreMappedAreFoundAndNothingElse) {
  const auto parts_in = [&](std::uint64_t first, std::uint64_t count) {
    return thaw::parts_in(mappings_of(::getpid(), read_only_).value(),
                          {in_vm(first), bytes_of(PageCount{count})});
  };
  const auto part = [&](std::uint64_t first, std::uint64_t count) {
    return AddressRange{in_vm(first), bytes_of(PageCount{count})};
  };
  EXPECT_EQ(parts_in(0, 8), std::vector{part(0, 8)});
  std::byte* const memory = vm_.bytes().data();
  ASSERT_EQ(::munmap(memory + 2 * kPageBytes, 2 * kPageBytes), 0);
  ASSERT_EQ(::mmap(memory + 5 * kPageBytes, kPageBytes, PROT_READ,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            memory + 5 * kPageBytes);

  EXPECT_EQ(parts_in(0, 8), (std::vector{part(0, 2), part(4, 1), part(6, 2)}));
  EXPECT_EQ(parts_in(1, 6), (std::vector{part(1, 1), part(4, 1), part(6, 1)}));
  EXPECT_TRUE(parts_in(2, 2).empty());
  EXPECT_EQ(code_of(mappings_of(0, read_only_)), ErrorCode::kUnsupported);
  constexpr pid_t kNoProcess = std::numeric_limits<pid_t>::max();
  EXPECT_EQ(code_of(mappings_of(kNoProcess, read_only_)), ErrorCode::kNotFound);
}

TEST_F(MemoryFile, RangeWithNothingOrSomethingElseInItCannotBeRegistered) {
  std::byte* const memory = vm_.bytes().data();
  ASSERT_EQ(::munmap(memory + 4 * kPageBytes, 4 * kPageBytes), 0);
  EXPECT_TRUE(succeeded(register_missing_and_minor(faults_, in_vm(0), kSize))) << "a hole is fine";
  EXPECT_FALSE(succeeded(register_missing_and_minor(faults_, in_vm(4), {4 * kPageBytes})));
  ASSERT_NE(::mmap(memory + 5 * kPageBytes, kPageBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            MAP_FAILED);
  EXPECT_FALSE(succeeded(register_missing_and_minor(faults_, in_vm(0), kSize)));
}

TEST_F(MemoryFile, SealedFileKeepsItsSizeAndIsNotWrittenThroughWhatIsGivenAway) {
  bring(1);
  const int given = read_only_.get();
  EXPECT_EQ(code_of(write_at(read_only_, page_, 0)), ErrorCode::kIo);
  EXPECT_NE(::fallocate(given, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPageBytes), 0);
  EXPECT_EQ(::mmap(nullptr, kSize.value, PROT_READ | PROT_WRITE, MAP_SHARED, given, 0), MAP_FAILED);
  EXPECT_NE(::ftruncate(file_.get(), 0), 0);
  EXPECT_TRUE(keeps_its_size(read_only_));
  EXPECT_FALSE(keeps_its_size(create_memory_file("open", kSize).value()));
}

TEST_F(MemoryFile, TouchingWhatIsNotRegisteredMakesAPageForAll) {
  Mapping careless = Mapping::copy_on_write(read_only_, {0}, kSize).value();
  ASSERT_TRUE(succeeded(careless.allow_access()));
  EXPECT_EQ(careless.bytes()[4 * kPageBytes], std::byte{0});
  EXPECT_EQ(allocated_bytes(file_).value(), ByteCount{kPageBytes});
  EXPECT_EQ(copy_pages(image_faults_, in_image(4), page_).outcome, FillOutcome::kExists);
}

}  // namespace
}  // namespace thaw
