// VMs out of a pool, with their memory served by the real programs.

#include <algorithm>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/restore_fixture.h"
#include "vmm-client/memory_shell.h"
#include "vmm-client/restore_pool.h"

namespace thaw::test {
namespace {

class PooledRestoreTest : public RestoreTest {
 protected:
  std::unique_ptr<RestorePool> make_pool(PoolSize size) {
    const std::vector<GuestRegion> shapes{{{image_.size()}, {kPageBytes}}};
    return RestorePool::create(std::make_unique<MemoryShellFactory>(shapes), size).value();
  }
  Result<RestoredVm> restore(RestorePool& pool, const std::string& socket) {
    return pool.restore({PreparedSession{path(socket)}, ""}, Deadline::after(kPatience));
  }
  bool is_image(RestoredVm& vm) const {
    return std::ranges::equal(vm.as<MemoryShell>().memory().region(0), image_);
  }
};

INSTANTIATE_TEST_SUITE_P(Loops, PooledRestoreTest, testing::Values(LoopKind::kUring), loop_name);

TEST_P(PooledRestoreTest, VmsOfOnePoolHaveTheirContent) {
  const auto pool = make_pool({.min = 0, .max = 3});
  ASSERT_EQ(pool->warm(2).value(), 2u);
  std::vector<std::future<ShellOrigin>> restores;
  for (const std::string socket : {"one", "two", "three"}) {
    prepare({}, socket);
    restores.push_back(std::async(std::launch::async, [&, socket] {
      RestoredVm vm = restore(*pool, socket).value();
      EXPECT_TRUE(is_image(vm));
      EXPECT_TRUE(vm.profile().us_of("handover"));
      return vm.profile().origin;
    }));
  }

  std::size_t pooled = 0;
  for (auto& done : restores) pooled += done.get() == ShellOrigin::kPooled ? 1 : 0;

  EXPECT_EQ(pooled, 2u);
  EXPECT_EQ(pool->report().in_use, 0u);
}

TEST_P(PooledRestoreTest, SessionThatIsNotThereCostsOneShell) {
  const auto pool = make_pool({.min = 0, .max = 1});
  ASSERT_EQ(pool->warm(1).value(), 1u);
  EXPECT_EQ(code_of(restore(*pool, "nobody")), ErrorCode::kNotFound);
  EXPECT_EQ(pool->idle_count(), 0u);

  prepare();
  RestoredVm vm = restore(*pool, "vm").value();

  EXPECT_TRUE(is_image(vm));
  EXPECT_EQ(code_of(restore(*pool, "vm")), ErrorCode::kLimitExceeded);
}

TEST_P(PooledRestoreTest, ReleaseEndsTheSession) {
  const auto pool = make_pool({.min = 0, .max = 1});
  const std::uint64_t session = prepare();
  std::optional vm = restore(*pool, "vm").value();
  wait_for_state(session, "serving");

  vm.reset();

  EXPECT_EQ(wait_for_state(session, "ended")["outcome"], "the VMM gave its memory up");
}

TEST_P(PooledRestoreTest, NothingOfAReleasedVmReachesTheNext) {
  const Bytes other = make_image(3, kPages);
  write_file(path("other"), other);
  ASSERT_EQ(server_.thaw({"push", "other", "--memory", path("other")}).exit_code, 0);
  const auto pool = make_pool({.min = 0, .max = 1});
  for (int round = 0; round < 4; ++round) {
    prepare({"--no-record", "--hydrate-mib-s", "200"}, "first");
    prepare({"--no-prefetch"}, "second", "other");
    EXPECT_TRUE(succeeded(restore(*pool, "first")));  // released while it is hydrated

    RestoredVm next = restore(*pool, "second").value();  // most likely at the same addresses

    EXPECT_TRUE(std::ranges::equal(next.as<MemoryShell>().memory().region(0), other));
  }
}

}  // namespace
}  // namespace thaw::test
