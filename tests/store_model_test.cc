// Long random histories of the store beside a model of it that is a few maps.

#include <array>

#include <gtest/gtest.h>

#include "pageserver/collection.h"
#include "pageserver/store_check.h"
#include "pageserver/verification.h"
#include "tests/support/modelled_store.h"
#include "tests/support/raw_store.h"
#include "tests/support/stepped_control.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr unsigned kSteps = 600;

class StoreModelTest : public ModelledStoreTest, public testing::WithParamInterface<int> {
 protected:
  /// One that does not run beside a collection. A new kind is an entry more in draw_exclusive().
  struct Exclusive {
    const char* name;
    unsigned weight;
    void (StoreModelTest::*run)();
  };
  Exclusive draw_exclusive() {
    static constexpr std::array kOperations{
        Exclusive{"collect", 4, &StoreModelTest::collect},
        Exclusive{"collect beside others", 4, &StoreModelTest::collect_beside_others},
        Exclusive{"collect and be cut off", 3, &StoreModelTest::collect_and_be_cut_off},
        Exclusive{"open again", 3, &StoreModelTest::open_again},
        Exclusive{"damage and heal", 1, &StoreModelTest::damage_and_heal},
        Exclusive{"set a quota", 2, &StoreModelTest::set_quota},
    };
    return pick_weighted(generator_, kOperations);
  }

  void set_quota() {
    model_.settings = {};
    const std::uint64_t kind = pick(generator_, 4);
    if (kind == 0)
      model_.settings.quota_bytes = model_.totals.chunk_bytes + pick(generator_, 1u << 18);
    if (kind == 2) model_.settings.quota_bytes = 1 + model_.totals.chunk_bytes / 2;
    if (kind == 1) model_.settings.quota_snapshots = 1 + pick(generator_, kNames);
    ASSERT_TRUE(succeeded(store_->set_settings(name_space_, model_.settings)));
    model_.marks.clear();
  }
  void lift_quota() {
    model_.settings = {};
    ASSERT_TRUE(succeeded(store_->set_settings(name_space_, {})));
    model_.marks.clear();
  }

  template <typename Step>
  void run(const Step& step) {
    SCOPED_TRACE(step.name);
    (this->*step.run)();
  }
  void open_again() {
    close();
    reopen();
  }
  void close() {
    pushes_.clear();
    while (!model_.pins.empty()) unpin();
    store_.reset();
  }
  template <typename Change>
  void change_behind_the_store(const Change& change) {
    close();
    {
      RawStore raw(directory_.path("store"));
      change(raw);
    }
    reopen();
  }

  Result<CollectionReport> run_collection(SteppedControl& control) {
    auto report = Collection(*store_, name_space_, pins_, live_pushes_, control).run();
    settle_retired();
    learn_chunks();
    return report;
  }
  /// A collection deletes those that are not pinned, at its beginning.
  void settle_retired() {
    for (auto entry = model_.retired.begin(); entry != model_.retired.end();) {
      const bool gone =
          code_of(store_->manifest(name_space_, entry->first)) == ErrorCode::kNotFound;
      EXPECT_FALSE(gone && is_pinned(entry->first)) << entry->first.value;
      entry = gone ? model_.retired.erase(entry) : std::next(entry);
    }
  }
  /// What is stored after a collection depends on when it was stopped and what came in between.
  void learn_chunks() {
    model_.known.clear();
    EXPECT_TRUE(
        succeeded(store_->chunk_upkeep().for_each_page(name_space_, [&](const KnownPage& page) {
          model_.known.insert(page.hash);
          return Result<bool>(true);
        })));
    model_.totals = *store_->chunk_upkeep().count(name_space_);
  }
  ChunkSet chunks_in_use() {
    ChunkSet used;
    for (const Model::Snapshot* const each : all_snapshots()) {
      used.insert(map_of(each->manifest, name_space_));
    }
    live_pushes_.mark(name_space_, used);
    return used;
  }
  /// In peace it leaves exactly the chunks of snapshots and of pushes under way.
  void collect() {
    SteppedControl control;
    ASSERT_TRUE(succeeded(run_collection(control)));
    for (const auto& [id, snapshot] : model_.retired) EXPECT_TRUE(is_pinned(id)) << id.value;
    const ChunkSet used = chunks_in_use();
    EXPECT_EQ(model_.totals.chunks, used.size());
    auto reached = store_->chunk_upkeep().condemned(name_space_);
    ASSERT_TRUE(succeeded(reached));
    ASSERT_TRUE(
        succeeded(store_->chunk_upkeep().for_each_page(name_space_, [&](const KnownPage& page) {
          reached->insert(page.chunk);
          return Result<bool>(true);
        })));
    EXPECT_TRUE(reached->from(kNoChunk, SIZE_MAX) == used.from(kNoChunk, SIZE_MAX));
    EXPECT_EQ(load(elsewhere_manifest_, elsewhere_), elsewhere_image_);
  }
  void collect_beside_others() {
    lift_quota();
    SteppedControl control;
    if (pick(generator_, 3) == 0) control.stop_at_step = static_cast<int>(pick(generator_, 12));
    control.before_write = [&](int) {
      settle_retired();
      for (std::uint64_t left = pick(generator_, 6); left > 0; --left) {
        run(draw_ordinary());
      }
    };
    const auto report = run_collection(control);
    EXPECT_EQ(code_of(report).value_or(ErrorCode::kStopped), ErrorCode::kStopped);
    check();
    collect();
  }
  void collect_and_be_cut_off() {
    SteppedControl control;
    control.stop_at_step = static_cast<int>(pick(generator_, 10));
    const auto report = run_collection(control);
    EXPECT_EQ(code_of(report).value_or(ErrorCode::kStopped), ErrorCode::kStopped);
    if (pick(generator_, 2) == 0) open_again();
  }

  /// A chunk that some snapshot has is damaged or lost, found, and put back by a push of its page,
  /// if a hash led to it.
  void damage_and_heal() {
    const Model::Snapshot* const drawn = draw_of(model_.snapshots);
    if (drawn == nullptr) return;
    const Model::Snapshot snapshot = *drawn;
    const PageMap map = map_of(snapshot.manifest, name_space_);
    const PageIndex page{pick(generator_, map.size().value)};
    if (map.chunk_of(page) == kNoChunk) return;
    lift_quota();
    // What was recorded is made up, and a check would say so.
    for (const Model::Snapshot* const each : all_snapshots()) {
      ASSERT_TRUE(succeeded(store_->working_sets().drop(name_space_, each->manifest.snapshot)));
    }
    const KnownPage victim{hasher_.hash(snapshot.image->page(page.value)), map.chunk_of(page)};
    const bool curable =
        *store_->find_chunks(name_space_, std::span(&victim.hash, 1)) == std::vector{victim.chunk};
    const std::string key = big_endian(victim.chunk.value);
    std::string whole;
    change_behind_the_store([&](RawStore& raw) { whole = spoil(raw, key); });
    expect_found(victim);
    ASSERT_TRUE(succeeded(check_store(*store_, true))) << "counts what is left";
    learn_chunks();
    if (curable) {
      SteppedControl control;
      if (pick(generator_, 2) == 0) {
        ASSERT_TRUE(succeeded(run_collection(control)));
      }
      heal(snapshot, victim);
    } else {
      change_behind_the_store([&](RawStore& raw) { raw.put("chunk", key, whole); });
      ASSERT_TRUE(succeeded(check_store(*store_, true)));
      learn_chunks();
    }
    SteppedControl control;
    const auto healed = Verification(*store_, name_space_, control).run();
    ASSERT_TRUE(succeeded(healed));
    EXPECT_TRUE(healed->clean());
    EXPECT_EQ(healed->unindexed, 0u);
    compare(snapshot);
  }
  /// Damages a chunk, or loses it; returns what it was like.
  std::string spoil(RawStore& raw, const std::string& key) {
    const std::string whole = raw.get("chunk", key);
    if (pick(generator_, 3) == 0) {
      raw.remove("chunk", key);
      return whole;
    }
    raw.damage("chunk", key);
    return whole;
  }
  void expect_found(const KnownPage& victim) {
    SteppedControl control;
    const auto report = Verification(*store_, name_space_, control).run();
    ASSERT_TRUE(succeeded(report));
    EXPECT_EQ(report->damaged, 1u);
    EXPECT_EQ(control.findings.size(), 1u);
    std::uint64_t affected = 0;
    for (const Model::Snapshot* const each : all_snapshots()) {
      ChunkSet used;
      used.insert(map_of(each->manifest, name_space_));
      if (!used.contains(victim.chunk)) continue;
      ++affected;
      EXPECT_NE(control.findings.at(0).find(each->manifest.spec.name), std::string::npos);
    }
    EXPECT_EQ(report->affected, affected);
  }
  void heal(const Model::Snapshot& snapshot, const KnownPage& victim) {
    ASSERT_EQ(store_->chunk_upkeep().quarantined(name_space_)->size(), 1u);
    {
      SteppedPush push({*store_, name_space_, live_pushes_, pins_}, snapshot.image, {});
      ASSERT_TRUE(succeeded(push.send_all(generator_)));
      EXPECT_EQ(store_->find_chunks(name_space_, std::span(&victim.hash, 1)),
                std::vector{victim.chunk});
    }
    EXPECT_TRUE(store_->chunk_upkeep().quarantined(name_space_)->empty());
    learn_chunks();
  }

  void SetUp() override {
    elsewhere_ = *store_->open_namespace("elsewhere");
    elsewhere_image_ = draw_image("1", "a").pages;
    elsewhere_manifest_ = *store("a", elsewhere_image_, elsewhere_);
  }

  /// Another namespace with pages of the same, which nothing here may touch.
  NamespaceId elsewhere_;
  Bytes elsewhere_image_;
  Manifest elsewhere_manifest_;
};

TEST_P(StoreModelTest, HistoryLeavesWhatTheModelHas) {
  for (unsigned i = 0; i < kSteps * test_scale() && !HasFailure(); ++i) {
    const bool exclusive = pick(generator_, 20) == 0;
    SCOPED_TRACE(i);
    if (exclusive) {
      run(draw_exclusive());
    } else {
      run(draw_ordinary());
    }
    check();
  }
  open_again();
  collect();
  check();
  for (const Model::Snapshot* const each : all_snapshots()) compare(*each);
  EXPECT_GT(model_.totals.chunks, 0u);
}

INSTANTIATE_TEST_SUITE_P(Histories, StoreModelTest, testing::Range(0, 4));

}  // namespace
}  // namespace thaw::test
