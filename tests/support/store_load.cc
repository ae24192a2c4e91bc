#include "tests/support/store_load.h"

#include <algorithm>
#include <array>

#include <gtest/gtest.h>

#include "format/hash.h"
#include "format/limits.h"
#include "tests/support/test_support.h"

namespace thaw::test {

namespace {

constexpr std::size_t kMostOwnSnapshots = 6;
/// Names come again and again, so that one of which half is left is found to be taken.
constexpr std::uint64_t kNames = 12;
static_assert(kMostOwnSnapshots < kNames);

Result<Manifest> push_image(PageClient& client, const DrawnImage& image) {
  TRY(client.begin_push(image.spec));
  message::Offer offer{{0}, {image.count()}, empty_bitmap(image.count())};
  std::vector<Sha256> hashes;
  std::vector<std::size_t> offered;
  Hasher hasher;
  for (std::size_t i = 0; i < image.count(); ++i) {
    if (is_zero_page(image.page(i))) {
      set_bit(offer.zero_bitmap, i);
      continue;
    }
    hashes.push_back(hasher.hash(image.page(i)));
    offered.push_back(i);
  }
  TRY(client.send_offer(offer, hashes));
  const Bytes missing = TRY(client.receive_needed(hashes.size()));
  constexpr std::uint32_t kUpload = 32;
  std::uint32_t encoded = 0;
  Bytes chunks;
  ChunkCodec codec;
  for (std::size_t i = 0; i < offered.size(); ++i) {
    if (!bit(missing, i)) continue;
    codec.encode(image.page(offered[i]), kNoChunk, chunks);
    if (++encoded < kUpload) continue;
    TRY(client.send_upload(encoded, chunks));
    TRY(client.receive_uploaded());
    encoded = 0;
    chunks.clear();
  }
  if (encoded > 0) {
    TRY(client.send_upload(encoded, chunks));
    TRY(client.receive_uploaded());
  }
  return client.commit(image.cold);
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
std::optional<std::string> NameBoard::any(std::mt19937_64& generator) const {
  const std::lock_guard lock(mutex_);
  if (names_.empty()) return std::nullopt;
  return names_[pick(generator, names_.size())];
}

Result<void> check_content(PageClient& client, PageClient& pages, const Manifest& manifest) {
  const DrawnImage image = draw_image(seed_of(manifest), manifest.spec.name);
  const PageMap map = TRY(client.page_map(manifest));
  EXPECT_EQ(manifest.spec, image.spec);
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
      Operation{"delete", 3, &LoadClient::remove},
      Operation{"pull", 1, &LoadClient::pull},
      Operation{"read what others may delete", 2, &LoadClient::read_foreign},
  };
  return pick_weighted(generator_, kOperations);
}

std::optional<std::string> LoadClient::draw_own() {
  std::vector<std::string> names;
  for (const auto& [name, entry] : ledger_) {
    if (entry.standing == LedgerEntry::Standing::kAcknowledged) names.push_back(name);
  }
  if (names.empty()) return std::nullopt;
  return names[pick(generator_, names.size())];
}

Result<void> LoadClient::push(Connections& to) {
  if (ledger_.size() >= kMostOwnSnapshots) return remove(to);
  std::string name;
  do {
    name = fmt::format("client{}-{}", number_, pick(generator_, kNames));
  } while (ledger_.contains(name));
  const std::uint64_t seed = generator_();
  LedgerEntry& entry = ledger_[name];
  entry = {seed, LedgerEntry::Standing::kUnderWay};
  TRY(push_image(to.control, draw_image(seed, name)));
  entry.standing = LedgerEntry::Standing::kAcknowledged;
  board_.add(name);
  ++counts_.pushes;
  return {};
}

Result<void> LoadClient::remove(Connections& to) {
  const auto name = draw_own();
  if (!name) return {};
  ledger_[*name].standing = LedgerEntry::Standing::kUnderWay;
  board_.remove(*name);
  TRY(to.control.remove({*name}));
  ledger_.erase(*name);
  ++counts_.deletions;
  return {};
}

Result<void> LoadClient::pull(Connections& to) {
  const auto name = draw_own();
  if (!name) return {};
  const Manifest manifest = TRY(to.control.show(*name));
  EXPECT_EQ(seed_of(manifest), ledger_[*name].seed) << *name;
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
