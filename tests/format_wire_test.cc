#include <array>
#include <cerrno>

#include "format/limits.h"
#include "format/wire.h"
#include "tests/support/store_of.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::store_of;
using test::succeeded;

Bytes encoded(const Message& message, std::uint64_t request_id, std::size_t body_bytes = 0) {
  Bytes bytes;
  encode_message(message, request_id, body_bytes, bytes);
  return bytes;
}

/// The Cap'n Proto part, as aligned as a heap buffer of its own.
Bytes header_of(const Message& message) {
  const Bytes whole = encoded(message, 1);
  return {whole.begin() + kWireHeadBytes, whole.end()};
}

SnapshotSpec some_spec() {
  return {.name = "vm",
          .memory = {2 * kPageBytes},
          .state = {5},
          .regions = {{{2 * kPageBytes}, {0}, {kPageBytes}}},
          .labels = {{"k", "v"}},
          .cpu_vendor = "AuthenticAMD"};
}

/// One of each kind, with no field at its default.
std::vector<Message> all_messages() {
  return {
      message::Hello{.version = 9, .role = message::Role::kDemand, .name_space = "prod"},
      message::BeginPush{some_spec(), "parent"},
      message::Offer{.first = {77},
                     .count = {9},
                     .zero_bitmap = Bytes(2, std::byte{0x81}),
                     .kept_bitmap = Bytes(2, std::byte{0x42})},
      message::Upload{200},
      message::Commit{},
      message::ListSnapshots{"after"},
      message::ShowSnapshot{"show"},
      message::DeleteSnapshot{"delete", true},
      message::GetPageMap{{12}, 34},
      message::GetChunks{{{1}, {~std::uint64_t{0}}, {3}}, 2},
      message::GetStatistics{},
      message::PutRecording{{5}},
      message::GetRecording{{5}, 6},
      message::GetWorkingSet{{7}},
      message::ShowWorkingSet{{8}},
      message::DropWorkingSet{{9}},
      message::GetPack{{10}, 11, 12},
      message::PutPrefetchReport{{13}, {1, 2, 3, 4, 5, 6}},
      message::MoveTag{{"app:new", "vm"}},
      message::RemoveTag{"app:old"},
      message::ListTags{"app:a"},
      message::ChangeLabels{"vm", {{"k", "v"}, {"l", "w"}}, {"gone"}},
      message::GetUsage{"vm"},
      message::GetNamespace{},
      message::SetNamespace{{1, 2, 3, 4, "app"}},
      message::StartJob{message::JobKind::kBackup, true, "monday", true},
      message::GetJob{14},
      message::StopJob{15},
      message::Pin{{16}},
      message::Unpin{{17}},
      message::GetColdMap{{18}},
      message::ReportDamage{{{1}, {~std::uint64_t{0}}}, {19}, {{{20}, 21, 22}, {{23}, 24, ~0u}}},
      message::RemoveNamespace{},
      message::GetPageHashes{{19}, 20},
      message::ErrorReply{ErrorCode::kBusy, "no"},
      message::Welcome{3, store_of(7)},
      message::Done{},
      message::Needed{Bytes(3, std::byte{0x11})},
      message::ManifestReply{},
      message::Snapshots{{100, 200, 300}, true, {{{7}, 1'800'000'000'000}}},
      message::PageMapSegment{},
      message::Chunks{256},
      message::Statistics{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
      message::RecordingReply{},
      message::WorkingSetReply{},
      message::PackReply{},
      message::WorkingSetReport{{{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}}, {1, 2, 3, 4, 5, 6}},
      message::Tags{{{"app:new", "vm"}, {"app:old", "wm"}}, true},
      message::Usage{1, 2, 3, 4, 5, 6, 7},
      message::NamespaceReport{{1, 2, 3, 4, "app"}, 5, 6, 7, 8},
      message::JobReport{1,
                         message::JobKind::kScrub,
                         message::JobState::kFailed,
                         2,
                         3,
                         {ErrorCode::kIo, "no"},
                         {{"chunks", 4}},
                         {"chunk 5"}},
      message::ColdMapReply{},
      message::PageHashes{},
  };
}

std::span<const std::byte, kWireHeadBytes> head_of(const Bytes& bytes) {
  return std::span(bytes).first<kWireHeadBytes>();
}

TEST(Wire, EveryMessageRoundTrips) {
  const std::vector<Message> messages = all_messages();
  ASSERT_EQ(messages.size(), std::variant_size_v<Message>);
  for (std::size_t kind = 0; kind < messages.size(); ++kind) {
    ASSERT_EQ(messages[kind].index(), kind) << "one of each";
    const std::uint64_t request_id = 1'000'000'000'000 + kind;
    const Bytes bytes = encoded(messages[kind], request_id, 17);
    const auto head = decode_wire_head(head_of(bytes));
    ASSERT_TRUE(succeeded(head));
    EXPECT_EQ(head->body_bytes, 17u);
    ASSERT_EQ(head->header_bytes, bytes.size() - kWireHeadBytes);

    const auto envelope = decode_message(ByteSpan(bytes).subspan(kWireHeadBytes));
    ASSERT_TRUE(succeeded(envelope));
    EXPECT_EQ(envelope->request_id, request_id);
    ASSERT_EQ(envelope->message.index(), kind);
    EXPECT_EQ(encoded(envelope->message, request_id, 17), bytes);
  }
}

TEST(Wire, FieldsArriveInTheirPlaces) {
  const auto offer = decode_message(header_of(all_messages()[2]));
  ASSERT_TRUE(succeeded(offer));
  EXPECT_EQ(std::get<message::Offer>(offer->message).first, PageIndex{77});
  EXPECT_EQ(std::get<message::Offer>(offer->message).count, PageCount{9});
  const auto push = decode_message(header_of(message::BeginPush{some_spec(), "parent"}));
  ASSERT_TRUE(succeeded(push));
  EXPECT_EQ(std::get<message::BeginPush>(push->message).spec, some_spec());
  const auto statistics =
      decode_message(header_of(message::Statistics{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  ASSERT_TRUE(succeeded(statistics));
  EXPECT_EQ(std::get<message::Statistics>(statistics->message).uptime_seconds, 8u);
  const auto hello = decode_message(header_of(all_messages()[0]));
  ASSERT_TRUE(succeeded(hello));
  EXPECT_EQ(std::get<message::Hello>(hello->message).role, message::Role::kDemand);
  EXPECT_EQ(std::get<message::Hello>(hello->message).name_space, "prod");
}

TEST(WireHead, RefusalsByName) {
  const Bytes good = encoded(message::Commit{}, 1);
  const auto decoding = [&](std::size_t at, std::uint32_t value) {
    Bytes bytes = good;
    store_le(bytes.data() + at, value);
    return code_of(decode_wire_head(head_of(bytes)));
  };
  EXPECT_EQ(decoding(0, 0x20544547), ErrorCode::kBadMagic) << "\"GET \"";
  EXPECT_EQ(decoding(4, 0), ErrorCode::kMalformed);
  EXPECT_EQ(decoding(4, 12), ErrorCode::kMalformed);
  EXPECT_EQ(decoding(4, limits::kMaxHeaderBytes), std::nullopt);
  EXPECT_EQ(decoding(4, limits::kMaxHeaderBytes + 8), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding(4, 0xffff'fff8), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding(8, limits::kMaxBodyBytes), std::nullopt);
  EXPECT_EQ(decoding(8, limits::kMaxBodyBytes + 1), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding(12, 1), ErrorCode::kMalformed);
}

TEST(Wire, ListsBeyondTheirLimitAreTooLarge) {
  const auto decoding = [](const Message& message) {
    return code_of(decode_message(header_of(message)));
  };
  const std::vector<ChunkId> ids(limits::kMaxChunksPerRequest, ChunkId{1});
  EXPECT_EQ(decoding(message::GetChunks{ids}), std::nullopt);
  EXPECT_EQ(decoding(message::GetChunks{{{1}, {2}}, 3}), ErrorCode::kMalformed);
  auto more = ids;
  more.push_back({1});
  EXPECT_EQ(decoding(message::GetChunks{more}), ErrorCode::kTooLarge);
  const std::vector<PackId> packs(limits::kMaxPacksPerReport, PackId{{1}, 2, 3});
  EXPECT_EQ(decoding(message::ReportDamage{ids, {1}, packs}), std::nullopt);
  EXPECT_EQ(decoding(message::ReportDamage{more, {1}, packs}), ErrorCode::kTooLarge);
  auto more_packs = packs;
  more_packs.push_back({});
  EXPECT_EQ(decoding(message::ReportDamage{{}, {1}, more_packs}), ErrorCode::kTooLarge);
  EXPECT_EQ(decoding(message::Snapshots{
                std::vector<std::uint32_t>(limits::kMaxSnapshotsPerListing + 1), false}),
            ErrorCode::kTooLarge);
  EXPECT_EQ(decoding(message::Snapshots{{100}, false, {{{1}, 1}, {{2}, 2}}}),
            ErrorCode::kMalformed);
  EXPECT_EQ(decoding(message::ErrorReply{ErrorCode::kIo,
                                         std::string(limits::kMaxErrorTextBytes + 1, 'e')}),
            ErrorCode::kTooLarge);
  const PageCount many{limits::kMaxOfferPages + 1};
  EXPECT_EQ(decoding(message::Offer{{0}, many, empty_bitmap(many.value)}), ErrorCode::kTooLarge);
  message::BeginPush push{some_spec(), ""};
  push.spec.labels.resize(limits::kMaxLabels + 1, {"k", "v"});
  EXPECT_EQ(decoding(push), ErrorCode::kTooLarge);
}

TEST(Wire, OfferAndItsBitmapMustAgree) {
  const Bytes low(1, std::byte{1});
  EXPECT_EQ(code_of(decode_message(header_of(message::Offer{{0}, {8}, low, low}))),
            ErrorCode::kMalformed);
  EXPECT_EQ(code_of(decode_message(header_of(message::Offer{{0}, {8}, low, Bytes(2)}))),
            ErrorCode::kMalformed);
  EXPECT_EQ(code_of(decode_message(header_of(message::Offer{{0}, {9}, Bytes(1)}))),
            ErrorCode::kMalformed);
  EXPECT_EQ(code_of(decode_message(header_of(message::Offer{{0}, {8}, Bytes(2)}))),
            ErrorCode::kMalformed);
  EXPECT_EQ(code_of(decode_message(header_of(message::Offer{{0}, {0}, {}}))),
            ErrorCode::kMalformed);
}

TEST(Wire, PushWithABadSpecIsRefusedByItsRule) {
  message::BeginPush push{some_spec(), ""};
  push.spec.memory = {1};
  EXPECT_EQ(code_of(decode_message(header_of(push))), ErrorCode::kInvalidArgument);
}

TEST(Wire, WelcomeHasAWholeStoreIdOrIsMalformed) {
  const Bytes good = header_of(message::Welcome{2, store_of(7)});
  const auto welcome = decode_message(good);
  ASSERT_TRUE(succeeded(welcome));
  EXPECT_EQ(std::get<message::Welcome>(welcome->message).store, store_of(7));
  EXPECT_EQ(code_of(decode_message(header_of(message::Welcome{2, {}}))), ErrorCode::kMalformed);

  // The pointer to its bytes says in its upper 29 bits how many they are, from bit 3 of its upper
  // half on.
  const std::uint32_t pointer = 16u << 3 | 2;
  std::size_t at = 0;
  while (at + 4 < good.size() && load_le<std::uint32_t>(good.data() + at) != pointer) at += 4;
  ASSERT_LT(at + 4, good.size());
  for (const std::uint32_t size : {0u, 1u, 15u, 17u, 0x1fff'ffffu}) {
    Bytes hostile = good;
    store_le(hostile.data() + at, size << 3 | 2);
    EXPECT_EQ(code_of(decode_message(hostile)), ErrorCode::kMalformed) << size;
  }
}

TEST(Wire, UnknownKindIsUnsupportedAndUnknownErrorIsIo) {
  // After the segment table and the root pointer come the request id and the union's tag.
  constexpr std::size_t kTag = 8 + 8 + 8;
  Bytes header = header_of(message::Commit{});
  store_le(header.data() + kTag, std::uint16_t{999});
  EXPECT_EQ(code_of(decode_message(header)), ErrorCode::kUnsupported);

  const message::ErrorReply newer{static_cast<ErrorCode>(9999), "of a newer build"};
  const auto envelope = decode_message(header_of(newer));
  ASSERT_TRUE(succeeded(envelope));
  EXPECT_EQ(std::get<message::ErrorReply>(envelope->message).code, ErrorCode::kIo);
}

TEST(Wire, CutMessagesAreMalformed) {
  for (const Message& message : all_messages()) {
    const Bytes header = header_of(message);
    for (std::size_t size = 0; size < header.size(); ++size) {
      const Bytes cut(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(size));
      EXPECT_EQ(code_of(decode_message(cut)), ErrorCode::kMalformed) << size;
    }
  }
}

TEST(Wire, RandomCorruptionNeverCrashes) {
  auto generator = test::seeded_generator();
  for (const Message& message : all_messages()) {
    const Bytes good = header_of(message);
    for (int round = 0; round < 2000; ++round) {
      Bytes header = good;
      for (std::uint64_t i = 0; i <= test::pick(generator, 4); ++i) {
        header[test::pick(generator, header.size())] = static_cast<std::byte>(generator());
      }
      const auto envelope = decode_message(header);
      if (envelope) {
        EXPECT_FALSE(encoded(envelope->message, 1).empty());
      }
    }
  }
}

TEST(Wire, BitmapsCountFromTheLowestBit) {
  Bytes bitmap = empty_bitmap(9);
  EXPECT_EQ(bitmap.size(), 2u);
  set_bit(bitmap, 0);
  set_bit(bitmap, 8);
  EXPECT_EQ(to_hex(bitmap), "0101");
  EXPECT_TRUE(bit(bitmap, 8));
  EXPECT_FALSE(bit(bitmap, 7));
}

TEST(Wire, ErrorsTravelAsReplies) {
  const Error error(ErrorCode::kNoSpace, "disk", ENOSPC);
  const Error back = from_reply(to_reply(error));
  EXPECT_EQ(back.code(), ErrorCode::kNoSpace);
  EXPECT_EQ(back.context(), "disk (No space left on device)");
  const Error wordy(ErrorCode::kIo, std::string(10'000, 'x'));
  EXPECT_EQ(to_reply(wordy).text.size(), limits::kMaxErrorTextBytes);
}

}  // namespace
}  // namespace thaw
