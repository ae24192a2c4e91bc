// The page server dies at each write of a collection in turn, or its disk fails in the midst of it.
// What snapshots have is there, and the next collection leaves nothing else.

#include <array>
#include <filesystem>

#include "pageserver/collection.h"
#include "pageserver/store_check.h"
#include "tests/support/drawn_image.h"
#include "tests/support/finished_job.h"
#include "tests/support/lossy_server.h"
#include "tests/support/store_fixture.h"

namespace thaw::test {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDeadPages = 3000;

class CollectionCrashTest : public StoreTest {
 protected:
  CollectionCrashTest() {
    open();
    kept_ = *store("kept", kept_image_, name_space_);
    const auto gone = store("gone", small_pages(kDeadPages), name_space_);
    EXPECT_TRUE(succeeded(gone));
    kept_chunks_ = kept_.statistics.new_pages;
    remove("gone");
    store_.reset();
    fs::copy(disk_.directory(), scratch_.path("before"));
  }

  /// Different pages that take up next to nothing.
  static Bytes small_pages(std::size_t count) {
    Bytes image(count * kPageBytes);
    for (std::size_t i = 0; i < count; ++i) store_le(image.data() + i * kPageBytes, i + 1);
    return image;
  }
  /// The store on the disk, while no server has it.
  void open() {
    auto opened = open_rocks_store(disk_.directory(), {0});
    ASSERT_TRUE(succeeded(opened)) << last_messages(disk_);
    store_ = *std::move(opened);
    name_space_ = *store_->open_namespace("default");
  }
  /// The disk is as it was before the collection.
  void begin_again() {
    fs::remove_all(disk_.directory());
    fs::copy(scratch_.path("before"), disk_.directory());
    disk_.keep_power();
  }
  static Result<message::JobReport> run(const LossyServer& server, message::JobKind kind) {
    PageClient client = TRY(PageClient::connect(server.address, "default"));
    return finish_job(client, kind);
  }

  void check() {
    ASSERT_NO_FATAL_FAILURE(open());
    EXPECT_EQ(load(kept_, name_space_), kept_image_);
    const auto checked = check_store(*store_, false);
    ASSERT_TRUE(succeeded(checked));
    for (const std::string& problem : checked->problems) ADD_FAILURE() << problem;
    SnapshotPins pins;
    const LivePushes pushes;
    Unpaced control;
    ASSERT_TRUE(succeeded(Collection(*store_, name_space_, pins, pushes, control).run()));
    EXPECT_EQ(store_->chunk_upkeep().count(name_space_)->chunks, kept_chunks_);
    EXPECT_EQ(store_->totals(name_space_)->chunks, kept_chunks_);
    EXPECT_TRUE(store_->chunk_upkeep().condemned(name_space_)->empty());
    const auto again = store("again", small_pages(kDeadPages), name_space_);
    ASSERT_TRUE(succeeded(again));
    EXPECT_EQ(again->statistics.new_pages, kDeadPages) << "nothing leads to what was deleted";
    EXPECT_EQ(load(kept_, name_space_), kept_image_);
    store_.reset();
  }

  std::mt19937_64 generator_ = seeded_generator();
  ScratchDirectory scratch_;
  LossyDisk disk_;
  const Bytes kept_image_ = draw_image("1", "kept").pages;
  Manifest kept_;
  std::uint64_t kept_chunks_ = 0;
};

class CollectionKillTest : public CollectionCrashTest,
                           public testing::WithParamInterface<const char*> {};

TEST_P(CollectionKillTest, EachPointIsSurvived) {
  constexpr std::array kPhases{"", ":half", ":after"};
  unsigned deaths = 0;
  bool finished = false;
  for (unsigned number = 1; !finished && !HasFailure(); ++number) {
    for (const char* const phase : kPhases) {
      LossyDisk::Fate fate{.kill_at = fmt::format("{}:{}{}", GetParam(), number, phase)};
      if (number % 2 == 0) fate.names = LossyDisk::Names::kWhenSynced;
      SCOPED_TRACE(fate.kill_at);
      begin_again();
      auto server = LossyServer::start(disk_, fate);
      if (!server) continue;
      const auto collected = run(*server, message::JobKind::kCollect);
      finished = collected.has_value();
      if (!finished) {
        EXPECT_EQ(code_of(collected), ErrorCode::kUnavailable);
        ++deaths;
      }
      server->kill(disk_);
      disk_.cut_power(number % 3 == 0 ? LossyDisk::Tail::kTorn : LossyDisk::Tail::kLost,
                      generator_);
      check();
    }
  }
  fmt::print("{} deaths in the midst of a collection\n", deaths);
  EXPECT_GT(deaths, 0u);
}

INSTANTIATE_TEST_SUITE_P(Points, CollectionKillTest,
                         testing::Values("log.write", "log.sync", "table.sync", "manifest.write"));

class CollectionFaultTest : public CollectionCrashTest,
                            public testing::WithParamInterface<LossyDisk::Fault> {};

TEST_P(CollectionFaultTest, FaultsPass) {
  for (int round = 0; round < 4; ++round) {
    SCOPED_TRACE(round);
    begin_again();
    auto server = LossyServer::start(disk_, {});
    ASSERT_TRUE(server);
    disk_.begin(GetParam());
    // An intact page that cannot be read is put into quarantine as a damaged one is.
    for (const auto kind : {message::JobKind::kCollect, message::JobKind::kScrub}) {
      const auto code = code_of(run(*server, kind));
      EXPECT_TRUE(!code || code == ErrorCode::kIo || code == ErrorCode::kNoSpace ||
                  code == ErrorCode::kCorrupt)
          << error_name(*code);
    }
    disk_.end(GetParam());
    EXPECT_TRUE(succeeded(run(*server, message::JobKind::kScrub)));
    EXPECT_TRUE(succeeded(run(*server, message::JobKind::kCollect)));
    server->kill(disk_);
    disk_.cut_power(LossyDisk::Tail::kTorn, generator_);
    check();
  }
}

INSTANTIATE_TEST_SUITE_P(Faults, CollectionFaultTest,
                         testing::Values(LossyDisk::Fault::kFull, LossyDisk::Fault::kUnreadable));

}  // namespace
}  // namespace thaw::test
