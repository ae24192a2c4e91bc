#include "pageserver/retention.h"

#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr std::uint64_t kNow = 1'800'000'000'000;  // 2027

/// Snapshots 1, 2, ... of which each is a hundred seconds older than the next, the last one now.
std::vector<Manifest> snapshots(std::size_t count) {
  std::vector<Manifest> all(count);
  for (std::size_t i = 0; i < count; ++i) {
    all[i].snapshot = {i + 1};
    all[i].spec.name = std::to_string(i + 1);
    all[i].created_unix_ms = kNow - (count - 1 - i) * 100'000;
  }
  return all;
}

std::vector<std::string> names(const std::vector<Manifest>& all,
                               const message::NamespaceSettings& settings,
                               const std::set<std::string>& tagged = {}) {
  std::vector<std::string> names;
  for (const Manifest* const old : outdated(all, tagged, settings, kNow)) {
    names.push_back(old->spec.name);
  }
  return names;
}

using Names = std::vector<std::string>;

TEST(Retention, WithoutBoundsEverythingStays) { EXPECT_EQ(names(snapshots(9), {}), Names{}); }

TEST(Retention, ByCount) {
  EXPECT_EQ(names(snapshots(5), {.keep_last = 3}), (Names{"1", "2"}));
  EXPECT_EQ(names(snapshots(3), {.keep_last = 3}), Names{});
}

TEST(Retention, ByAge) {
  EXPECT_EQ(names(snapshots(5), {.keep_seconds = 250}), (Names{"1", "2"}));
  EXPECT_EQ(names(snapshots(5), {.keep_seconds = 1'000'000}), Names{});
  std::vector<Manifest> of_the_future = snapshots(1);
  of_the_future[0].created_unix_ms = kNow + 5'000;
  EXPECT_EQ(names(of_the_future, {.keep_seconds = 1}), Names{});
}

TEST(Retention, WhatEitherBoundKeepsStays) {
  EXPECT_EQ(names(snapshots(5), {.keep_last = 1, .keep_seconds = 250}), (Names{"1", "2"}));
  EXPECT_EQ(names(snapshots(5), {.keep_last = 4, .keep_seconds = 50}), Names{"1"});
}

TEST(Retention, TaggedOnesStayAndCount) {
  EXPECT_EQ(names(snapshots(5), {.keep_last = 2}, {"1", "5"}), (Names{"2", "3"}));
}

TEST(Retention, EachValueOfALabelCountsOnItsOwn) {
  std::vector<Manifest> all = snapshots(6);
  for (const std::size_t i : {0, 1, 2}) all[i].spec.labels = {{"app", "a"}};
  for (const std::size_t i : {3, 4}) all[i].spec.labels = {{"x", "a"}, {"app", "b"}};
  EXPECT_EQ(names(all, {.keep_last = 1, .keep_per_label = "app"}), (Names{"1", "2", "4"}));
}

}  // namespace
}  // namespace thaw::test
