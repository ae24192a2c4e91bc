// Guest memory in huge pages, against the real kernel.

#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/huge_page_pool.h"
#include "tests/support/semantics.h"

namespace thaw::test {
namespace {

class HugePagesTest : public SemanticsTest {
 protected:
  static constexpr std::size_t kUnit = kHugePageBytes / kPageBytes;

  ~HugePagesTest() override { guest_.reset(); }
  void SetUp() override {
    if (pool_.free() < 4) GTEST_SKIP() << "there is no room for four huge pages";
  }
  /// Two huge pages: one with some content, one without any.
  static PageMap map() {
    PageMap map;
    map.append_zero({1});
    map.append_chunks(kFirst, {300});
    map.append_zero({kUnit - 301 + kUnit});
    return map;
  }
  void start_on(MutableByteSpan memory) {
    guest_ = std::make_unique<ServedGuest>(
        loop_, *link_, GuestOptions{.map = map(), .around = 64, .page_bytes = kHugePageBytes},
        memory);
    guest_->attach();
    server_.accept();
  }
  /// Maps two huge pages.
  static MutableByteSpan map_memory(int flags, int fd) {
    void* const at = ::mmap(nullptr, 2 * kHugePageBytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    EXPECT_NE(at, MAP_FAILED);
    return {static_cast<std::byte*>(at), 2 * kHugePageBytes};
  }
  void expect_all_is_served() {
    GuestThread vcpu([this] {
      for (std::size_t page = 0; page < 2 * kUnit; ++page) {
        ASSERT_TRUE(guest_->has_content(page)) << page;
      }
    });
    // All requests are made before the first is answered.
    std::vector<ScriptedServer::Request> requests;
    for (std::size_t asked = 0; asked < 300; asked += requests.back().required.size()) {
      requests.push_back(server_.next_request());
      EXPECT_TRUE(requests.back().optional.empty());
    }
    for (const auto& request : requests) server_.reply(request);
    vcpu.join();
    EXPECT_EQ(guest_->report().faults.total, 2u);
    guest_->give_back(0, kUnit);
    EXPECT_TRUE(guest_->has_zeros(5));
    EXPECT_EQ(guest_->given_up(), "");
  }

  HugePagePool pool_{4};
};

INSTANTIATE_TEST_SUITE_P(Loops, HugePagesTest, both_loops(), loop_name);

TEST_P(HugePagesTest, AnonymousMemoryIsServedAWholeHugePageAtATime) {
  start_on(map_memory(MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1));
  expect_all_is_served();
}

TEST_P(HugePagesTest, MemoryOfAMemfdIsServedAWholeHugePageAtATime) {
  const UniqueFd file(
      static_cast<int>(::memfd_create("guest", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB)));
  ASSERT_TRUE(file.valid());
  ASSERT_EQ(::ftruncate(file.get(), 2 * kHugePageBytes), 0);
  start_on(map_memory(MAP_PRIVATE, file.get()));
  expect_all_is_served();
}

TEST_P(HugePagesTest, HugePageRemovedWhileItIsPutTogetherIsZero) {
  start_on(map_memory(MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1));
  GuestThread vcpu([this] { EXPECT_TRUE(guest_->has_zeros(5)); });
  std::vector<ScriptedServer::Request> requests;
  for (std::size_t asked = 0; asked < 300; asked += requests.back().required.size()) {
    requests.push_back(server_.next_request());
  }
  server_.reply(requests.front());
  guest_->give_back(0, kUnit);
  for (std::size_t i = 1; i < requests.size(); ++i) server_.reply(requests[i]);
}

}  // namespace
}  // namespace thaw::test
