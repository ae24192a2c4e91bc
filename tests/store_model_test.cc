// Long random histories of the store beside a model of it that is a few maps.

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/support/drawn_image.h"
#include "tests/support/store_fixture.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr unsigned kSteps = 600;
constexpr std::size_t kMostPushes = 4;  // at one time
constexpr std::uint64_t kNames = 20;

/// What the store has to be like.
struct Model {
  struct Snapshot {
    std::uint64_t seed;
    Manifest manifest;
  };
  std::map<std::string, Snapshot> snapshots;
  std::map<Sha256, std::size_t> chunks;  // stored pages, with the bytes of their chunks
};

/// A push that goes on step by step between other operations.
class SteppedPush {
 public:
  SteppedPush(Store& store, NamespaceId in, std::uint64_t seed, const std::string& name)
      : seed_(seed), image_(draw_image(seed, name)), push_(store, in, image_.spec) {}

  const std::string& name() const { return image_.spec.name; }
  std::uint64_t seed() const { return seed_; }
  bool sent() const { return next_ == image_.count() && due_.empty(); }

  /// Offers the next pages, or uploads some of those that are due; what was stored is added.
  Result<void> step(std::mt19937_64& generator, Model& model) {
    return due_.empty() ? offer(generator) : upload(generator, model);
  }
  Result<Manifest> commit() {
    if (!image_.cold.empty()) TRY(push_.set_cold_map(encode_cold_map(image_.cold)));
    return push_.commit();
  }

 private:
  Result<void> offer(std::mt19937_64& generator) {
    const std::size_t count = 1 + pick(generator, image_.count() - next_);
    message::Offer offer{{next_}, {count}, empty_bitmap(count)};
    std::vector<Sha256> hashes;
    std::vector<std::size_t> offered;
    for (std::size_t i = 0; i < count; ++i) {
      const PageSpan page = image_.page(next_ + i);
      if (is_zero_page(page)) {
        set_bit(offer.zero_bitmap, i);
        continue;
      }
      hashes.push_back(hasher_.hash(page));
      offered.push_back(next_ + i);
    }
    const auto needed = TRY(push_.offer(offer, std::as_bytes(std::span(hashes))));
    for (std::size_t i = 0; i < offered.size(); ++i) {
      if (bit(needed.missing_bitmap, i)) due_.push_back(offered[i]);
    }
    next_ += count;
    return {};
  }

  Result<void> upload(std::mt19937_64& generator, Model& model) {
    const std::size_t count = 1 + pick(generator, std::min<std::size_t>(due_.size(), 64));
    Bytes chunks;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t before = chunks.size();
      codec_.encode(image_.page(due_[i]), kNoChunk, chunks);
      model.chunks.try_emplace(hasher_.hash(image_.page(due_[i])), chunks.size() - before);
    }
    TRY(push_.check_upload(static_cast<std::uint32_t>(count), chunks));
    TRY(push_.store_upload());
    due_.erase(due_.begin(), due_.begin() + static_cast<std::ptrdiff_t>(count));
    return {};
  }

  const std::uint64_t seed_;
  const DrawnImage image_;
  Push push_;
  std::size_t next_ = 0;
  std::vector<std::size_t> due_;  // pages that were offered and are missing
  ChunkCodec codec_;
  Hasher hasher_;
};

class StoreModelTest : public StoreTest, public testing::WithParamInterface<int> {
 protected:
  /// A step of a history. A new kind is an entry more in draw_operation().
  struct Operation {
    const char* name;
    unsigned weight;
    void (StoreModelTest::*run)();
  };

  std::string draw_name() { return "snapshot" + std::to_string(pick(generator_, kNames)); }
  const Model::Snapshot* draw_snapshot() {
    if (model_.snapshots.empty()) return nullptr;
    const auto place = static_cast<std::ptrdiff_t>(pick(generator_, model_.snapshots.size()));
    return &std::next(model_.snapshots.begin(), place)->second;
  }

  void begin_push() {
    if (pushes_.size() == kMostPushes) return;
    pushes_.push_back(
        std::make_unique<SteppedPush>(*store_, name_space_, generator_(), draw_name()));
  }
  /// Some push goes on for a step; one that is done commits, if the name is free.
  void go_on() {
    if (pushes_.empty()) return;
    const std::size_t i = pick(generator_, pushes_.size());
    SteppedPush& push = *pushes_[i];
    if (!push.sent()) {
      ASSERT_TRUE(succeeded(push.step(generator_, model_)));
      return;
    }
    const auto manifest = push.commit();
    if (model_.snapshots.contains(push.name())) {
      EXPECT_EQ(code_of(manifest), ErrorCode::kAlreadyExists);
    } else {
      ASSERT_TRUE(succeeded(manifest));
      model_.snapshots.emplace(push.name(), Model::Snapshot{push.seed(), *manifest});
    }
    pushes_.erase(pushes_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  void push_whole() {
    begin_push();
    for (int i = 0; i < 40; ++i) go_on();
  }
  void drop_push() {
    if (!pushes_.empty()) pushes_.pop_back();
  }
  void remove() {
    const std::string name = draw_name();
    const auto found = model_.snapshots.find(name);
    if (found == model_.snapshots.end()) {
      EXPECT_EQ(code_of(store_->manifest(name_space_, name)), ErrorCode::kNotFound);
      return;
    }
    EXPECT_TRUE(succeeded(store_->remove(name_space_, found->second.manifest.snapshot)));
    model_.snapshots.erase(found);
  }
  void open_again() {
    pushes_.clear();
    reopen();
  }
  void read_one() {
    if (const auto* const snapshot = draw_snapshot()) compare(*snapshot);
  }

  void compare(const Model::Snapshot& snapshot) {
    const Manifest& manifest = snapshot.manifest;
    const DrawnImage image = draw_image(snapshot.seed, manifest.spec.name);
    EXPECT_EQ(manifest.spec, image.spec);
    EXPECT_TRUE(load(manifest, name_space_) == image.pages) << manifest.spec.name;
    const auto sealed = store_->cold_map(name_space_, manifest.snapshot);
    EXPECT_EQ(sealed.has_value(), !image.cold.empty()) << manifest.spec.name;
    if (sealed) {
      EXPECT_EQ(decode_cold_map(*sealed, image.spec.memory_pages()).value(), image.cold);
    }
  }

  /// What takes no time to compare: names, manifests, sums, and one page of one snapshot.
  void check() {
    std::vector<Manifest> expected;
    for (const auto& [name, snapshot] : model_.snapshots) expected.push_back(snapshot.manifest);
    std::vector<Manifest> found;
    const auto listed = store_->manifests(name_space_, "", 2 * kNames);
    ASSERT_TRUE(succeeded(listed));
    for (const Bytes& sealed : *listed) {
      found.push_back(*decode_manifest(sealed));
    }
    EXPECT_EQ(found, expected);
    const NamespaceTotals totals = *store_->totals(name_space_);
    EXPECT_EQ(totals.chunks, model_.chunks.size());
    EXPECT_EQ(totals.chunk_bytes,
              std::accumulate(model_.chunks.begin(), model_.chunks.end(), std::uint64_t{0},
                              [](auto sum, const auto& chunk) { return sum + chunk.second; }));
    if (const auto* const snapshot = draw_snapshot()) check_page(*snapshot);
  }
  void check_page(const Model::Snapshot& snapshot) {
    const DrawnImage image = draw_image(snapshot.seed, "");
    const std::uint64_t page = pick(generator_, image.count());
    const ChunkId id = map_of(snapshot.manifest, name_space_).chunk_of({page});
    EXPECT_EQ(id.valid(), !is_zero_page(image.page(page)));
    if (!id.valid()) return;
    const auto read = store_->read_chunks(std::span(&id, 1), 0);
    ASSERT_TRUE(succeeded(read));
    PlainPage plain;
    ASSERT_TRUE(succeeded(codec_.decode(read->chunks[0], id, plain)));
    EXPECT_TRUE(std::ranges::equal(plain, image.page(page)));
  }

  Operation draw_operation() {
    static constexpr std::array kOperations{
        Operation{"begin a push", 6, &StoreModelTest::begin_push},
        Operation{"go on with a push", 40, &StoreModelTest::go_on},
        Operation{"push", 3, &StoreModelTest::push_whole},
        Operation{"drop a push", 1, &StoreModelTest::drop_push},
        Operation{"delete", 5, &StoreModelTest::remove},
        Operation{"open again", 1, &StoreModelTest::open_again},
        Operation{"read", 2, &StoreModelTest::read_one},
    };
    return pick_weighted(generator_, kOperations);
  }

  std::mt19937_64 generator_ = seeded_generator();
  Model model_;
  std::vector<std::unique_ptr<SteppedPush>> pushes_;
};

TEST_P(StoreModelTest, HistoryLeavesWhatTheModelHas) {
  for (unsigned i = 0; i < kSteps * test_scale() && !HasFailure(); ++i) {
    const Operation operation = draw_operation();
    SCOPED_TRACE(fmt::format("step {}, {}", i, operation.name));
    (this->*operation.run)();
    check();
  }
  open_again();
  check();
  for (const auto& [name, snapshot] : model_.snapshots) compare(snapshot);
  EXPECT_FALSE(model_.chunks.empty());
}

INSTANTIATE_TEST_SUITE_P(Histories, StoreModelTest, testing::Range(0, 4));

}  // namespace
}  // namespace thaw::test
