#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>

#include "pageserver/snapshots.h"
#include "tests/support/drawn_image.h"
#include "tests/support/stepped_push.h"
#include "tests/support/store_fixture.h"
#include "tests/support/test_support.h"

namespace thaw::test {

/// What the store has to be like.
struct Model {
  struct Snapshot {
    std::shared_ptr<const DrawnImage> image;
    Manifest manifest;
  };
  std::map<std::string, Snapshot> snapshots;
  std::map<SnapshotId, Snapshot> retired;
  std::map<std::string, std::string> tags;
  OutdatedMarks marks;
  std::vector<SnapshotId> pins;
  message::NamespaceSettings settings;
  /// The pages that a push meets. Beside them are chunks that were condemned while in use, which no
  /// hash leads to: such a page may be there twice.
  std::set<Sha256> known;
  NamespaceTotals totals;
};

/// A store beside a model of it, and what may be done to both at any time, even in the midst of a
/// collection.
class ModelledStoreTest : public StoreTest {
 protected:
  /// A step of a history. A new kind is an entry more in draw_ordinary().
  struct Operation {
    const char* name;
    unsigned weight;
    void (ModelledStoreTest::*run)();
  };
  Operation draw_ordinary() {
    static constexpr std::array kOperations{
        Operation{"begin a push", 6, &ModelledStoreTest::begin_push},
        Operation{"go on with a push", 40, &ModelledStoreTest::go_on},
        Operation{"push", 3, &ModelledStoreTest::push_whole},
        Operation{"drop a push", 1, &ModelledStoreTest::drop_push},
        Operation{"delete", 5, &ModelledStoreTest::remove},
        Operation{"retire", 2, &ModelledStoreTest::retire},
        Operation{"pin", 2, &ModelledStoreTest::pin},
        Operation{"unpin", 2, &ModelledStoreTest::unpin},
        Operation{"move a tag", 3, &ModelledStoreTest::move_tag},
        Operation{"remove a tag", 1, &ModelledStoreTest::remove_tag},
        Operation{"label", 2, &ModelledStoreTest::label},
        Operation{"mark as outdated", 2, &ModelledStoreTest::mark_outdated},
        Operation{"read", 2, &ModelledStoreTest::read_one},
        Operation{"record", 3, &ModelledStoreTest::record},
    };
    return pick_weighted(generator_, kOperations);
  }

  std::string draw_name() { return "snapshot" + std::to_string(pick(generator_, kNames)); }
  std::string draw_tag() { return "tag:" + std::to_string(pick(generator_, kTags)); }
  template <typename Map>
  const Model::Snapshot* draw_of(const Map& snapshots) {
    if (snapshots.empty()) return nullptr;
    const auto place = static_cast<std::ptrdiff_t>(pick(generator_, snapshots.size()));
    return &std::next(snapshots.begin(), place)->second;
  }
  /// Retired ones too.
  const Model::Snapshot* draw_any() {
    return pick(generator_, 3) == 0 && !model_.retired.empty() ? draw_of(model_.retired)
                                                               : draw_of(model_.snapshots);
  }
  std::vector<const Model::Snapshot*> all_snapshots() const {
    std::vector<const Model::Snapshot*> all;
    for (const auto& [name, snapshot] : model_.snapshots) all.push_back(&snapshot);
    for (const auto& [id, snapshot] : model_.retired) all.push_back(&snapshot);
    return all;
  }
  bool is_pinned(SnapshotId snapshot) const {
    return std::ranges::count(model_.pins, snapshot) > 0 ||
           std::ranges::any_of(pushes_, [&](auto& push) { return push->parent() == snapshot; });
  }

  void begin_push() {
    if (pushes_.size() == kMostPushes) return;
    pushes_.push_back(make_push(draw_name()));
  }
  std::unique_ptr<SteppedPush> make_push(const std::string& name) {
    const SteppedPush::Surroundings here{*store_, name_space_, live_pushes_, pins_};
    const Model::Snapshot* const parent = pick(generator_, 3) == 0 ? draw_any() : nullptr;
    std::string seeds;
    if (parent != nullptr)
      seeds = changed_seeds(seeds_of(parent->manifest.spec.labels), generator_());
    if (seeds.empty()) {
      seeds = std::to_string(generator_());
      return std::make_unique<SteppedPush>(here, drawn(seeds, name), SteppedPush::Parent{});
    }
    return std::make_unique<SteppedPush>(
        here, drawn(seeds, name), SteppedPush::Parent{parent->manifest.snapshot, parent->image});
  }
  static std::shared_ptr<const DrawnImage> drawn(const std::string& seeds,
                                                 const std::string& name) {
    return std::make_shared<const DrawnImage>(draw_image(seeds, name));
  }
  /// Some push goes on for a step; one that is done commits, if it may.
  void go_on() {
    if (pushes_.empty()) return;
    const std::size_t i = pick(generator_, pushes_.size());
    SteppedPush& push = *pushes_[i];
    if (!push.sent() && !push.must_upload()) {
      ASSERT_TRUE(succeeded(push.offer(generator_)));
    } else if (push.sent() ? commit(push) : !upload(push)) {
      pushes_.erase(pushes_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  /// False when it was refused.
  bool upload(SteppedPush& push) {
    const auto pages = push.encode(generator_);
    NamespaceTotals after = model_.totals;
    after.document_bytes = store_->totals(name_space_)->document_bytes;
    for (const auto& page : pages) {
      if (model_.known.contains(page.hash)) continue;
      ++after.chunks;
      after.chunk_bytes += page.chunk.size();
    }
    const std::uint64_t quota = model_.settings.quota_bytes;
    const auto done = push.upload(pages);
    if (quota != 0 && after.chunks > model_.totals.chunks && after.pushed_bytes() > quota) {
      EXPECT_EQ(code_of(done), ErrorCode::kQuotaExceeded);
      return false;
    }
    EXPECT_TRUE(succeeded(done));
    for (const auto& page : pages) model_.known.insert(page.hash);
    model_.totals = after;
    return true;
  }
  /// Always true: it is over.
  bool commit(SteppedPush& push) {
    const auto manifest = push.commit();
    const std::uint64_t quota = model_.settings.quota_snapshots;
    if (model_.snapshots.contains(push.name())) {
      EXPECT_EQ(code_of(manifest), ErrorCode::kAlreadyExists);
    } else if (quota != 0 && model_.snapshots.size() >= quota) {
      EXPECT_EQ(code_of(manifest), ErrorCode::kQuotaExceeded);
    } else if (!may_be_refused(manifest)) {
      EXPECT_TRUE(succeeded(manifest));
      if (manifest) model_.snapshots.emplace(push.name(), Model::Snapshot{push.image(), *manifest});
    }
    return true;
  }
  void push_whole() {
    begin_push();
    for (int i = 0; i < 40; ++i) go_on();
  }
  void drop_push() {
    if (!pushes_.empty()) pushes_.pop_back();
  }

  /// Nothing when there is no such snapshot, which the store is found to know.
  std::optional<Model::Snapshot> draw_to_delete() {
    const std::string name = draw_name();
    const auto found = model_.snapshots.find(name);
    if (found != model_.snapshots.end()) return found->second;
    EXPECT_EQ(code_of(store_->manifest(name_space_, name)), ErrorCode::kNotFound);
    EXPECT_EQ(code_of(store_->retire(name_space_, name)), ErrorCode::kNotFound);
    EXPECT_EQ(code_of(store_->move_tag(name_space_, {"tag:0", name})), ErrorCode::kNotFound);
    return std::nullopt;
  }
  void forget_name(const std::string& name) {
    model_.marks.erase(model_.snapshots.at(name).manifest.snapshot);
    model_.snapshots.erase(name);
    std::erase_if(model_.tags, [&](const auto& tag) { return tag.second == name; });
  }
  void remove() {
    const auto snapshot = draw_to_delete();
    if (!snapshot) return;
    const Manifest& manifest = snapshot->manifest;
    const auto removed = remove_unless_pinned(*store_, pins_, name_space_, manifest.snapshot);
    ASSERT_TRUE(succeeded(removed));
    EXPECT_EQ(*removed, !is_pinned(manifest.snapshot));
    if (*removed) forget_name(manifest.spec.name);
  }
  void retire() {
    const auto snapshot = draw_to_delete();
    if (!snapshot) return;
    ASSERT_TRUE(succeeded(store_->retire(name_space_, snapshot->manifest.spec.name)));
    forget_name(snapshot->manifest.spec.name);
    model_.retired.emplace(snapshot->manifest.snapshot, *snapshot);
  }
  void pin() {
    const Model::Snapshot* const snapshot = draw_any();
    if (snapshot == nullptr || model_.pins.size() == kMostPins) return;
    ASSERT_TRUE(succeeded(pins_.pin(*store_, name_space_, snapshot->manifest.snapshot)));
    model_.pins.push_back(snapshot->manifest.snapshot);
  }
  void unpin() {
    if (model_.pins.empty()) return;
    pins_.unpin(name_space_, model_.pins.back());
    model_.pins.pop_back();
  }
  void move_tag() {
    const Model::Snapshot* const to = draw_of(model_.snapshots);
    if (to == nullptr) return;
    const message::Tag tag{draw_tag(), to->manifest.spec.name};
    const auto moved = store_->move_tag(name_space_, tag);
    if (may_be_refused(moved)) return;
    ASSERT_TRUE(succeeded(moved));
    model_.tags[tag.tag] = tag.name;
    model_.marks.erase(to->manifest.snapshot);
  }
  void mark_outdated() {
    const Model::Snapshot* const old = draw_of(model_.snapshots);
    if (old == nullptr) return;
    const SnapshotId snapshot = old->manifest.snapshot;
    const std::uint64_t since = generator_();
    ASSERT_TRUE(succeeded(store_->mark_outdated(name_space_, {{snapshot, since}})));
    model_.marks[snapshot] = since;
  }
  void remove_tag() {
    const std::string tag = draw_tag();
    const auto removed = store_->remove_tag(name_space_, tag);
    EXPECT_EQ(removed.has_value(), model_.tags.erase(tag) > 0);
  }
  void label() {
    const Model::Snapshot* const drawn = draw_of(model_.snapshots);
    if (drawn == nullptr) return;
    Manifest manifest = drawn->manifest;
    manifest.spec.labels.resize(1);
    manifest.spec.labels.push_back({"mark", std::to_string(generator_())});
    const auto changed = store_->set_labels(name_space_, manifest.spec.name, manifest.spec.labels);
    if (may_be_refused(changed)) return;
    ASSERT_TRUE(succeeded(changed));
    EXPECT_EQ(*changed, manifest);
    model_.snapshots.at(manifest.spec.name).manifest = manifest;
  }
  /// What a name takes up is little, and the model does not know it; the quota may be full.
  template <typename T>
  bool may_be_refused(const Result<T>& done) const {
    return model_.settings.quota_bytes != 0 && code_of(done) == ErrorCode::kQuotaExceeded;
  }
  /// A working set is stored, or a part of one; what becomes of it, its own tests say.
  void record() {
    const Model::Snapshot* const of = draw_any();
    if (of == nullptr) return;
    const SnapshotId snapshot = of->manifest.snapshot;
    WorkingSetStore& sets = store_->working_sets();
    const std::uint64_t number = sets.state(name_space_, snapshot)->last_recording + 1;
    const std::vector<Bytes> packs(pick(generator_, 4), Bytes(1 + pick(generator_, 20'000)));
    const auto put = sets.put_packs(name_space_, {snapshot, number, 0}, packs);
    if (!put) {
      EXPECT_EQ(code_of(put), ErrorCode::kQuotaExceeded);
      return;
    }
    if (pick(generator_, 4) == 0) return;
    WorkingSet set{
        .snapshot = snapshot, .generation = number, .recordings = 1, .pages = {}, .packs = {}};
    for (const Bytes& pack : packs) {
      set.pages.push_back({.page = {set.pages.size()}});
      set.packs.push_back({1, static_cast<std::uint32_t>(pack.size())});
    }
    const NewRecording recording{.summary = {.number = number},
                                 .sealed = Bytes(pick(generator_, 3000)),
                                 .oldest_kept = number - pick(generator_, 3)};
    const auto published = sets.publish(name_space_, set, recording);
    EXPECT_EQ(code_of(published).value_or(ErrorCode::kQuotaExceeded), ErrorCode::kQuotaExceeded);
  }
  void read_one() {
    if (const auto* const snapshot = draw_any()) compare(*snapshot);
  }

  void compare(const Model::Snapshot& snapshot) {
    EXPECT_TRUE(load(snapshot.manifest, name_space_) == snapshot.image->pages)
        << snapshot.manifest.spec.name;
    const auto sealed = store_->cold_map(name_space_, snapshot.manifest.snapshot);
    EXPECT_EQ(sealed.has_value(), !snapshot.image->cold.empty()) << snapshot.manifest.spec.name;
    if (!sealed) return;
    const PageCount pages = snapshot.image->spec.memory_pages();
    EXPECT_EQ(decode_cold_map(*sealed, pages).value(), snapshot.image->cold);
  }

  /// What takes no time to compare: names, manifests, sums, and one page of one snapshot.
  void check() {
    std::vector<Manifest> expected;
    for (const auto& [name, snapshot] : model_.snapshots) expected.push_back(snapshot.manifest);
    std::vector<Manifest> found;
    const auto listed = store_->manifests(name_space_, "", {2 * kNames, SIZE_MAX});
    ASSERT_TRUE(succeeded(listed));
    for (const Bytes& sealed : *listed) found.push_back(*decode_manifest(sealed));
    EXPECT_EQ(found, expected);
    std::vector<SnapshotId> retired;
    for (const auto& [id, snapshot] : model_.retired) retired.push_back(id);
    EXPECT_EQ(store_->retired(name_space_), retired);
    std::vector<message::Tag> tags;
    for (const auto& [tag, name] : model_.tags) tags.push_back({tag, name});
    EXPECT_EQ(store_->tags(name_space_, {}, 2 * kTags), tags);
    EXPECT_EQ(*store_->outdated_marks(name_space_), model_.marks);
    const NamespaceTotals totals = *store_->totals(name_space_);
    EXPECT_EQ(totals.chunks, model_.totals.chunks);
    EXPECT_EQ(totals.chunk_bytes, model_.totals.chunk_bytes);
    EXPECT_EQ(totals, *store_->chunk_upkeep().count(name_space_));
    if (const auto* const snapshot = draw_any()) check_page(*snapshot);
  }
  void check_page(const Model::Snapshot& snapshot) {
    const DrawnImage& image = *snapshot.image;
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

  static constexpr std::size_t kMostPushes = 4;  // at one time
  static constexpr std::size_t kMostPins = 3;
  static constexpr std::uint64_t kNames = 20;
  static constexpr std::uint64_t kTags = 4;

  std::mt19937_64 generator_ = seeded_generator();
  Model model_;
  SnapshotPins pins_;
  LivePushes live_pushes_;
  std::vector<std::unique_ptr<SteppedPush>> pushes_;
};

}  // namespace thaw::test
