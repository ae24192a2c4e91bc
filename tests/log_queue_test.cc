// The log between its callers and its writer: floods, and what is lost, by a clock of the test.

#include "base/log_queue.h"

#include <gtest/gtest.h>

#include "base/limits.h"

namespace thaw {
namespace {

using std::chrono::seconds;

constexpr unsigned kBurst = limits::kLogFloodBurst;

class LogFloodTest : public testing::Test {
 protected:
  bool admit(std::string_view kind, std::string_view line) {
    return flood_.admit(LogLevel::kWarning, kind, line, now_);
  }
  unsigned admitted(std::string_view kind, unsigned lines) {
    unsigned passed = 0;
    for (unsigned i = 0; i < lines; ++i) passed += admit(kind, fmt::format("line {}", i)) ? 1 : 0;
    return passed;
  }
  /// The texts that are due so much later.
  std::vector<std::string> after(seconds time) {
    now_ += time;
    std::vector<std::string> texts;
    for (LogFlood::Summary& summary : flood_.take_due(now_)) texts.push_back(summary.text);
    return texts;
  }

  LogFlood flood_;
  Clock::time_point now_ = Clock::now();
};

TEST_F(LogFloodTest, OfOneKindAFewLinesPassAndTheRestAreCounted) {
  EXPECT_EQ(admitted("kind", 100), kBurst);
  EXPECT_TRUE(after(seconds(9)).empty());
  EXPECT_EQ(flood_.next_due(), now_ + seconds(1));
  EXPECT_EQ(after(seconds(1)), std::vector<std::string>{fmt::format(
                                   "kind: {} more in 10 s, the last: line 99", 100 - kBurst)});
  EXPECT_EQ(flood_.next_due(), std::nullopt);
}

TEST_F(LogFloodTest, TheSameTextIsAKindByItself) {
  for (unsigned i = 0; i < kBurst; ++i) {
    EXPECT_TRUE(admit({}, "again"));
    EXPECT_TRUE(admit({}, fmt::format("other {}", i)));
  }
  EXPECT_FALSE(admit({}, "again"));
  EXPECT_TRUE(admit({}, "something else"));
  EXPECT_EQ(after(seconds(10)), std::vector<std::string>{"1 more in 10 s of: again"});
}

TEST_F(LogFloodTest, KindsAndLevelsDoNotHideEachOther) {
  EXPECT_EQ(admitted("one", 100), kBurst);
  EXPECT_EQ(admitted("two", 100), kBurst);
  EXPECT_TRUE(flood_.admit(LogLevel::kError, "one", "line", now_));
}

TEST_F(LogFloodTest, WhileAFloodLastsItHasSummariesAloneAndFewerOfThem) {
  EXPECT_EQ(admitted("kind", 100), kBurst);
  EXPECT_EQ(after(seconds(10)).size(), 1u);
  EXPECT_EQ(admitted("kind", 100), 0u);
  EXPECT_TRUE(after(seconds(19)).empty());
  EXPECT_EQ(after(seconds(1)).size(), 1u);
  unsigned summaries = 0;
  for (int i = 0; i < 3600; ++i) {
    admitted("kind", 1);
    summaries += static_cast<unsigned>(after(seconds(1)).size());
  }
  EXPECT_LE(summaries, 3600 / limits::kLogFloodMost.count() + 5);
}

TEST_F(LogFloodTest, AfterAQuietPeriodLinesPassAgain) {
  EXPECT_EQ(admitted("kind", 100), kBurst);
  EXPECT_EQ(after(seconds(10)).size(), 1u);
  EXPECT_TRUE(after(seconds(20)).empty());
  EXPECT_EQ(admitted("kind", 100), kBurst);
}

TEST_F(LogFloodTest, OfManyKindsThoseThatAreNoFloodAreForgottenFirst) {
  EXPECT_EQ(admitted("flood", 100), kBurst);
  for (std::size_t i = 0; i < 3 * limits::kMaxLogKinds; ++i) {
    EXPECT_TRUE(admit({}, fmt::format("text {}", i)));
  }
  EXPECT_EQ(admitted("flood", 100), 0u);
}

TEST_F(LogFloodTest, AFloodThatIsForgottenIsCountedAllTheSame) {
  std::uint64_t counted = 0;
  const auto count = [&](const std::vector<std::string>& texts) { counted += texts.size(); };
  for (std::size_t i = 0; i < 2 * limits::kMaxLogKinds; ++i) {
    EXPECT_EQ(admitted(fmt::format("flood {}", i), kBurst + 1), kBurst);
    count(after(seconds(0)));
  }
  for (const auto& summary : flood_.take_all(now_)) counted += summary.text.empty() ? 0 : 1;
  EXPECT_EQ(counted, 2 * limits::kMaxLogKinds);
}

class LogQueueTest : public testing::Test {
 protected:
  void add(const std::string& text) { queue_.add(LogLevel::kInfo, {}, text, now_); }
  std::string take() { return queue_.take(now_).text; }

  LogQueue queue_;
  LogQueue::Now now_ = LogQueue::Now::read();
};

TEST_F(LogQueueTest, LinesComeOutInTheirOrder) {
  add("one");
  add("two");

  EXPECT_EQ(take(), "one");
  EXPECT_EQ(take(), "two");
  EXPECT_TRUE(queue_.empty());
}

TEST_F(LogQueueTest, WhatHasNoRoomIsCountedInItsPlace) {
  for (std::size_t i = 0; i < limits::kMaxLogLines + 7; ++i) add(fmt::format("line {}", i));
  EXPECT_EQ(take(), "line 0");
  EXPECT_EQ(take(), "line 1");
  add("later");

  for (std::size_t i = 2; i < limits::kMaxLogLines; ++i)
    EXPECT_EQ(take(), fmt::format("line {}", i));
  EXPECT_EQ(take(), "7 lines lost: the log took no more");
  EXPECT_EQ(take(), "later");
  EXPECT_TRUE(queue_.empty());
}

TEST_F(LogQueueTest, LossIsToldWithoutAFurtherLine) {
  for (std::size_t i = 0; i < limits::kMaxLogLines + 1; ++i) add(fmt::format("line {}", i));
  for (std::size_t i = 0; i < limits::kMaxLogLines; ++i) take();

  ASSERT_FALSE(queue_.empty());
  const LogLine lost = queue_.take(now_);
  EXPECT_EQ(lost.text, "1 line lost: the log took no more");
  EXPECT_EQ(lost.stands_for, 1u);
  EXPECT_TRUE(queue_.empty());
}

TEST_F(LogQueueTest, BytesAreBoundedToo) {
  const std::string filler(limits::kMaxLogLineBytes - 10, 'x');
  for (std::size_t i = 0; i < limits::kMaxLogLines; ++i) add(fmt::format("{}{:08}", filler, i));
  std::size_t bytes = 0;
  std::size_t lines = 0;
  for (; !queue_.empty(); ++lines) bytes += take().size();

  EXPECT_LE(bytes, limits::kMaxLogBytes + limits::kMaxLogLineBytes);
  EXPECT_LT(lines, limits::kMaxLogLines);
}

TEST_F(LogQueueTest, SummariesStandWhereTheyAreDue) {
  for (unsigned i = 0; i < kBurst + 3; ++i) add("again");
  now_.steady += seconds(10);
  add("later");

  for (unsigned i = 0; i < kBurst; ++i) EXPECT_EQ(take(), "again");
  EXPECT_EQ(take(), "3 more in 10 s of: again");
  EXPECT_EQ(take(), "later");
}

TEST_F(LogQueueTest, TheEndOfTheLogTellsOfAllFloods) {
  for (unsigned i = 0; i < kBurst + 3; ++i) add("again");
  for (unsigned i = 0; i < kBurst; ++i) take();
  queue_.add_all_summaries(now_);

  EXPECT_EQ(take(), "3 more in 0 s of: again");
  EXPECT_TRUE(queue_.empty());
}

}  // namespace
}  // namespace thaw
