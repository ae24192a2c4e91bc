// The disk that loses what was not synced, under a program that does what it is told.

#include "tests/support/lossy_disk.h"

#include <csignal>
#include <filesystem>
#include <map>
#include <sstream>

#include <gtest/gtest.h>

#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Files = std::map<std::string, std::string>;
constexpr int kKilled = 128 + SIGKILL;

class LossyDiskTest : public testing::Test {
 protected:
  /// Runs the steps, which stand in one line, and returns how the program ended.
  int run_steps(const std::string& steps, const LossyDisk::Fate& fate = {}) {
    std::vector<std::string> command{program_path("file_script"), disk_.directory()};
    std::istringstream words(steps);
    for (std::string word; words >> word;) command.push_back(word);
    Program program(command, disk_.surroundings(fate));
    output_ = program.rest_of_output();
    return program.wait().value();
  }
  Files files() const {
    Files found;
    for (const auto& entry : std::filesystem::directory_iterator(disk_.directory())) {
      found[entry.path().filename()] = as_text(read_file(entry.path()));
    }
    return found;
  }
  /// What is there when the power is gone.
  Files after_cut(LossyDisk::Tail tail = LossyDisk::Tail::kLost) {
    disk_.cut_power(tail, generator_);
    return files();
  }

  LossyDisk disk_;
  std::string output_;
  std::mt19937_64 generator_ = seeded_generator();
};

constexpr LossyDisk::Fate kStrict{.kill_at = {}, .names = LossyDisk::Names::kWhenSynced};

TEST_F(LossyDiskTest, OnlyWhatWasSyncedSurvives) {
  EXPECT_EQ(run_steps("write a 123 sync a write a 456 write b 789 die"), kKilled);
  EXPECT_EQ(files(), (Files{{"a", "123456"}, {"b", "789"}})) << "what the program sees";
  EXPECT_EQ(after_cut(), (Files{{"a", "123"}, {"b", ""}}));
  EXPECT_EQ(run_steps("write a 7 sync a die"), kKilled);
  EXPECT_EQ(after_cut(), (Files{{"a", "1237"}, {"b", ""}}));
}

TEST_F(LossyDiskTest, ClosingIsNoSync) {
  EXPECT_EQ(run_steps("write a 123 close a write b 4 sync b die"), kKilled);
  EXPECT_EQ(after_cut(), (Files{{"a", ""}, {"b", "4"}}));
  EXPECT_EQ(run_steps("write a 123 close a sync a die"), kKilled);
  EXPECT_EQ(after_cut()["a"], "123");
}

TEST_F(LossyDiskTest, WhatWasOverwrittenOrCutOffIsSyncedAgain) {
  EXPECT_EQ(run_steps("write a 123456 sync a truncate a 2 die"), kKilled);
  EXPECT_EQ(after_cut()["a"], "123456");
  EXPECT_EQ(run_steps("truncate a 2 write b 1 sync a die"), kKilled);
  EXPECT_EQ(after_cut()["a"], "12");
}

TEST_F(LossyDiskTest, NothingIsLostWithoutACut) {
  EXPECT_EQ(run_steps("write a 123 rename a b die"), kKilled);
  disk_.keep_power();
  EXPECT_EQ(after_cut(), (Files{{"b", "123"}}));
}

TEST_F(LossyDiskTest, TornTailIsABeginning) {
  EXPECT_EQ(run_steps("write a 123 sync a write a 456789 die"), kKilled);
  const std::string torn = after_cut(LossyDisk::Tail::kTorn)["a"];
  EXPECT_GE(torn.size(), 3u);
  EXPECT_TRUE(std::string("123456789").starts_with(torn)) << torn;
}

TEST_F(LossyDiskTest, NamesLastAtOnce) {
  EXPECT_EQ(run_steps("write a 1 sync a write b 2 rename a c unlink b die"), kKilled);
  EXPECT_EQ(after_cut(), (Files{{"c", "1"}}));
}

TEST_F(LossyDiskTest, NamesLastWhenTheyWereSynced) {
  EXPECT_EQ(run_steps("write a 1 sync a write b 2 rename a c die", kStrict), kKilled);
  EXPECT_EQ(after_cut(), (Files{{"a", "1"}}));
  EXPECT_EQ(run_steps("rename a c write d 4 sync d link d e directory unlink c die", kStrict),
            kKilled);
  EXPECT_EQ(after_cut(), (Files{{"c", "1"}, {"d", "4"}, {"e", "4"}}));
}

TEST_F(LossyDiskTest, FileThatIsReplacedBeforeItWasSyncedIsEmpty) {
  EXPECT_EQ(run_steps("write a 1 sync a directory write b 2 rename b a directory die", kStrict),
            kKilled);
  EXPECT_EQ(after_cut(), (Files{{"a", ""}}));
}

TEST_F(LossyDiskTest, DiesAtTheNthOperation) {
  const std::string steps = "write 1.log ab sync 1.log write x cd sync x write 1.log ef sync 1.log";
  const auto left_by = [&](const std::string& point) {
    disk_.cut_power(LossyDisk::Tail::kLost, generator_);
    EXPECT_EQ(run_steps("unlink 1.log unlink x " + steps, {.kill_at = point}), kKilled) << point;
    return after_cut();
  };
  run_steps("write 1.log y write x y");
  EXPECT_EQ(left_by("log.sync:2"), (Files{{"1.log", "ab"}, {"x", "cd"}}));
  EXPECT_EQ(left_by("log.sync:2:half"), (Files{{"1.log", "abe"}, {"x", "cd"}}));
  EXPECT_EQ(left_by("log.sync:2:after"), (Files{{"1.log", "abef"}, {"x", "cd"}}));
  EXPECT_EQ(left_by("file.sync:2"), (Files{{"1.log", "ab"}, {"x", ""}}));
  EXPECT_EQ(left_by("other.create:1"), (Files{{"1.log", "ab"}}));
  EXPECT_EQ(left_by("other.write:1"), (Files{{"1.log", "ab"}, {"x", ""}}));
  EXPECT_EQ(left_by("other.unlink:1"), (Files{{"x", ""}}));
  EXPECT_EQ(run_steps(steps, {.kill_at = "log.sync:3"}), 0) << "there are two";
}

TEST_F(LossyDiskTest, FullDiskTakesHalfAndThenNothing) {
  run_steps("write a 12");
  disk_.begin(LossyDisk::Fault::kFull);
  run_steps("write a 3456 write b 7");
  EXPECT_EQ(output_, "ENOSPC\nENOSPC\n");
  EXPECT_EQ(files()["a"], "1234");
  disk_.end(LossyDisk::Fault::kFull);
  run_steps("write b 7");
  EXPECT_EQ(output_, "ok\n");
}

TEST_F(LossyDiskTest, EveryThirdReadOfATableFails) {
  run_steps("write 1.sst 12 write 1.log 12");
  disk_.begin(LossyDisk::Fault::kUnreadable);
  run_steps("read 1.log read 1.sst read 1.sst read 1.sst read 1.sst read 1.log read 1.sst");
  EXPECT_EQ(output_, "ok\nok\nok\nEIO\nok\nok\nok\n");
}

}  // namespace
}  // namespace thaw::test
