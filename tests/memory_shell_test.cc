#include "vmm-client/memory_shell.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/memory_file.h"
#include "tests/support/huge_page_pool.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"
#include "vmm-client/restore_pool.h"

namespace thaw::test {
namespace {

constexpr ByteCount kSmall{kPageBytes};
constexpr ByteCount kHuge{kHugePageBytes};

Deadline soon() { return Deadline::after(kPatience); }

/// 64 pages of memory and a file with this content.
class MemoryShellTest : public testing::Test {
 protected:
  MemoryShellTest() { write_file(path_, image_); }

  static Bytes content_of(const GuestMemory& memory) {
    Bytes all;
    for (std::size_t i = 0; i < memory.region_count(); ++i) {
      all.insert(all.end(), memory.region(i).begin(), memory.region(i).end());
    }
    return all;
  }
  Result<void> restore(const RestoreSource& source) {
    PhaseTimer phases;
    return MemoryShell(GuestMemory::create(shapes_).value()).restore(source, soon(), phases);
  }

  const std::vector<GuestRegion> shapes_{{{3 * kPageBytes}, kSmall}, {{61 * kPageBytes}, kSmall}};
  const Bytes image_ = make_image(1, 64);
  const ScratchDirectory directory_;
  const std::string path_ = directory_.path("image");
};

TEST_F(MemoryShellTest, PoolRestoresFromBytesAndFromAFile) {
  auto factory = std::make_unique<MemoryShellFactory>(shapes_);
  const auto pool = RestorePool::create(std::move(factory), {.min = 0, .max = 2}).value();
  ASSERT_EQ(pool->warm(1).value(), 1u);

  RestoredVm pooled = pool->restore({ImageBytes{image_}, ""}, soon()).value();
  RestoredVm made = pool->restore({ImageFile{path_}, ""}, soon()).value();

  EXPECT_EQ(content_of(pooled.as<MemoryShell>().memory()), image_);
  EXPECT_EQ(content_of(made.as<MemoryShell>().memory()), image_);
  EXPECT_TRUE(pooled.profile().us_of("contents"));
  EXPECT_FALSE(pooled.profile().us_of("memory"));
  EXPECT_TRUE(made.profile().us_of("memory"));
}

TEST_F(MemoryShellTest, HolesOfAFileAreZeros) {
  Bytes sparse(image_.size());
  const UniqueFd file = create_memory_file("sparse", {sparse.size()}).value();
  for (const std::size_t page : {2u, 3u, 40u}) {  // a region begins with page 3
    const std::size_t at = page * kPageBytes;
    std::fill_n(sparse.begin() + static_cast<std::ptrdiff_t>(at), 100, std::byte{7});
    ASSERT_TRUE(succeeded(write_at(file, ByteSpan(sparse).subspan(at, 100), at)));
  }
  GuestMemory memory = GuestMemory::create(shapes_).value();

  ASSERT_TRUE(succeeded(memory.fill(file)));

  EXPECT_EQ(content_of(memory), sparse);
  EXPECT_EQ(allocated_bytes(file).value().value, 3 * kPageBytes);
}

TEST_F(MemoryShellTest, HugePagesBesideSmallOnesAreFilled) {
  const HugePagePool huge_pages(2);
  if (huge_pages.free() < 2) GTEST_SKIP() << "needs two free 2 MiB pages in the hugetlbfs pool";
  const std::array shapes{GuestRegion{kSmall, kSmall}, GuestRegion{{2 * kHugePageBytes}, kHuge}};
  const Bytes image = make_image(2, 1 + 2 * kHugePageBytes / kPageBytes);
  write_file(path_, image);
  for (const MemorySource& source : {MemorySource(ImageFile{path_}), {ImageBytes{image}}}) {
    GuestMemory memory = GuestMemory::create(shapes).value();
    PhaseTimer phases;
    ASSERT_TRUE(succeeded(restore_memory(memory, source, soon(), phases)));
    EXPECT_EQ(content_of(memory), image);
  }
}

TEST_F(MemoryShellTest, FilledMemoryIsLikeAnyOther) {
  GuestMemory memory = GuestMemory::create(shapes_).value();
  ASSERT_TRUE(succeeded(memory.fill(ByteSpan(image_))));
  memory.region(1)[0] = std::byte{99};
  EXPECT_EQ(memory.region(1)[0], std::byte{99});

  ASSERT_TRUE(succeeded(memory.discard(1, {0}, kSmall)));

  EXPECT_EQ(memory.region(1)[0], std::byte{0});  // nobody serves it, nobody waits
  EXPECT_EQ(code_of(memory.fill(ByteSpan(image_))), ErrorCode::kAlreadyExists);
  EXPECT_EQ(code_of(memory.hand_over(directory_.path("none"), soon())), ErrorCode::kAlreadyExists);
}

TEST_F(MemoryShellTest, RefusesSourcesByName) {
  EXPECT_EQ(code_of(restore({ImageBytes{ByteSpan(image_).first(kPageBytes)}, ""})),
            ErrorCode::kRegionMismatch);
  write_file(path_, Bytes(65 * kPageBytes));
  EXPECT_EQ(code_of(restore({ImageFile{path_}, ""})), ErrorCode::kRegionMismatch);
  EXPECT_EQ(code_of(restore({ImageFile{directory_.path("none")}, ""})), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(restore({PreparedSession{directory_.path("none")}, ""})), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(restore({ImageBytes{image_}, "state"})), ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace thaw::test
