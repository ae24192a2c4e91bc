// The parts of recording and prefetching, each alone.

#include <algorithm>
#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "base/event_fd.h"
#include "faulthandler/copy_gate.h"
#include "faulthandler/plain_buffers.h"
#include "faulthandler/prefetch_set.h"
#include "faulthandler/recorder.h"
#include "faulthandler/worker_pool.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using std::chrono::milliseconds;
using test::code_of;
using test::succeeded;

TEST(Recorder, WindowEndsWhenNothingNewIsTouchedOrAtTheLatest) {
  const Clock::time_point start = Clock::now();
  Recorder recorder({.idle = milliseconds(100), .most = milliseconds(250)}, {64});
  recorder.start(start);
  EXPECT_EQ(recorder.end(), start + milliseconds(100));
  recorder.note({5}, TouchKind::kDemand, start + milliseconds(60));
  EXPECT_EQ(recorder.end(), start + milliseconds(160));
  recorder.note({6}, TouchKind::kPrefetch, start + milliseconds(150));
  EXPECT_EQ(recorder.end(), start + milliseconds(160)) << "nobody asked for it";
  recorder.note({7}, TouchKind::kDemand, start + milliseconds(155));
  recorder.note({8}, TouchKind::kDemand, start + milliseconds(240));
  EXPECT_EQ(recorder.end(), start + milliseconds(250));
  recorder.stop();
  recorder.note({9}, TouchKind::kDemand, start + milliseconds(245));
  EXPECT_EQ(recorder.count(), 4u);
  const std::vector<Touch> touches = recorder.take();
  ASSERT_EQ(touches.size(), 4u);
  EXPECT_EQ(touches[0], (Touch{.page = {5}, .us = 60'000}));
  EXPECT_EQ(touches[1], (Touch{.page = {6}, .us = 150'000, .kind = TouchKind::kPrefetch}));
}

TEST(Recorder, WindowOfAVmThatWasLoadedPausedBeginsWhenItsGuestRuns) {
  using std::chrono::milliseconds;
  Recorder recorder({.idle = milliseconds(100), .most = milliseconds(250)}, {64});
  const Clock::time_point start{};
  recorder.start(start);
  recorder.note({3}, TouchKind::kDemand, start);
  recorder.note({4}, TouchKind::kDemand, start + milliseconds(2));
  recorder.note_prelude();
  EXPECT_TRUE(recorder.in_prelude());
  const auto resumed = start + std::chrono::minutes(10);
  recorder.note({9}, TouchKind::kDemand, resumed);
  recorder.note({8}, TouchKind::kDemand, resumed + milliseconds(5));
  EXPECT_FALSE(recorder.in_prelude());
  EXPECT_EQ(recorder.end(), resumed + milliseconds(105));
  const std::vector<Touch> touches = recorder.take();
  ASSERT_EQ(touches.size(), 4u);
  EXPECT_EQ(touches[1].us, 0u) << "what the VMM needed comes first";
  EXPECT_EQ(touches[2].us, 0u);
  EXPECT_EQ(touches[3].us, 5000u);
}

TEST(Recorder, EndsEarlyWhenThereIsNoRoomForMore) {
  const Clock::time_point start = Clock::now();
  Recorder recorder({.idle = milliseconds(100), .most = milliseconds(250)}, {2});
  recorder.start(start);
  for (std::uint64_t page = 0; page < 5; ++page) recorder.note({page}, TouchKind::kDemand, start);
  EXPECT_EQ(recorder.count(), 2u);
  EXPECT_EQ(recorder.end(), start);
}

class PrefetchSetTest : public testing::Test {
 protected:
  /// 0 to 9: content, 10 to 19: zeros.
  static PageMap map() {
    PageMap map;
    map.append_chunks(ChunkId::of(1, 0, 50), {10});
    map.append_zero({10});
    return map;
  }
  static WorkingSet set_of(std::vector<SetPage> pages, std::vector<PackShape> packs) {
    return {.snapshot = {3},
            .generation = 4,
            .recordings = 1,
            .pages = std::move(pages),
            .packs = std::move(packs)};
  }
};

TEST_F(PrefetchSetTest, PacksAreAscendingAndZerosAreRangesByClass) {
  const WorkingSet set = set_of({{.page = {7}},
                                 {.page = {12}},
                                 {.page = {2}},
                                 {.page = {11}},
                                 {.page = {5}, .when = TouchClass::kLate},
                                 {.page = {18}, .when = TouchClass::kLate}},
                                {{2, 100}, {1, 60}});
  const auto ready = PrefetchSet::create(set, map(), {20});
  ASSERT_TRUE(succeeded(ready));
  ASSERT_EQ(ready->packs().size(), 2u);
  EXPECT_EQ(ready->packs()[0].pages,
            (std::vector<PackPage>{{{2}, ChunkId::of(1, 0, 52)}, {{7}, ChunkId::of(1, 0, 57)}}));
  EXPECT_EQ(ready->packs()[1].when, TouchClass::kLate);
  EXPECT_EQ(ready->packs()[1].bytes, 60u);
  ASSERT_EQ(ready->zeros().size(), 2u);
  EXPECT_EQ(ready->zeros()[0].ranges, (std::vector<PageRange>{{{11}, {2}}}));
  EXPECT_EQ(ready->zeros()[1].ranges, (std::vector<PageRange>{{{18}, {1}}}));
  EXPECT_EQ(ready->pack_of({7}), 0u);
  EXPECT_EQ(ready->pack_of({5}), 1u);
  EXPECT_EQ(ready->pack_of({12}), std::nullopt);
  EXPECT_EQ(ready->page_count(), 6u);
}

TEST_F(PrefetchSetTest, SetThatIsNotOfThisSnapshotIsRefused) {
  const auto making = [](const WorkingSet& set, PageCount memory = {20}) {
    return code_of(PrefetchSet::create(set, map(), memory));
  };
  EXPECT_EQ(making(set_of({{.page = {1}}}, {{1, 10}})), std::nullopt);
  EXPECT_EQ(making(set_of({{.page = {1}}}, {})), ErrorCode::kMalformed) << "a page in no pack";
  EXPECT_EQ(making(set_of({{.page = {1}}}, {{2, 10}})), ErrorCode::kMalformed);
  EXPECT_EQ(making(set_of({{.page = {15}}}, {{1, 10}})), ErrorCode::kMalformed) << "a zero page";
  EXPECT_EQ(making(set_of({{.page = {9}}}, {{1, 10}}), {9}), ErrorCode::kMalformed)
      << "not guest memory";
}

TEST(CopyGate, WhatWasDecidedBeforeAChangeIsNotCopied) {
  CopyGate gate;
  const CopyGate::Epoch decided = gate.epoch();
  int copies = 0;
  EXPECT_TRUE(gate.try_copy(decided, [&] { ++copies; }));
  {
    const CopyGate::Reading reading(gate);
  }
  EXPECT_TRUE(gate.try_copy(decided, [&] { ++copies; })) << "nothing has changed";
  {
    CopyGate::Reading reading(gate);
    reading.note_change();
  }
  EXPECT_FALSE(gate.try_copy(decided, [&] { ++copies; }));
  EXPECT_TRUE(gate.try_copy(gate.epoch(), [&] { ++copies; }));
  EXPECT_EQ(copies, 3);
}

TEST(CopyGate, NoCopyIsUnderWayDuringAReading) {
  CopyGate gate;
  std::atomic<int> copying = 0;
  std::atomic<bool> stopping = false;
  std::atomic<int> made = 0;
  std::vector<std::jthread> workers;
  for (int i = 0; i < 3; ++i) {
    workers.emplace_back([&] {
      while (!stopping) {
        gate.try_copy(gate.epoch(), [&] {
          ++copying;
          std::this_thread::yield();
          --copying;
          ++made;
        });
      }
    });
  }
  int seen = 0;
  while (seen < 2000 || made < 2000) {
    CopyGate::Reading reading(gate);
    ASSERT_EQ(copying, 0);
    if (++seen % 3 == 0) reading.note_change();
  }
  stopping = true;
}

class CountingJob final : public WorkerPool::Job {
 public:
  explicit CountingJob(std::vector<int>& begun, int number) : begun_(begun), number_(number) {}
  bool done() const { return done_; }

 private:
  void work(WorkerPool::Tools&) override { begun_.push_back(number_); }
  void on_done() override { done_ = true; }

  std::vector<int>& begun_;  // of the one worker, until it is done
  const int number_;
  bool done_ = false;
};

/// Keeps the pool's one thread until it is let go.
class BlockingJob final : public WorkerPool::Job {
 public:
  void let_go() { released_ = true, released_.notify_all(); }
  void wait_until_begun() const { begun_.wait(false); }

 private:
  void work(WorkerPool::Tools&) override {
    begun_ = true;
    begun_.notify_all();
    released_.wait(false);
  }
  void on_done() override {}

  std::atomic<bool> begun_ = false;
  std::atomic<bool> released_ = false;
};

TEST(WorkerPool, HurriedJobsGoFirstAndThoseTakenBackNotAtAll) {
  auto pool = WorkerPool::create(1).value();
  std::vector<int> begun;
  BlockingJob blocking;
  CountingJob first(begun, 1);
  CountingJob second(begun, 2);
  CountingJob third(begun, 3);
  pool->add(blocking);
  blocking.wait_until_begun();
  for (CountingJob* const job : {&first, &second, &third}) pool->add(*job);
  pool->hurry(third);
  EXPECT_TRUE(pool->take_back(second));
  EXPECT_FALSE(pool->take_back(blocking)) << "it was begun";
  blocking.let_go();
  while (!first.done()) pool->finish_done();
  EXPECT_EQ(begun, (std::vector{3, 1}));
  EXPECT_FALSE(second.done());
  EXPECT_FALSE(pool->busy());
}

TEST(PlainBuffers, AreBoundedAndUsedAgain) {
  PlainBuffers buffers;
  std::vector<PlainBuffers::Buffer> taken;
  while (buffers.has_room(false)) taken.push_back(buffers.take());
  EXPECT_EQ(taken.size(), limits::kMaxWaitingPlainBuffers);
  while (buffers.has_room(true)) taken.push_back(buffers.take());
  EXPECT_EQ(taken.size(), limits::kMaxPlainBuffers);
  const std::byte* const last = taken.back().get();
  buffers.give_back(std::move(taken.back()));
  ASSERT_TRUE(buffers.has_room(true));
  EXPECT_EQ(buffers.take().get(), last);
}

}  // namespace
}  // namespace thaw
