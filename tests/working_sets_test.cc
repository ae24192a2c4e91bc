// Working sets over the wire: the real page server under clients that record, prefetch and lie.

#include "pageserver/working_sets.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <thread>

#include <gtest/gtest.h>

#include "base/socket.h"
#include "format/hash.h"
#include "format/limits.h"
#include "format/pack.h"
#include "format/page_client.h"
#include "pageserver/limits.h"
#include "pageserver/rank.h"
#include "tests/support/page_connection.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr std::uint64_t kPages = 600;

class WorkingSetsTest : public testing::Test {
 protected:
  PageClient connect(const std::string& name_space = "default") {
    return PageClient::connect(*resolve_tcp(server_.address()), name_space).value();
  }
  static PageSpan page(const Bytes& image, std::size_t i) {
    return PageSpan(image.data() + i * kPageBytes, kPageBytes);
  }
  /// Pushes an image of at most limits::kMaxOfferPages pages.
  Result<Manifest> push(const std::string& name, const Bytes& image,
                        const std::string& parent = {}) {
    const std::size_t pages = image.size() / kPageBytes;
    TRY(client_.begin_push({.name = name,
                            .memory = {image.size()},
                            .state = {},
                            .regions = {},
                            .labels = {},
                            .cpu_vendor = {}},
                           parent));
    message::Offer offer{{0}, {pages}, empty_bitmap(pages)};
    std::vector<Sha256> hashes;
    std::vector<std::size_t> offered;
    for (std::size_t i = 0; i < pages; ++i) {
      if (is_zero_page(page(image, i))) {
        set_bit(offer.zero_bitmap, i);
        continue;
      }
      hashes.push_back(Hasher().hash(page(image, i)));
      offered.push_back(i);
    }
    TRY(client_.send_offer(offer, hashes));
    const Bytes missing = TRY(client_.receive_needed(hashes.size()));
    for (std::size_t i = 0; i < offered.size(); ++i) {
      if (!bit(missing, i)) continue;
      Bytes chunk;
      codec_.encode(page(image, offered[i]), kNoChunk, chunk);
      TRY(client_.send_upload(1, chunk));
      TRY(client_.receive_uploaded());
    }
    return client_.commit();
  }
  /// Touches of `pages` pages of the memory at random times of half a second.
  static Recording record(std::mt19937_64& generator, const Manifest& manifest, std::size_t pages) {
    Recording recording{.content_hash = manifest.content_hash,
                        .created_unix_ms = generator() >> 20,
                        .regions = {},
                        .touches = {}};
    std::vector<std::uint64_t> all(manifest.spec.memory_pages().value);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
    std::ranges::shuffle(all, generator);
    std::uint32_t us = 0;
    for (std::size_t i = 0; i < pages; ++i) {
      us += static_cast<std::uint32_t>(pick(generator, 1'000'000 / pages));
      recording.touches.push_back({.page = {all[i]}, .us = us});
    }
    return recording;
  }
  /// Fetches and decodes every pack of a set, and compares it with the image.
  void expect_packs_hold(const WorkingSet& set, const Manifest& manifest, const Bytes& image) {
    const PageMap map = client_.page_map(manifest).value();
    const auto packs = packed_pages(set, map, manifest.spec.memory_pages());
    ASSERT_TRUE(succeeded(packs));
    PageConnection prefetch(server_.address(), message::Role::kPrefetch);
    PackCodec codec;
    std::size_t pages = 0;
    for (std::uint32_t i = 0; i < packs->size(); ++i) {
      const auto reply = prefetch.ask(message::GetPack{set.snapshot, set.generation, i});
      ASSERT_TRUE(std::holds_alternative<message::PackReply>(reply.message)) << i;
      EXPECT_EQ(reply.body.size(), set.packs[i].bytes);
      Bytes plain(bytes_of({(*packs)[i].size()}).value);
      ASSERT_TRUE(succeeded(codec.decode(reply.body, (*packs)[i], plain)));
      for (std::size_t k = 0; k < (*packs)[i].size(); ++k, ++pages) {
        EXPECT_TRUE(std::ranges::equal(page(plain, k), page(image, (*packs)[i][k].page.value)));
      }
    }
    EXPECT_LE(set.pack_bytes(), bytes_of({pages}).value) << "no more than the pages themselves";
    const auto beyond = static_cast<std::uint32_t>(packs->size());
    prefetch.send(message::GetPack{set.snapshot, set.generation, beyond});
    EXPECT_EQ(prefetch.receive_error(), ErrorCode::kNotFound);
  }
  std::vector<std::uint64_t> numbers(SnapshotId snapshot) {
    std::vector<std::uint64_t> found;
    const auto report = client_.working_set_report(snapshot).value();
    found.reserve(report.recordings.size());
    for (const auto& summary : report.recordings) found.push_back(summary.number);
    return found;
  }

  ScratchDirectory directory_;
  PageServer server_{directory_.path("store")};
  PageClient client_ = connect();
  ChunkCodec codec_;
  std::mt19937_64 generator_ = seeded_generator();
};

TEST_F(WorkingSetsTest, RecordingsMakeASetWhosePacksAreTheImage) {
  const Bytes image = make_image(1, kPages);
  const Manifest manifest = push("a", image).value();
  EXPECT_EQ(code_of(client_.working_set(manifest.snapshot)), ErrorCode::kNotFound);
  std::vector<Recording> recordings;
  for (std::uint64_t number = 1; number <= 3; ++number) {
    recordings.push_back(record(generator_, manifest, 400));
    ASSERT_TRUE(succeeded(client_.put_recording(manifest.snapshot, recordings.back())));
    const auto set = client_.working_set(manifest.snapshot);
    ASSERT_TRUE(succeeded(set));
    EXPECT_EQ(set->snapshot, manifest.snapshot);
    EXPECT_EQ(set->generation, number);
    EXPECT_EQ(set->recordings, number);
    EXPECT_EQ(set->pages, rank(recordings));
    expect_packs_hold(*set, manifest, image);
    EXPECT_EQ(client_.recording(manifest.snapshot, number).value(), recordings.back());
  }
  EXPECT_EQ(code_of(client_.recording(manifest.snapshot, 4)), ErrorCode::kNotFound);
  const auto statistics = client_.statistics();
  ASSERT_TRUE(succeeded(statistics));
  EXPECT_GT(statistics->packs_served, 0u);
  EXPECT_GT(statistics->pack_bytes, client_.working_set(manifest.snapshot)->pack_bytes());
}

TEST_F(WorkingSetsTest, ReportSaysHowWellTheSetBeforeWouldHaveDone) {
  const Manifest manifest = push("a", make_image(1, kPages)).value();
  EXPECT_TRUE(client_.working_set_report(manifest.snapshot)->recordings.empty());
  const Recording first = record(generator_, manifest, 300);
  const Recording second = record(generator_, manifest, 200);
  ASSERT_TRUE(succeeded(client_.put_recording(manifest.snapshot, first)));
  ASSERT_TRUE(succeeded(client_.put_recording(manifest.snapshot, second)));
  ASSERT_TRUE(succeeded(client_.put_prefetch_report(manifest.snapshot, {1, 2, 3, 4, 5, 6})));
  ASSERT_TRUE(succeeded(client_.put_prefetch_report(manifest.snapshot, {1, 2, 3, 4, 5, 6})));
  const auto report = client_.working_set_report(manifest.snapshot);
  ASSERT_TRUE(succeeded(report));
  const auto hits = static_cast<std::uint32_t>(judge(rank(std::span(&first, 1)), second));
  EXPECT_EQ(report->recordings,
            (std::vector<message::RecordingSummary>{{1, first.created_unix_ms, 300, 0, 0},
                                                    {2, second.created_unix_ms, 200, 300, hits}}));
  EXPECT_EQ(report->totals, (message::PrefetchCounters{2, 4, 6, 8, 10, 12}));
}

TEST_F(WorkingSetsTest, PacksOfTheSetBeforeAreServedForAWhile) {
  const Manifest manifest = push("a", make_image(1, kPages)).value();
  PageConnection prefetch(server_.address(), message::Role::kPrefetch);
  const auto served = [&](std::uint64_t generation) {
    const auto reply = prefetch.ask(message::GetPack{manifest.snapshot, generation, 0});
    return std::holds_alternative<message::PackReply>(reply.message);
  };
  for (std::uint64_t generation = 1; generation <= 3; ++generation) {
    ASSERT_TRUE(
        succeeded(client_.put_recording(manifest.snapshot, record(generator_, manifest, 300))));
    EXPECT_TRUE(served(generation));
  }
  EXPECT_TRUE(served(2));
  EXPECT_FALSE(served(1));
}

TEST_F(WorkingSetsTest, ChildInheritsUntilItHasRecordingsOfItsOwn) {
  const Bytes image = make_image(1, kPages);
  Bytes changed = image;
  for (std::size_t i = 100; i < 200; ++i) store_le(changed.data() + i * kPageBytes, 99'999 + i);
  const Manifest parent = push("parent", image).value();
  const Manifest child = push("child", changed, "parent").value();
  EXPECT_EQ(child.parent, parent.snapshot);
  EXPECT_EQ(code_of(client_.working_set(child.snapshot)), ErrorCode::kNotFound);
  ASSERT_TRUE(
      succeeded(client_.put_recording(parent.snapshot, record(generator_, parent, kPages))));

  const auto inherited = client_.working_set(child.snapshot);

  ASSERT_TRUE(succeeded(inherited));
  EXPECT_EQ(inherited->generation, 0u);
  EXPECT_EQ(inherited->pages.size(), kPages - 100) << "the changed pages are not in it";
  for (const SetPage& page : inherited->pages) {
    EXPECT_FALSE(page.page.value >= 100 && page.page.value < 200);
  }
  expect_packs_hold(*inherited, child, changed);
  EXPECT_EQ(client_.working_set(child.snapshot).value(), *inherited) << "it is stored";
  const Recording own = record(generator_, child, 50);
  ASSERT_TRUE(succeeded(client_.put_recording(child.snapshot, own)));
  const WorkingSet set = client_.working_set(child.snapshot).value();
  EXPECT_EQ(set.generation, 1u);
  EXPECT_EQ(set.pages, rank(std::span(&own, 1)));
  expect_packs_hold(set, child, changed);
}

TEST_F(WorkingSetsTest, UnknownParentIsNotFound) {
  EXPECT_EQ(code_of(push("a", make_image(1, 10), "nothing")), ErrorCode::kNotFound);
  ASSERT_TRUE(succeeded(push("a", make_image(1, 10))));
}

TEST_F(WorkingSetsTest, DroppedOrDeletedNothingIsLeft) {
  const Manifest manifest = push("a", make_image(1, kPages)).value();
  const auto expect_nothing = [&] {
    EXPECT_EQ(code_of(client_.working_set(manifest.snapshot)), ErrorCode::kNotFound);
    EXPECT_EQ(code_of(client_.recording(manifest.snapshot, 1)), ErrorCode::kNotFound);
    EXPECT_EQ(client_.statistics()->pack_bytes, 0u);
    PageConnection prefetch(server_.address(), message::Role::kPrefetch);
    for (std::uint64_t generation = 1; generation <= 2; ++generation) {
      prefetch.send(message::GetPack{manifest.snapshot, generation, 0});
      EXPECT_EQ(prefetch.receive_error(), ErrorCode::kNotFound);
    }
  };
  const Recording recording = record(generator_, manifest, 300);
  ASSERT_TRUE(succeeded(client_.put_recording(manifest.snapshot, recording)));
  ASSERT_TRUE(succeeded(client_.drop_working_set(manifest.snapshot)));
  expect_nothing();
  EXPECT_EQ(client_.working_set_report(manifest.snapshot).value().recordings.size(), 0u);
  ASSERT_TRUE(succeeded(client_.put_recording(manifest.snapshot, recording)));
  EXPECT_EQ(client_.working_set(manifest.snapshot)->generation, 2u) << "no number twice";
  ASSERT_TRUE(succeeded(client_.remove({"a"})));
  expect_nothing();
  EXPECT_EQ(code_of(client_.put_recording(manifest.snapshot, recording)), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(client_.drop_working_set(manifest.snapshot)), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(client_.working_set_report(manifest.snapshot)), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(client_.put_prefetch_report(manifest.snapshot, {})), ErrorCode::kNotFound);
}

TEST_F(WorkingSetsTest, NamespacesShareNothing) {
  const Manifest manifest = push("a", make_image(1, kPages)).value();
  ASSERT_TRUE(
      succeeded(client_.put_recording(manifest.snapshot, record(generator_, manifest, 300))));
  PageClient other = connect("other");
  EXPECT_EQ(code_of(other.working_set(manifest.snapshot)), ErrorCode::kNotFound) << "no namespace";
  std::swap(client_, other);
  EXPECT_EQ(push("b", make_image(2, kPages))->snapshot, manifest.snapshot);
  std::swap(client_, other);
  EXPECT_EQ(code_of(other.put_recording(manifest.snapshot, record(generator_, manifest, 300))),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(other.working_set(manifest.snapshot)), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(other.recording(manifest.snapshot, 1)), ErrorCode::kNotFound);
  EXPECT_TRUE(succeeded(other.drop_working_set(manifest.snapshot)));
  PageConnection prefetch(server_.address(), message::Role::kPrefetch, "other");
  prefetch.send(message::GetPack{manifest.snapshot, 1, 0});
  EXPECT_EQ(prefetch.receive_error(), ErrorCode::kNotFound);
  EXPECT_TRUE(succeeded(client_.working_set(manifest.snapshot)));
}

TEST_F(WorkingSetsTest, WhatIsNoRecordingOfTheSnapshotIsRefusedByName) {
  const Manifest manifest = push("a", make_image(1, kPages)).value();
  const Recording good = record(generator_, manifest, 300);
  const auto refusal = [&](auto change) {
    Recording recording = good;
    change(recording);
    return code_of(client_.put_recording(manifest.snapshot, recording));
  };
  EXPECT_EQ(refusal([](Recording& r) { r.content_hash[0] ^= std::byte{1}; }),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(refusal([](Recording& r) { r.touches[0].page = {kPages}; }),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(refusal([](Recording& r) { r.touches[0].page = r.touches[1].page; }),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(refusal([](Recording& r) { r.touches[0].kind = TouchKind::kPrefetch; }),
            ErrorCode::kInvalidArgument);
  PageConnection control(server_.address(), message::Role::kControl);
  const auto body_refusal = [&](ByteSpan body) {
    control.send(message::PutRecording{manifest.snapshot}, body);
    return control.receive_error();
  };
  const Bytes sealed = encode_recording(good);
  EXPECT_EQ(body_refusal({}), ErrorCode::kTruncated);
  EXPECT_EQ(body_refusal(ByteSpan(sealed).first(sealed.size() - 1)), ErrorCode::kTruncated);
  EXPECT_EQ(body_refusal(as_bytes(std::string(64, 'x'))), ErrorCode::kBadMagic);
  EXPECT_EQ(body_refusal(encode_manifest(manifest)), ErrorCode::kBadMagic);
  Bytes damaged = sealed;
  damaged[16] ^= std::byte{1};
  EXPECT_EQ(body_refusal(damaged), ErrorCode::kChecksumMismatch);
  EXPECT_EQ(code_of(client_.working_set(manifest.snapshot)), ErrorCode::kNotFound);
  const auto accepted = control.ask(message::PutRecording{manifest.snapshot}, sealed);
  EXPECT_TRUE(std::holds_alternative<message::Done>(accepted.message));
}

TEST_F(WorkingSetsTest, PrefetchConnectionIsForPacksAndChunksAlone) {
  const Bytes image = make_image(1, kPages);
  const Manifest manifest = push("a", image).value();
  ASSERT_TRUE(
      succeeded(client_.put_recording(manifest.snapshot, record(generator_, manifest, kPages))));
  PageConnection prefetch(server_.address(), message::Role::kPrefetch);
  for (const Message& message :
       {Message(message::GetWorkingSet{manifest.snapshot}), Message(message::GetStatistics{}),
        Message(message::ShowSnapshot{"a"}), Message(message::DropWorkingSet{manifest.snapshot}),
        Message(message::Welcome{.store = {{std::byte{1}}}})}) {
    prefetch.send(message);
    EXPECT_EQ(prefetch.receive_error(), ErrorCode::kProtocol) << message.index();
  }
  const PageMap map = client_.page_map(manifest).value();
  std::uint64_t first = 0;
  while (map.find({first}).zero()) ++first;
  const ChunkId chunk = map.chunk_of({first});
  const auto chunks = prefetch.ask(message::GetChunks{.ids = {chunk}});
  ASSERT_EQ(std::get<message::Chunks>(chunks.message).count, 1u);
  PlainPage plain;
  ASSERT_TRUE(succeeded(codec_.decode(chunks.body, chunk, plain)));
  EXPECT_TRUE(std::ranges::equal(plain, page(image, first)));
  prefetch.send(message::GetPack{manifest.snapshot, 1, 0}, Bytes(1));
  EXPECT_EQ(prefetch.receive_error(), ErrorCode::kTooLarge) << "no request has a body";
  prefetch.expect_closed();
  PageConnection control(server_.address(), message::Role::kControl);
  control.send(message::GetPack{manifest.snapshot, 1, 0});
  EXPECT_EQ(control.receive_error(), ErrorCode::kProtocol);
}

TEST_F(WorkingSetsTest, RecordingsThatComeAtOnceAreTakenInTurnOrBusy) {
  const Bytes image = make_image(1, kPages);
  const Manifest manifest = push("a", image).value();
  constexpr std::size_t kClients = 4;
  constexpr std::size_t kEach = 5;
  std::atomic<std::size_t> stored = 0;
  {
    std::vector<std::jthread> clients;
    clients.reserve(kClients);
    for (std::size_t i = 0; i < kClients; ++i) {
      clients.emplace_back([&, seed = generator_()] {
        std::mt19937_64 generator(seed);
        PageClient client = connect();
        for (std::size_t k = 0; k < kEach; ++k) {
          const auto put =
              client.put_recording(manifest.snapshot, record(generator, manifest, 300));
          if (put) ++stored;
          EXPECT_TRUE(put || put.error().code() == ErrorCode::kBusy);
        }
      });
    }
  }
  const WorkingSet set = client_.working_set(manifest.snapshot).value();
  EXPECT_EQ(set.generation, stored);
  std::vector<Recording> kept;
  for (const std::uint64_t number : numbers(manifest.snapshot)) {
    kept.push_back(client_.recording(manifest.snapshot, number).value());
  }
  EXPECT_EQ(kept.size(), std::min<std::size_t>(stored, limits::kDefaultKeptRecordings));
  EXPECT_EQ(set.pages, rank(kept));
  expect_packs_hold(set, manifest, image);
}

TEST(BuildTurns, OneAtATimeForEachSnapshot) {
  BuildTurns turns;
  auto first = turns.take({1}, {5});
  ASSERT_TRUE(succeeded(first));
  EXPECT_EQ(code_of(turns.take({1}, {5})), ErrorCode::kBusy);
  EXPECT_TRUE(succeeded(turns.take({1}, {6})));
  EXPECT_TRUE(succeeded(turns.take({2}, {5})));
  {
    const BuildTurns::Turn moved = *std::move(first);
    EXPECT_EQ(code_of(turns.take({1}, {5})), ErrorCode::kBusy);
  }
  EXPECT_TRUE(succeeded(turns.take({1}, {5})));
}

TEST_F(WorkingSetsTest, RecordingThatIsSentTwiceIsStoredOnce) {
  const Manifest manifest = push("a", make_image(1, kPages)).value();
  const Recording recording = record(generator_, manifest, 300);
  ASSERT_TRUE(succeeded(client_.put_recording(manifest.snapshot, recording)));
  for (std::size_t i = 1; i < limits::kDefaultKeptRecordings; ++i) {
    const Recording another = record(generator_, manifest, 300);
    ASSERT_TRUE(succeeded(client_.put_recording(manifest.snapshot, another)));
  }
  const WorkingSet set = client_.working_set(manifest.snapshot).value();
  EXPECT_TRUE(succeeded(client_.put_recording(manifest.snapshot, recording))) << "the oldest";
  EXPECT_EQ(numbers(manifest.snapshot).front(), 1u);
  EXPECT_EQ(client_.working_set(manifest.snapshot).value(), set);
}

TEST_F(WorkingSetsTest, ChildOfWhichEverythingHasChangedInheritsNothing) {
  Bytes image(kPages * kPageBytes);
  Bytes changed = image;
  for (std::size_t i = 0; i < kPages; ++i) {
    store_le(image.data() + i * kPageBytes, 1 + i);
    store_le(changed.data() + i * kPageBytes, 1 + kPages + i);
  }
  const Manifest parent = push("parent", image).value();
  const Manifest child = push("child", changed, "parent").value();
  ASSERT_TRUE(succeeded(client_.put_recording(parent.snapshot, record(generator_, parent, 300))));
  EXPECT_EQ(code_of(client_.working_set(child.snapshot)), ErrorCode::kNotFound)
      << "so its first restore records";
}

TEST_F(WorkingSetsTest, AcknowledgedSetSurvivesAKill) {
  const Bytes image = make_image(1, kPages);
  const Manifest manifest = push("a", image).value();
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(
        succeeded(client_.put_recording(manifest.snapshot, record(generator_, manifest, 300))));
    const WorkingSet set = client_.working_set(manifest.snapshot).value();
    server_.kill();
    server_.start();
    client_ = connect();
    EXPECT_EQ(client_.working_set(manifest.snapshot).value(), set);
    expect_packs_hold(set, manifest, image);
  }
}

TEST_F(WorkingSetsTest, AsManyRecordingsAreKeptAsTheOperatorWants) {
  server_.stop().value();
  Program server({program_path("thaw-pageserver"), "--store", directory_.path("store"), "--listen",
                  server_.address(), "--insecure", "--min-free-mib", "0", "--keep-recordings",
                  "2"});
  ASSERT_TRUE(succeeded(server.wait_for_line("listening on ")));
  client_ = connect();
  const Manifest manifest = push("a", make_image(1, kPages)).value();
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(
        succeeded(client_.put_recording(manifest.snapshot, record(generator_, manifest, 300))));
  }
  EXPECT_EQ(numbers(manifest.snapshot), (std::vector<std::uint64_t>{3, 4}));
  EXPECT_EQ(client_.working_set(manifest.snapshot)->recordings, 2u);
  for (const char* wrong : {"0", "65", "x"}) {
    EXPECT_EQ(run({program_path("thaw-pageserver"), "--store", directory_.path("other"),
                   "--keep-recordings", wrong})
                  .exit_code,
              2);
  }
}

TEST_F(WorkingSetsTest, RecordingsOfEverythingDoNotKeepPushesOut) {
  constexpr std::uint64_t kQuota = 4u << 20;
  constexpr std::size_t kImagePages = 40;
  ASSERT_TRUE(succeeded(client_.set_namespace({.quota_bytes = kQuota})));
  PageClient reader = connect();
  std::uint64_t largest_share = 0;
  std::optional<ErrorCode> refused;
  for (std::uint64_t i = 0; !refused && i < 100; ++i) {
    const auto manifest =
        push("s" + std::to_string(i), random_bytes(generator_, kImagePages * kPageBytes));
    refused = code_of(manifest);
    if (!manifest) break;
    const auto recorded =
        reader.put_recording(manifest->snapshot, record(generator_, *manifest, kImagePages));
    EXPECT_EQ(code_of(recorded).value_or(ErrorCode::kQuotaExceeded), ErrorCode::kQuotaExceeded);
    const auto report = client_.namespace_report().value();
    EXPECT_LE(report.stored_bytes, kQuota);
    largest_share = std::max(largest_share, report.recorded_bytes);
  }
  EXPECT_EQ(refused, ErrorCode::kQuotaExceeded);
  EXPECT_GT(largest_share, kQuota / 8);
  EXPECT_LE(largest_share, kQuota / limits::kWorkingSetPart);
  const auto full = client_.namespace_report().value();
  EXPECT_GT(full.stored_bytes - full.recorded_bytes, kQuota - 2 * kImagePages * kPageBytes)
      << "pushes had nearly all of it";

  server_.kill();
  server_.start();
  client_ = connect();
  EXPECT_EQ(client_.namespace_report()->stored_bytes, full.stored_bytes);
  EXPECT_EQ(client_.namespace_report()->recorded_bytes, full.recorded_bytes);
  ASSERT_EQ(server_.stop().value(), 0);
  Program check({program_path("thaw"), "fsck", directory_.path("store")});
  EXPECT_EQ(check.wait().value_or(-1), 0) << check.rest_of_output();
}

/// All of them get the one set that the first of them makes.
TEST_F(WorkingSetsTest, HerdThatAsksForASetToBeMadeGetsIt) {
  const Bytes image = make_image(1, kPages);
  const Manifest parent = push("parent", image).value();
  ASSERT_TRUE(succeeded(client_.put_recording(parent.snapshot, record(generator_, parent, 500))));
  const Manifest child = push("child", image, "parent").value();
  constexpr std::size_t kHerd = 8;
  std::vector<std::optional<WorkingSet>> sets(kHerd);
  {
    std::vector<std::jthread> herd;
    for (std::optional<WorkingSet>& set : sets) {
      herd.emplace_back([&] {
        PageClient client = connect();
        auto got = client.working_set(child.snapshot);
        EXPECT_TRUE(succeeded(got));
        if (got) set = *std::move(got);
      });
    }
  }
  for (const auto& set : sets) EXPECT_EQ(set, sets[0]);
  EXPECT_EQ(client_.namespace_report()->recorded_bytes,
            client_.statistics()->recording_bytes + client_.statistics()->pack_bytes);
  expect_packs_hold(*sets[0], child, image);
}

}  // namespace
}  // namespace thaw::test
