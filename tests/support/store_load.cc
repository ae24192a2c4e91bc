#include "tests/support/store_load.h"

#include <algorithm>
#include <array>

#include <gtest/gtest.h>

#include "format/hash.h"
#include "format/limits.h"
#include "tests/support/finished_job.h"
#include "tests/support/page_connection.h"
#include "tests/support/test_support.h"

namespace thaw::test {

namespace {

constexpr std::size_t kMostOwnSnapshots = 6;
/// Names come again and again, so that one of which half is left is found to be taken.
constexpr std::uint64_t kNames = 12;
constexpr std::uint64_t kTags = 3;  // of a client
static_assert(kMostOwnSnapshots < kNames);

/// Sends the pages [first, first + count) of a push that has begun.
Result<void> send_pages(PageClient& client, const DrawnImage& image, PageIndex first,
                        PageCount count, Bytes kept) {
  if (count.value == 0) return {};
  message::Offer offer{first, count, empty_bitmap(count.value), std::move(kept)};
  std::vector<Sha256> hashes;
  std::vector<std::size_t> offered;
  Hasher hasher;
  for (std::size_t i = 0; i < count.value; ++i) {
    const PageSpan page = image.page(first.value + i);
    if (is_zero_page(page)) {
      set_bit(offer.zero_bitmap, i);
    } else if (offer.kept_bitmap.empty() || !bit(offer.kept_bitmap, i)) {
      hashes.push_back(hasher.hash(page));
      offered.push_back(first.value + i);
    }
  }
  TRY(client.send_offer(offer, hashes));
  const Bytes missing = TRY(client.receive_needed(hashes.size()));
  constexpr std::uint32_t kUpload = 32;
  std::uint32_t encoded = 0;
  Bytes chunks;
  ChunkCodec codec;
  const auto upload = [&]() -> Result<void> {
    TRY(client.send_upload(encoded, chunks));
    TRY(client.receive_uploaded());
    encoded = 0;
    chunks.clear();
    return {};
  };
  for (std::size_t i = 0; i < offered.size(); ++i) {
    if (!bit(missing, i)) continue;
    codec.encode(image.page(offered[i]), kNoChunk, chunks);
    if (++encoded == kUpload) TRY(upload());
  }
  return encoded == 0 ? Result<void>() : upload();
}

/// Until it is destroyed the snapshot stays; kNotFound.
Result<PageConnection> pin(const TcpAddress& server, SnapshotId snapshot) {
  auto connection = TRY(PageConnection::connect(server, message::Role::kDemand));
  TRY(connection.pin(snapshot));
  return connection;
}

}  // namespace

void NameBoard::add(const std::string& name) {
  const std::lock_guard lock(mutex_);
  names_.push_back(name);
}
void NameBoard::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  std::erase(names_, name);
}
void NameBoard::clear() {
  const std::lock_guard lock(mutex_);
  names_.clear();
}
std::optional<std::string> NameBoard::any(std::mt19937_64& generator) const {
  const std::lock_guard lock(mutex_);
  if (names_.empty()) return std::nullopt;
  return names_[pick(generator, names_.size())];
}

Result<void> check_content(PageClient& client, PageClient& pages, const Manifest& manifest) {
  const DrawnImage image = draw_image(seeds_of(manifest.spec.labels), manifest.spec.name);
  const PageMap map = TRY(client.page_map(manifest));
  SnapshotSpec expected = image.spec;
  expected.labels = manifest.spec.labels;
  EXPECT_EQ(manifest.spec, expected);
  if (map.size().value != image.count()) {
    ADD_FAILURE() << manifest.spec.name << " has " << map.size().value << " pages";
    return {};
  }
  if (!image.cold.empty()) {
    const ColdMap cold = TRY(client.cold_map(manifest));
    EXPECT_EQ(cold, image.cold) << manifest.spec.name;
  }
  Bytes found(image.pages.size());
  TRY(fetch_pages(
      pages, map, PageIndex{0}, map.size(), [&](PageIndex first, ByteSpan content) -> Result<void> {
        std::ranges::copy(content,
                          found.begin() + static_cast<std::ptrdiff_t>(offset_of(first).value));
        return {};
      }));
  EXPECT_TRUE(found == image.pages) << manifest.spec.name << " is not what was pushed";
  return {};
}

LoadClient::LoadClient(unsigned number, std::uint64_t seed, NameBoard& board, LoadCounts& counts)
    : number_(number), generator_(seed), board_(board), counts_(counts) {}

LoadClient::Operation LoadClient::draw_operation() {
  static constexpr std::array kOperations{
      Operation{"push", 5, &LoadClient::push},
      Operation{"push to a parent", 3, &LoadClient::push_diff},
      Operation{"delete", 3, &LoadClient::remove},
      Operation{"delete what is in use", 1, &LoadClient::remove_in_use},
      Operation{"pull", 1, &LoadClient::pull},
      Operation{"read what others may delete", 1, &LoadClient::read_foreign},
      Operation{"read what others may not delete", 1, &LoadClient::read_pinned},
      Operation{"move a tag", 2, &LoadClient::move_tag},
      Operation{"label", 1, &LoadClient::label},
      Operation{"record", 2, &LoadClient::record},
      Operation{"collect", 2, &LoadClient::collect},
      Operation{"mark outdated ones", 1, &LoadClient::retain},
  };
  return pick_weighted(generator_, kOperations);
}

std::optional<std::string> LoadClient::draw_own() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : ledger_.snapshots) {
    if (entry.standing == Ledger::Snapshot::Standing::kAcknowledged) names.push_back(name);
  }
  if (names.empty()) return std::nullopt;
  return names[pick(generator_, names.size())];
}

std::string LoadClient::draw_free_name() {
  std::string name;
  do {
    name = fmt::format("client{}-{}", number_, pick(generator_, kNames));
  } while (ledger_.snapshots.contains(name));
  return name;
}

/// Goes on with a push that has begun.
Result<void> LoadClient::store_image(Connections& to, const DrawnImage& image,
                                     const DrawnImage* parent) {
  Ledger::Snapshot& entry = ledger_.snapshots[image.spec.name];
  entry = {.seeds = seeds_of(image.spec.labels)};
  const PageCount memory = image.spec.memory_pages();
  TRY(send_pages(to.control, image, {0}, memory,
                 parent == nullptr ? Bytes() : kept_pages(image, *parent)));
  TRY(send_pages(to.control, image, {memory.value}, image.spec.image_pages() - memory, {}));
  TRY(to.control.commit(image.cold));
  entry.standing = Ledger::Snapshot::Standing::kAcknowledged;
  board_.add(image.spec.name);
  return {};
}

Result<void> LoadClient::push(Connections& to) {
  if (ledger_.snapshots.size() >= kMostOwnSnapshots) return remove(to);
  const DrawnImage image = draw_image(std::to_string(generator_()), draw_free_name());
  TRY(to.control.begin_push(image.spec));
  TRY(store_image(to, image, nullptr));
  ++counts_.pushes;
  return {};
}

/// The parent may be another client's, who deletes it meanwhile, and takes its name again.
Result<void> LoadClient::push_diff(Connections& to) {
  const auto parent = board_.any(generator_);
  if (!parent || ledger_.snapshots.size() >= kMostOwnSnapshots) return {};
  const auto before = TRY(if_found(to.control.show(*parent)));
  const std::string seeds =
      before ? changed_seeds(seeds_of(before->spec.labels), generator_()) : "";
  if (seeds.empty()) return {};
  const DrawnImage image = draw_image(seeds, draw_free_name());
  const auto begun = if_found([&]() -> Result<bool> {
    TRY(to.control.begin_push(image.spec, *parent));
    return true;
  }());
  if (!TRY(begun)) return {};
  const auto now = TRY(if_found(to.control.show(*parent)));
  if (!now || now->snapshot != before->snapshot) return {};
  const DrawnImage whole_parent = draw_image(seeds_of(before->spec.labels), *parent);
  TRY(store_image(to, image, &whole_parent));
  ++counts_.diffs;
  return {};
}

Result<void> LoadClient::remove(Connections& to) {
  const auto name = draw_own();
  if (!name) return {};
  Ledger::Snapshot& entry = ledger_.snapshots[*name];
  entry.standing = Ledger::Snapshot::Standing::kUnderWay;
  board_.remove(*name);
  const auto removed = to.control.remove({*name});
  if (code_of(removed) == ErrorCode::kBusy) {
    entry.standing = Ledger::Snapshot::Standing::kAcknowledged;
    board_.add(*name);
    return {};
  }
  TRY(removed);
  ledger_.forget(*name);
  ++counts_.deletions;
  return {};
}

/// Whoever has it pinned reads it to the end, whatever is deleted and collected meanwhile.
Result<void> LoadClient::remove_in_use(Connections& to) {
  const auto name = draw_own();
  if (!name) return {};
  const Manifest manifest = TRY(to.control.show(*name));
  const PageConnection user = TRY(pin(to.server, manifest.snapshot));
  const auto refused = to.control.remove({*name});
  EXPECT_FALSE(refused.has_value()) << *name << " is in use";
  if (code_of(refused) != ErrorCode::kBusy) return refused;
  ledger_.snapshots[*name].standing = Ledger::Snapshot::Standing::kUnderWay;
  board_.remove(*name);
  TRY(to.control.remove({.name = *name, .when_unused = true}));
  ledger_.forget(*name);
  ++counts_.deletions;
  EXPECT_FALSE(TRY(if_found(to.control.show(*name)))) << *name;
  TRY(collect(to));
  TRY(check_content(to.control, to.demand, manifest));
  ++counts_.pinned_reads;
  return {};
}

Result<void> LoadClient::pull(Connections& to) {
  const auto name = draw_own();
  if (!name) return {};
  const Manifest manifest = TRY(to.control.show(*name));
  EXPECT_EQ(seeds_of(manifest.spec.labels), ledger_.snapshots[*name].seeds) << *name;
  TRY(check_content(to.control, to.demand, manifest));
  ++counts_.pulls;
  return {};
}

Result<void> LoadClient::read_foreign(Connections& to) {
  const auto name = board_.any(generator_);
  if (!name) return {};
  // On a connection of its own: one that has failed is of no further use.
  PageClient demand = TRY(PageClient::connect(to.server, "default", message::Role::kDemand));
  const auto read = [&]() -> Result<bool> {
    const Manifest manifest = TRY(to.control.show(*name));
    TRY(check_content(to.control, demand, manifest));
    return true;
  };
  if (TRY(if_found(read()))) ++counts_.foreign_reads;
  return {};
}

Result<void> LoadClient::read_pinned(Connections& to) {
  const auto name = board_.any(generator_);
  if (!name) return {};
  const auto manifest = TRY(if_found(to.control.show(*name)));
  if (!manifest) return {};
  const auto user = TRY(if_found(pin(to.server, manifest->snapshot)));
  if (!user) return {};
  TRY(check_content(to.control, to.demand, *manifest));
  ++counts_.pinned_reads;
  return {};
}

Result<void> LoadClient::move_tag(Connections& to) {
  const auto name = draw_own();
  if (!name) return {};
  const std::string tag = fmt::format("client{}:{}", number_, pick(generator_, kTags));
  auto& possible = ledger_.tags.try_emplace(tag, std::set<std::string>{""}).first->second;
  possible.insert(*name);
  TRY(to.control.move_tag({tag, *name}));
  possible = {*name};
  EXPECT_EQ(TRY(to.control.show(tag)).spec.name, *name);
  ++counts_.tag_moves;
  return {};
}

Result<void> LoadClient::label(Connections& to) {
  const auto name = draw_own();
  if (!name) return {};
  const std::string mark = std::to_string(generator_());
  auto& possible = ledger_.snapshots[*name].marks;
  possible.insert(mark);
  TRY(to.control.change_labels({*name, {{Ledger::kMarkLabel, mark}}, {}}));
  possible = {mark};
  return {};
}

/// What is stored of it, the store's check at the end counts.
Result<void> LoadClient::record(Connections& to) {
  const auto name = draw_own();
  if (!name) return {};
  const Manifest manifest = TRY(to.control.show(*name));
  Recording recording{.content_hash = manifest.content_hash,
                      .created_unix_ms = generator_(),
                      .regions = {},
                      .touches = {}};
  const std::uint64_t pages = manifest.spec.memory_pages().value;
  const std::uint64_t first = pick(generator_, pages);
  for (std::uint64_t page = first; page < pages; ++page) recording.touches.push_back({{page}, 0});
  return to.control.put_recording(manifest.snapshot, recording);
}

Result<void> LoadClient::collect(Connections& to) {
  // Before the first push there is no namespace.
  const auto done = TRY(if_found(run_job(to.control, message::JobKind::kCollect)));
  if (done.value_or(std::nullopt)) ++counts_.collections;
  return {};
}

/// Other settings take all marks away, then some snapshots are marked anew. None is deleted within
/// a day.
Result<void> LoadClient::retain(Connections& to) {
  TRY(to.control.set_namespace({.keep_last = 1 + pick(generator_, kNames)}));
  TRY(run_job(to.control, message::JobKind::kRetain));
  return {};
}

Result<void> LoadClient::work(const TcpAddress& server, const std::set<ErrorCode>& expected,
                              const std::atomic<bool>& stop) {
  while (!stop) {
    PageClient control = TRY(PageClient::connect(server, "default"));
    PageClient demand = TRY(PageClient::connect(server, "default", message::Role::kDemand));
    Connections connections{server, std::move(control), std::move(demand)};
    for (bool good = true; good && !stop;) {
      const Operation operation = draw_operation();
      const auto done = (this->*operation.run)(connections);
      ++counts_.operations;
      if (done) continue;
      if (done.error().code() == ErrorCode::kUnavailable) return done;
      if (expected.contains(done.error().code())) {
        ++counts_.refusals;
      } else {
        ADD_FAILURE() << operation.name << ": " << done.error().message();
      }
      good = false;
    }
  }
  return {};
}

void LoadClient::run(const TcpAddress& server, const std::set<ErrorCode>& expected,
                     const std::atomic<bool>& stop) {
  const auto done = work(server, expected, stop);
  if (done || done.error().code() == ErrorCode::kUnavailable) return;
  ADD_FAILURE() << "client " << number_ << ": " << done.error().message();
}

}  // namespace thaw::test
