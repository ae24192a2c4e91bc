#include "pageserver/snapshot_pins.h"

#include <future>
#include <thread>

#include "tests/support/programs.h"
#include "tests/support/test_support.h"
#include "tests/support/unsupported_store.h"

namespace thaw::test {
namespace {

constexpr NamespaceId kIn{1};

/// Has every snapshot but those that were removed.
class Snapshots final : public UnsupportedStore {
 public:
  Result<Bytes> manifest(NamespaceId, SnapshotId snapshot) override {
    const std::lock_guard lock(mutex_);
    if (removed_.contains(snapshot)) return fail(ErrorCode::kNotFound, "removed");
    return Bytes();
  }
  Result<void> remove(NamespaceId, SnapshotId snapshot) override {
    const std::lock_guard lock(mutex_);
    removed_.insert(snapshot);
    return {};
  }

 private:
  std::mutex mutex_;
  std::set<SnapshotId> removed_;
};

class SnapshotPinsTest : public testing::Test {
 protected:
  Snapshots store_;
  SnapshotPins pins_;
};

/// The removal does not end before another snapshot was pinned.
TEST_F(SnapshotPinsTest, RemovalHoldsUpNoOtherPin) {
  std::promise<void> begun;
  std::promise<void> go_on;
  std::jthread remover([&] {
    const auto removed = pins_.unless_pinned(kIn, {1}, [&]() -> Result<void> {
      begun.set_value();
      EXPECT_EQ(go_on.get_future().wait_for(kPatience), std::future_status::ready);
      return store_.remove(kIn, {1});
    });
    EXPECT_TRUE(*removed);
  });
  ASSERT_EQ(begun.get_future().wait_for(kPatience), std::future_status::ready);
  EXPECT_TRUE(succeeded(pins_.pin(store_, kIn, {2})));
  pins_.unpin(kIn, {2});
  go_on.set_value();
  EXPECT_EQ(code_of(pins_.pin(store_, kIn, {1})), ErrorCode::kNotFound)
      << "the pin of this one waits for the outcome";
}

TEST_F(SnapshotPinsTest, WhatIsPinnedStays) {
  ASSERT_TRUE(succeeded(pins_.pin(store_, kIn, {1})));
  EXPECT_FALSE(*pins_.unless_pinned(kIn, {1}, [&] { return store_.remove(kIn, {1}); }));
  pins_.unpin(kIn, {1});
  EXPECT_TRUE(*pins_.unless_pinned(kIn, {1}, [&] { return store_.remove(kIn, {1}); }));
  EXPECT_EQ(code_of(pins_.pin(store_, kIn, {1})), ErrorCode::kNotFound);
  EXPECT_TRUE(*pins_.unless_pinned(kIn, {1}, [] { return Result<void>(); }))
      << "a pin that failed does not count";
}

TEST_F(SnapshotPinsTest, WhatWasUnpinnedIsForgottenAfterTheGrace) {
  for (std::uint64_t i = 1; i <= 1000; ++i) {
    ASSERT_TRUE(succeeded(pins_.pin(store_, kIn, {i})));
    pins_.unpin(kIn, {i});
  }
  EXPECT_LE(pins_.lately_unpinned(), 1u) << "without one is asked for being settled";
}

}  // namespace
}  // namespace thaw::test
