// What a restored VM writes is found without looking at its memory, and becomes a snapshot, with
// the memory served by the real programs.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "tests/support/huge_page_pool.h"
#include "tests/support/restore_fixture.h"
#include "vmm-client/guest_memory.h"

namespace thaw::test {
namespace {

constexpr std::size_t kHugePages = kHugePageBytes / kPageBytes;  // small ones in a huge one

class TrackedWritesTest : public RestoreTest {
 protected:
  GuestMemory restore(ByteCount page_size = {kPageBytes}) {
    const std::vector<GuestRegion> shapes{{{image_.size()}, page_size}};
    GuestMemory memory = GuestMemory::create(shapes, WriteTracking::kOn).value();
    CHECK(memory.hand_over(path("vm"), Deadline::after(kPatience)).has_value());
    return memory;
  }
  /// Writes to pages that are and that are not in `memory` yet, gives others back, and keeps the
  /// books.
  void change(GuestMemory& memory) {
    const MutableByteSpan bytes = memory.region(0);
    for (std::size_t page = 0; page < kPages; page += 64) {
      if (page % 256 == 0) {
        EXPECT_EQ(bytes[page * kPageBytes], image_[page * kPageBytes]);
      }
      bytes[page * kPageBytes + 5] = image_[page * kPageBytes + 5] = std::byte{0xa5};
      changed_[page] = true;
    }
    constexpr std::size_t kGiven = 1001;
    constexpr std::size_t kCount = 30;
    ASSERT_TRUE(succeeded(memory.discard(0, {kGiven * kPageBytes}, bytes_of(PageCount{kCount}))));
    std::fill_n(image_.begin() + kGiven * kPageBytes, kCount * kPageBytes, std::byte{0});
    std::fill_n(changed_.begin() + kGiven, kCount, true);
    EXPECT_EQ(bytes[(kGiven + 3) * kPageBytes], std::byte{0});
  }
  /// Pushes the changed pages of the memory, and pulls the snapshot they make.
  Bytes pushed(const GuestMemory& memory, const std::vector<bool>& changed) {
    {
      std::ofstream file(path("changes"), std::ios::binary);
      for (std::size_t page = 0; page < changed.size(); ++page) {
        if (!changed[page]) continue;
        const ByteSpan content = memory.region(0).subspan(page * kPageBytes, kPageBytes);
        file.seekp(static_cast<std::streamoff>(page * kPageBytes));
        file.write(as_text(content).data(), kPageBytes);
      }
    }
    std::filesystem::resize_file(path("changes"), image_.size());
    EXPECT_EQ(
        server_
            .thaw({"push", "child", "--parent", "snapshot", "--diff", "--memory", path("changes")})
            .exit_code,
        0);
    EXPECT_EQ(server_.thaw({"pull", "child", "--memory", path("pulled")}).exit_code, 0);
    return read_file(path("pulled"));
  }

  std::vector<bool> changed_ = std::vector<bool>(kPages);
};

INSTANTIATE_TEST_SUITE_P(Loops, TrackedWritesTest,
                         testing::Values(LoopKind::kUring, LoopKind::kEpoll), loop_name);

TEST_P(TrackedWritesTest, WritesBecomeASnapshot) {
  prepare();
  GuestMemory memory = restore();
  change(memory);

  const auto changed = memory.changed_pages(0).value();

  EXPECT_EQ(changed, changed_);
  EXPECT_EQ(pushed(memory, changed), image_);
}

TEST_P(TrackedWritesTest, PrefetchedPagesAreUnwritten) {
  const std::uint64_t session = prepare({"--no-record", "--hydrate-mib-s", "1000"});
  GuestMemory memory = restore();
  wait_for(session, [](const Json& report) { return report["present_pages"] == kPages; });
  EXPECT_EQ(memory.changed_pages(0).value(), std::vector<bool>(kPages));

  change(memory);

  EXPECT_EQ(memory.changed_pages(0).value(), changed_);
  // Detached, it would forget.
  EXPECT_EQ(this->session(session)["state"], "serving");
  EXPECT_TRUE(std::ranges::equal(memory.region(0), image_));
}

TEST_P(TrackedWritesTest, HugePagesAreTrackedWhole) {
  const std::size_t needed = kPages / kHugePages;
  const HugePagePool pool(needed);
  if (pool.free() < needed) GTEST_SKIP() << "needs " << needed << " free 2 MiB pages";
  prepare();
  GuestMemory memory = restore({kHugePageBytes});
  const MutableByteSpan bytes = memory.region(0);
  EXPECT_TRUE(std::ranges::equal(bytes, image_));
  EXPECT_EQ(memory.changed_pages(0).value(), std::vector<bool>(kPages));

  bytes[3 * kHugePageBytes + 12345] = std::byte{1};

  std::fill_n(changed_.begin() + 3 * kHugePages, kHugePages, true);
  EXPECT_EQ(memory.changed_pages(0).value(), changed_);
}

}  // namespace
}  // namespace thaw::test
