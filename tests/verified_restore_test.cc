// Restores that are checked against a content hash, from a page server that knows the formats and
// lies: what it forges has checksums that are right. Without the check such lies are believed.

#include <atomic>
#include <csignal>
#include <filesystem>
#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "format/hash.h"
#include "format/page_client.h"
#include "tests/support/lying_relay.h"
#include "tests/support/raw_store.h"
#include "tests/support/restore_fixture.h"

namespace thaw::test {
namespace {

/// Another page for each that the snapshot has.
class Forger {
 public:
  /// Learns the ids of all chunks from a server that tells the truth.
  explicit Forger(const std::string& server) {
    PageClient client = PageClient::connect(*resolve_tcp(server), "default").value();
    manifest_ = client.show("snapshot").value();
    map_ = client.page_map(manifest_).value();
    for (PageIndex page{0}; page.value < map_.size().value;) {
      const PageMap::Run run = map_.find(page);
      for (std::uint64_t i = 0; i < run.length.value && !run.zero(); ++i) {
        learn(client, {run.chunk.value + i});
      }
      page += run.length;
    }
  }

  const Manifest& manifest() const { return manifest_; }
  const PageMap& map() const { return map_; }

  Bytes chunks(ByteSpan body) const {
    Bytes forged;
    ChunkCodec codec;
    while (!body.empty()) {
      const ChunkId id = ids_.at(load_le<std::uint64_t>(body.data() + 8));
      codec.encode(page_, id, forged);
      body = body.subspan(chunk_size(body).value());
    }
    return forged;
  }
  Bytes pack(ByteSpan body) const {
    std::vector<PackPage> pages;
    Bytes plain;
    for (std::size_t i = 0; i < load_le<std::uint16_t>(body.data() + 6); ++i) {
      const PageIndex page{load_le<std::uint64_t>(body.data() + 16 + 16 * i)};
      pages.push_back({page, map_.chunk_of(page)});
      plain.insert(plain.end(), page_.begin(), page_.end());
    }
    return PackCodec().encode(pages, plain);
  }
  /// With two of its pages in each other's place.
  Bytes swapped_map() const {
    PageIndex first{0};
    while (!map_.chunk_of(first).valid()) first += PageCount{1};
    PageIndex second = first + PageCount{1};
    while (!map_.chunk_of(second).valid() || map_.chunk_of(second) == map_.chunk_of(first)) {
      second += PageCount{1};
    }
    return map_with([&](PageIndex page) {
      return map_.chunk_of(page == first ? second : page == second ? first : page);
    });
  }
  /// The first page that is not zero is said to be.
  Bytes map_with_a_hole() const {
    PageIndex hole{0};
    while (!map_.chunk_of(hole).valid()) hole += PageCount{1};
    return map_with([&](PageIndex page) { return page == hole ? kNoChunk : map_.chunk_of(page); });
  }
  /// The last page of memory is the first of the state.
  Bytes shifted_manifest() const {
    Manifest shifted = manifest_;
    shifted.spec.memory = {shifted.spec.memory.value - kPageBytes};
    shifted.spec.state += ByteCount{kPageBytes};
    return encode_manifest(shifted);
  }

 private:
  void learn(PageClient& client, ChunkId id) {
    EXPECT_TRUE(succeeded(client.request_chunks({id})));
    ids_[load_le<std::uint64_t>(client.receive_chunks().value().data() + 8)] = id;
  }
  template <typename Chunk>
  Bytes map_with(Chunk chunk_of) const {
    PageMap map;
    for (PageIndex page{0}; page.value < map_.size().value; page += PageCount{1}) {
      const ChunkId chunk = chunk_of(page);
      chunk.valid() ? map.append_chunks(chunk, {1}) : map.append_zero({1});
    }
    return map.encode_segment(0);
  }

  Manifest manifest_;
  PageMap map_;
  std::map<std::uint64_t, ChunkId> ids_;  // by the checksum of their chunk
  const PlainPage page_{std::byte{0xbd}};
};

enum class Lie {
  kNone,
  kPages,      // on demand and in hydration
  kHydration,  // alone
  kPacks,
  kState,
  kSwappedMap,
  kZero,
  kShiftedState,
  kHashes,
  kFewHashes,
  kManyHashes,
  kEndlessHashes,
  kNoHashes,
};

class VerifiedRestoreTest : public RestoreTest {
 protected:
  VerifiedRestoreTest() { start_handler(relay_.address()); }

  LyingRelay::Lie tell(message::Role role, const Envelope& reply, const Bytes& body) const {
    const Lie lie = lie_;
    const auto with_body = [&](const Bytes& other) { return LyingRelay::truth(reply, other); };
    const bool control = role == message::Role::kControl;
    if (std::holds_alternative<message::Chunks>(reply.message)) {
      const bool forged = control ? lie == Lie::kState
                                  : lie == Lie::kPages || (lie == Lie::kHydration &&
                                                           role == message::Role::kPrefetch);
      if (forged) return with_body(forger_.chunks(body));
    }
    if (std::holds_alternative<message::PackReply>(reply.message)) {
      if (lie == Lie::kPages || lie == Lie::kPacks) return with_body(forger_.pack(body));
    }
    if (std::holds_alternative<message::PageMapSegment>(reply.message)) {
      if (lie == Lie::kSwappedMap) return with_body(forger_.swapped_map());
      if (lie == Lie::kZero) return with_body(forger_.map_with_a_hole());
    }
    if (std::holds_alternative<message::ManifestReply>(reply.message)) {
      if (lie == Lie::kShiftedState) return with_body(forger_.shifted_manifest());
    }
    if (std::holds_alternative<message::PageHashes>(reply.message)) {
      return tell_hashes(lie, reply, body);
    }
    return LyingRelay::truth(reply, body);
  }
  static LyingRelay::Lie tell_hashes(Lie lie, const Envelope& reply, Bytes body) {
    if (lie == Lie::kNoHashes) {
      return LyingRelay::truth(
          {reply.request_id, message::ErrorReply{ErrorCode::kUnsupported, "of an older version"}},
          {});
    }
    if (lie == Lie::kHashes) body.back() ^= std::byte{1};
    if (lie == Lie::kZero) body.erase(body.begin(), body.begin() + sizeof(Sha256));
    if (lie == Lie::kFewHashes) body.pop_back();
    if (lie == Lie::kManyHashes) body.resize(body.size() + sizeof(Sha256));
    LyingRelay::Lie told = LyingRelay::truth(reply, body);
    if (lie == Lie::kEndlessHashes) store_le(told.bytes.data() + 8, ~0u);
    return told;
  }

  std::string named() const { return "snapshot@sha256:" + to_hex(forger_.manifest().content_hash); }
  std::uint64_t prepare_verified(std::vector<std::string> more = {},
                                 const std::string& socket = "vm") {
    more.push_back("--verify");
    return prepare(more, socket, named());
  }
  Outcome try_to_prepare(std::vector<std::string> more) {
    more.insert(more.begin(), {"prepare", named(), "--no-record", "--socket", path("try"),
                               "--state-out", path("out")});
    return control(more);
  }
  static std::string code(const Outcome& outcome) {
    return Json::parse(outcome.output)["error"]["code"];
  }
  /// The VM was stopped before it had read anything wrong.
  void expect_stopped(std::uint64_t session, Program& vmm) {
    EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
    EXPECT_EQ(vmm.rest_of_output(), "");
    const Json report = wait_for_state(session, "ended");
    EXPECT_NE(report["outcome"].get<std::string>().find("hash_mismatch"), std::string::npos)
        << report;
  }

  std::atomic<Lie> lie_ = Lie::kNone;
  const Forger forger_{server_.address()};
  LyingRelay relay_{server_.address(),
                    [this](const auto& peer, const auto& reply, const auto& body) {
                      return tell(peer.role, reply, body);
                    }};
};

INSTANTIATE_TEST_SUITE_P(Loops, VerifiedRestoreTest, both_loops(), loop_name);

TEST_P(VerifiedRestoreTest, TruthComesWhole) {
  std::uint64_t session = prepare_verified({"--state-out", path("out")});
  EXPECT_EQ(read_file(path("out")), state_);
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  const Json recorded =
      wait_for(session, [](const Json& report) { return report["recording"] == "stored"; });
  EXPECT_TRUE(recorded["verified"]);
  EXPECT_GT(recorded["faults"]["fetched"], 0);

  session = prepare_verified();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  const Json prefetched = wait_for_state(session, "ended");
  EXPECT_GT(prefetched["prefetch"]["packs"], 0);
  EXPECT_EQ(prefetched["damaged_chunks"], 0);

  prepare_verified({"--shared"});
  EXPECT_EQ(start_vmm("shared-verify").wait().value(), 0);

  session = prepare({"--no-record"}, "vm", named());
  EXPECT_FALSE(this->session(session)["verified"]);
}

TEST_P(VerifiedRestoreTest, LiesBeforeTheGuestRunsAreRefused) {
  const std::pair<Lie, const char*> lies[] = {
      {Lie::kZero, "hash_mismatch"},      {Lie::kShiftedState, "hash_mismatch"},
      {Lie::kState, "hash_mismatch"},     {Lie::kHashes, "hash_mismatch"},
      {Lie::kFewHashes, "truncated"},     {Lie::kManyHashes, "malformed"},
      {Lie::kEndlessHashes, "too_large"}, {Lie::kNoHashes, "unsupported"},
  };
  for (const auto& [lie, refusal] : lies) {
    lie_ = lie;
    const Outcome refused = try_to_prepare({"--verify"});
    EXPECT_NE(refused.exit_code, 0) << refusal;
    EXPECT_EQ(code(refused), refusal) << static_cast<int>(lie) << refused.output;
    EXPECT_FALSE(std::filesystem::exists(path("try")));
    EXPECT_FALSE(std::filesystem::exists(path("out")));
  }
  // Who does not check believes.
  lie_ = Lie::kState;
  EXPECT_EQ(try_to_prepare({}).exit_code, 0);
  EXPECT_NE(read_file(path("out")), state_);
}

TEST_P(VerifiedRestoreTest, VerifyingNeedsAContentHashByWhichPagesCanBeChecked) {
  const Outcome unnamed = control({"prepare", "snapshot", "--verify", "--socket", path("vm")});
  EXPECT_EQ(code(unnamed), "invalid_argument");
  EXPECT_NE(unnamed.output.find("@sha256:"), std::string::npos);

  // A snapshot as it was pushed before content hashes were made by segments.
  ContentHash flat(ContentForm::kFlat);
  for (const Bytes* const file : {&image_, &state_}) {
    Bytes padded(*file);
    padded.resize(bytes_of(pages_for({file->size()})).value);
    for (std::size_t at = 0; at < padded.size(); at += kPageBytes) {
      flat.add(Hasher().hash(ByteSpan(padded).subspan(at, kPageBytes)));
    }
  }
  Manifest manifest = forger_.manifest();
  manifest.content_form = ContentForm::kFlat;
  manifest.content_hash = flat.finish(manifest.spec);
  EXPECT_EQ(server_.stop().value(), 0);
  {
    RawStore raw(path("store"));
    const Bytes sealed = encode_manifest(manifest);
    for (const std::string& key : raw.keys("snapshot")) {
      if (key[0] == 'm') raw.put("snapshot", key, std::string(as_text(sealed)));
    }
  }
  server_.start();
  const std::string named = "snapshot@sha256:" + to_hex(manifest.content_hash);
  const Outcome refused = control({"prepare", named, "--verify", "--socket", path("vm")});
  EXPECT_EQ(code(refused), "unsupported");
  EXPECT_NE(refused.output.find("Push it again"), std::string::npos) << refused.output;
  prepare({"--no-record"}, "vm", named);
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  EXPECT_EQ(server_.thaw({"pull", named, "--memory", path("pulled")}).exit_code, 0);
  EXPECT_EQ(read_file(path("pulled")), image_);
}

TEST_P(VerifiedRestoreTest, ForgedPageStopsTheVm) {
  for (const Lie lie : {Lie::kPages, Lie::kSwappedMap}) {
    start_handler(relay_.address());  // one that knows no page map
    lie_ = lie;
    prepare({"--no-record"});
    Program believing = start_vmm("verify");
    EXPECT_EQ(believing.wait().value(), 1) << "the lie is none";
    EXPECT_NE(believing.rest_of_output(), "");

    const std::uint64_t session = prepare_verified({"--no-record"});
    Program vmm = start_vmm("verify");
    expect_stopped(session, vmm);
  }
}

TEST_P(VerifiedRestoreTest, ForgedPackIsLeftOutAndItsPagesComeOnDemand) {
  const std::uint64_t first = prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  wait_for(first, [](const Json& report) { return report["recording"] == "stored"; });
  lie_ = Lie::kPacks;
  const std::uint64_t session = prepare_verified();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  EXPECT_GT(wait_for_state(session, "ended")["damaged_chunks"], 0);
}

TEST_P(VerifiedRestoreTest, ForgedPageIsNotHydrated) {
  lie_ = Lie::kHydration;
  const std::uint64_t session = prepare_verified({"--no-record", "--hydrate-mib-s", "1000"});
  Program vmm = start_half();
  wait_for(session, [](const Json& report) { return report["damaged_chunks"] > 0; });
  lie_ = Lie::kNone;
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(VerifiedRestoreTest, AnotherServerBringsWhatOneForges) {
  start_handler(relay_.address(), {"--server", server_.address()});
  lie_ = Lie::kPages;
  const std::uint64_t session = prepare_verified({"--no-record"});
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  EXPECT_GT(wait_for_state(session, "ended")["damaged_chunks"], 0);

  lie_ = Lie::kHashes;
  prepare_verified({"--no-record"}, "other");
}

TEST_P(VerifiedRestoreTest, UncheckedImageOfTheHostIsAnothers) {
  lie_ = Lie::kPages;
  prepare({"--shared"});
  EXPECT_EQ(start_vmm("shared-verify").wait().value(), 1);
  lie_ = Lie::kNone;
  const std::uint64_t own = prepare_verified({"--no-record"});
  EXPECT_EQ(start_vmm("verify").wait().value(), 0) << "nor are its pages taken for others";
  EXPECT_EQ(wait_for_state(own, "ended")["local_pages"], 0);
  prepare_verified({"--shared"});
  EXPECT_EQ(start_vmm("shared-verify").wait().value(), 0);
}

TEST_P(VerifiedRestoreTest, HandlerThatTakesOverChecksOn) {
  const std::uint64_t session = prepare_verified({"--no-record"});
  Program vmm = start_half();
  lie_ = Lie::kPages;
  ::kill(handler_->worker(), SIGKILL);
  vmm.tell("go on");
  expect_stopped(session, vmm);
}

}  // namespace
}  // namespace thaw::test
