#include "vmm-client/restore_pool.h"

#include <functional>
#include <future>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/programs.h"
#include "tests/support/scripted_shells.h"
#include "tests/support/test_support.h"
#include "vmm-client/limits.h"

namespace thaw::test {
namespace {

Deadline soon() { return Deadline::after(kPatience); }

const RestoreSource kSource{.memory = PreparedSession{"socket"}, .state_path = "state"};

class RestorePoolTest : public testing::Test {
 protected:
  std::unique_ptr<RestorePool> make_pool(PoolSize size) {
    return RestorePool::create(std::make_unique<ScriptedShellFactory>(script_), size).value();
  }
  /// Whether the pool comes to be as it should.
  static bool wait_until(const RestorePool& pool,
                         const std::function<bool(const PoolReport&)>& done) {
    const Deadline deadline = soon();
    while (!done(pool.report()) && !deadline.passed()) std::this_thread::yield();
    return done(pool.report());
  }
  static bool has_failed(const PoolReport& report) { return report.replenish_error.has_value(); }
  static bool wait_for_idle(const RestorePool& pool, std::size_t count) {
    return wait_until(pool, [&](const PoolReport& report) {
      return report.idle == count && report.being_made == 0;
    });
  }
  std::vector<std::string> phases_of(const RestoredVm& vm) {
    std::vector<std::string> names;
    for (const RestorePhase& phase : vm.profile().phases) names.emplace_back(phase.name);
    return names;
  }

  ShellScript script_;
};

TEST_F(RestorePoolTest, WarmMakesShellsUpToTheTargetAndTheRoom) {
  const auto pool = make_pool({.min = 0, .max = 3});
  EXPECT_EQ(pool->idle_count(), 0u);
  EXPECT_EQ(pool->warm(2).value(), 2u);
  EXPECT_EQ(pool->warm(1).value(), 2u);
  EXPECT_EQ(pool->warm(9).value(), 3u);
  EXPECT_EQ(pool->idle_count(), 3u);
  EXPECT_EQ(script_.created(), 3u);
}

TEST_F(RestorePoolTest, PooledRestoreCreatesNothing) {
  const auto pool = make_pool({.min = 0, .max = 2});
  ASSERT_EQ(pool->warm(1).value(), 1u);

  RestoredVm vm = pool->restore(kSource, soon()).value();

  EXPECT_EQ(script_.created(), 1u);
  EXPECT_EQ(vm.as<ScriptedShell>().restored_from(), "state");
  EXPECT_EQ(vm.profile().origin, ShellOrigin::kPooled);
  EXPECT_EQ(phases_of(vm), (std::vector<std::string>{"shell", "handover", "state"}));
  EXPECT_EQ(pool->report().idle, 0u);
  EXPECT_EQ(pool->report().in_use, 1u);
}

TEST_F(RestorePoolTest, EmptyPoolCreatesOnDemand) {
  const auto pool = make_pool({.min = 0, .max = 1});

  const RestoredVm vm = pool->restore(kSource, soon()).value();

  EXPECT_EQ(vm.profile().origin, ShellOrigin::kOnDemand);
  EXPECT_EQ(phases_of(vm),
            (std::vector<std::string>{"shell", "memory", "vcpus", "handover", "state"}));
  std::uint64_t sum = 0;
  for (const std::string& name : phases_of(vm)) sum += vm.profile().us_of(name).value();
  EXPECT_EQ(vm.profile().total_us(), sum);
  EXPECT_EQ(vm.profile().us_of("contents"), std::nullopt);
}

TEST_F(RestorePoolTest, NoMoreThanMaxExist) {
  const auto pool = make_pool({.min = 0, .max = 2});
  std::vector<RestoredVm> vms;
  vms.reserve(2);
  for (int i = 0; i < 2; ++i) vms.push_back(pool->restore(kSource, soon()).value());

  EXPECT_EQ(code_of(pool->restore(kSource, soon())), ErrorCode::kLimitExceeded);
  EXPECT_EQ(pool->warm(1).value(), 0u);
  vms.pop_back();
  EXPECT_EQ(script_.alive(), 1u);
  EXPECT_TRUE(succeeded(pool->restore(kSource, soon())));
  EXPECT_EQ(script_.most_alive(), 2u);
}

TEST_F(RestorePoolTest, ShellsBeingMadeCount) {
  script_.hold_creations();
  const auto pool = make_pool({.min = 1, .max = 1});
  ASSERT_TRUE(script_.wait_for_creations(1));

  EXPECT_EQ(code_of(pool->restore(kSource, soon())), ErrorCode::kLimitExceeded);
  EXPECT_EQ(pool->report().being_made, 1u);
  script_.let_creations_go();
  EXPECT_EQ(pool->warm(1).value(), 1u);  // waits for the pool's thread
  EXPECT_TRUE(succeeded(pool->restore(kSource, soon())));
}

TEST_F(RestorePoolTest, ReleaseReplenishesDownToMin) {
  const auto pool = make_pool({.min = 2, .max = 3});
  ASSERT_TRUE(wait_for_idle(*pool, 2));
  std::optional first = pool->restore(kSource, soon()).value();
  std::optional second = pool->restore(kSource, soon()).value();
  ASSERT_TRUE(wait_for_idle(*pool, 1));  // no room for more

  first.reset();

  EXPECT_TRUE(wait_for_idle(*pool, 2));
  EXPECT_EQ(pool->report().in_use, 1u);
  EXPECT_EQ(script_.alive(), 3u);
  EXPECT_LE(script_.most_alive(), 3u);
}

TEST_F(RestorePoolTest, NoShellIsUsedTwice) {
  const auto pool = make_pool({.min = 0, .max = 1});
  const std::size_t first = pool->restore(kSource, soon()).value().as<ScriptedShell>().number();
  const std::size_t second = pool->restore(kSource, soon()).value().as<ScriptedShell>().number();
  EXPECT_NE(first, second);
  EXPECT_EQ(script_.alive(), 0u);
}

TEST_F(RestorePoolTest, FailedCreationFreesItsPlace) {
  const auto pool = make_pool({.min = 0, .max = 1});
  script_.fail_creations(2);

  EXPECT_EQ(code_of(pool->restore(kSource, soon())), ErrorCode::kNoSpace);
  EXPECT_EQ(code_of(pool->warm(1)), ErrorCode::kNoSpace);

  EXPECT_EQ(pool->report().in_use + pool->report().being_made, 0u);
  EXPECT_TRUE(succeeded(pool->restore(kSource, soon())));
}

TEST_F(RestorePoolTest, WarmKeepsWhatItMadeBeforeAFailure) {
  const auto pool = make_pool({.min = 0, .max = 3});
  ASSERT_EQ(pool->warm(1).value(), 1u);
  script_.fail_creations(1);
  EXPECT_EQ(code_of(pool->warm(3)), ErrorCode::kNoSpace);
  EXPECT_EQ(pool->idle_count(), 1u);
  EXPECT_EQ(pool->warm(3).value(), 3u);
}

TEST_F(RestorePoolTest, ShellThatFailedToRestoreIsDestroyed) {
  const auto pool = make_pool({.min = 0, .max = 1});
  ASSERT_EQ(pool->warm(1).value(), 1u);
  script_.fail_restores(2);

  EXPECT_EQ(code_of(pool->restore(kSource, soon())), ErrorCode::kCorrupt);  // pooled
  EXPECT_EQ(script_.alive(), 0u);
  EXPECT_EQ(code_of(pool->restore(kSource, soon())), ErrorCode::kCorrupt);  // made on demand
  EXPECT_EQ(script_.alive(), 0u);

  EXPECT_EQ(pool->report().in_use, 0u);
  EXPECT_TRUE(succeeded(pool->restore(kSource, soon())));
  EXPECT_EQ(script_.created(), 3u);
}

TEST_F(RestorePoolTest, FailureInTheBackgroundIsReportedAndTriedAgain) {
  script_.fail_creations(1);
  const auto pool = make_pool({.min = 1, .max = 1});
  ASSERT_TRUE(wait_until(*pool, has_failed));
  EXPECT_EQ(pool->report().replenish_error->code(), ErrorCode::kNoSpace);
  EXPECT_EQ(pool->report().being_made, 0u);

  EXPECT_TRUE(wait_for_idle(*pool, 1));
  EXPECT_TRUE(wait_until(*pool, std::not_fn(has_failed)));
}

TEST_F(RestorePoolTest, EndOfThePoolDestroysIdleShells) {
  auto pool = make_pool({.min = 2, .max = 4});
  ASSERT_GE(pool->warm(3).value(), 3u);
  pool.reset();
  EXPECT_EQ(script_.alive(), 0u);
  EXPECT_TRUE(script_.factory_gone());
}

TEST_F(RestorePoolTest, EndOfThePoolWaitsForTheShellBeingMade) {
  script_.hold_creations();
  auto pool = make_pool({.min = 4, .max = 4});
  ASSERT_TRUE(script_.wait_for_creations(1));

  auto end = std::async(std::launch::async, [&] { pool.reset(); });
  EXPECT_EQ(end.wait_for(std::chrono::milliseconds(10)), std::future_status::timeout);
  script_.let_creations_go();
  end.get();

  EXPECT_EQ(script_.alive(), 0u);
  EXPECT_TRUE(script_.factory_gone());
}

TEST_F(RestorePoolTest, EndOfThePoolDoesNotWaitForTheNextAttempt) {
  script_.fail_creations(1);
  auto pool = make_pool({.min = 1, .max = 1});
  ASSERT_TRUE(wait_until(*pool, has_failed));
  pool.reset();
  EXPECT_EQ(script_.created(), 0u);
}

TEST_F(RestorePoolTest, RestoredVmMayOutliveThePool) {
  auto pool = make_pool({.min = 0, .max = 2});
  std::optional vm = pool->restore(kSource, soon()).value();
  pool.reset();
  EXPECT_FALSE(script_.factory_gone());
  EXPECT_EQ(vm->as<ScriptedShell>().restored_from(), "state");
  vm.reset();
  EXPECT_EQ(script_.alive(), 0u);
  EXPECT_TRUE(script_.factory_gone());
}

TEST_F(RestorePoolTest, OthersGoOnWhileAShellIsMade) {
  const auto pool = make_pool({.min = 0, .max = 3});
  ASSERT_EQ(pool->warm(1).value(), 1u);
  script_.hold_creations();
  auto slow = std::async(std::launch::async, [&] { return pool->warm(2).value(); });
  ASSERT_TRUE(script_.wait_for_creations(2));

  EXPECT_TRUE(succeeded(pool->restore(kSource, soon())));
  EXPECT_EQ(pool->idle_count(), 0u);

  script_.let_creations_go();
  EXPECT_GE(slow.get(), 1u);
}

TEST_F(RestorePoolTest, RefusesSizesThatCannotBe) {
  for (const PoolSize size : {PoolSize{.min = 0, .max = 0}, PoolSize{.min = 2, .max = 1},
                              PoolSize{.min = 0, .max = limits::kMaxShells + 1}}) {
    auto factory = std::make_unique<ScriptedShellFactory>(script_);
    EXPECT_EQ(code_of(RestorePool::create(std::move(factory), size)), ErrorCode::kInvalidArgument);
  }
}

TEST_F(RestorePoolTest, ManyThreadsNeverExceedMaxAndLoseNoPlace) {
  constexpr unsigned kThreads = 6;
  constexpr PoolSize kSize{.min = 2, .max = 4};
  const unsigned rounds = 300 * test_scale();
  std::mt19937_64 seeds = seeded_generator();
  {
    const auto pool = make_pool(kSize);
    std::vector<std::jthread> threads;
    threads.reserve(kThreads);
    for (unsigned i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, generator = std::mt19937_64(seeds())]() mutable {
        std::optional<RestoredVm> kept;
        for (unsigned round = 0; round < rounds; ++round) {
          const std::uint64_t act = pick(generator, 16);
          if (act == 0) script_.fail_creations(1);
          if (act == 1) script_.fail_restores(1);
          if (act == 2) kept.reset();
          if (act < 4) {
            static_cast<void>(pool->warm(pick(generator, kSize.max + 2)));
            continue;
          }
          auto vm = pool->restore(kSource, soon());
          const PoolReport report = pool->report();
          EXPECT_LE(report.idle + report.being_made + report.in_use, kSize.max);
          if (vm && act < 8) kept.emplace(*std::move(vm));
        }
      });
    }
    threads.clear();
    EXPECT_LE(script_.most_alive(), kSize.max);
    script_.fail_creations(0);
    script_.fail_restores(0);
    EXPECT_TRUE(wait_until(*pool, [](const PoolReport& report) {
      return report.idle >= kSize.min && report.in_use == 0 && report.being_made == 0;
    }));
    EXPECT_EQ(script_.alive(), pool->idle_count());
  }
  EXPECT_EQ(script_.alive(), 0u);
}

}  // namespace
}  // namespace thaw::test
