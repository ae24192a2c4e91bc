#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "format/chunk.h"
#include "format/cold_map.h"
#include "format/control.h"
#include "format/handoff.h"
#include "format/hash.h"
#include "format/manifest.h"
#include "format/pack.h"
#include "format/page_map.h"
#include "format/recording.h"
#include "format/wire.h"
#include "format/working_set.h"
#include "tests/fuzz/input.h"
#include "tests/support/sample_microvm.h"
#include "tests/support/store_of.h"

// Writes the seeds of the kept corpus: make_seeds tests/fuzz/corpus

namespace thaw {
namespace {

class Corpus {
 public:
  explicit Corpus(std::filesystem::path root) : root_(std::move(root)) {}

  void add(const std::string& target, const std::string& name, ByteSpan bytes) const {
    std::filesystem::create_directories(root_ / target);
    std::ofstream(root_ / target / name, std::ios::binary) << as_text(bytes);
  }
  /// Both forms of an envelope.
  void add_envelope(const std::string& target, const std::string& name, const EnvelopeKind& kind,
                    ByteSpan sealed) const {
    const auto with_form = [](fuzz::Form form, ByteSpan rest) {
      Bytes input{static_cast<std::byte>(form)};
      input.insert(input.end(), rest.begin(), rest.end());
      return input;
    };
    add(target, name + ".sealed", with_form(fuzz::Form::kSealed, sealed));
    add(target, name + ".plain",
        with_form(fuzz::Form::kPlain, open_envelope(kind, sealed).value()));
  }

 private:
  std::filesystem::path root_;
};

SnapshotSpec some_spec() {
  return {.name = "vm",
          .memory = {4u << 20},
          .state = {5000},
          .regions = {{{2u << 20}, {0}, {kPageBytes}}, {{2u << 20}, {2u << 20}, {kHugePageBytes}}},
          .labels = {{"team", "runtime"}},
          .cpu_vendor = "GenuineIntel"};
}

void add_chunks(const Corpus& corpus) {
  constexpr ChunkId kId = ChunkId::of(1, 0, 7);
  PlainPage page;
  for (std::size_t i = 0; i < page.size(); ++i) page[i] = static_cast<std::byte>(i / 64);
  Bytes zstd;
  ChunkCodec().encode(page, kId, zstd);
  corpus.add("chunk", "zstd", zstd);
  for (std::size_t i = 0, x = 1; i < page.size(); ++i, x = x * 6364136223846793005u + 1) {
    page[i] = static_cast<std::byte>(x >> 56);
  }
  Bytes raw;
  ChunkCodec().encode(page, kId, raw);
  corpus.add("chunk", "raw", raw);
}

void add_page_maps(const Corpus& corpus) {
  PageMap map;
  map.append_zero({100});
  map.append_chunks(ChunkId::of(1, 0, 1000), {50});
  map.append_chunks(ChunkId::of(1, 0, 20), {1});
  map.append_zero({3});
  map.append_chunks(ChunkId::of(1, 0, 1050), {8});
  corpus.add_envelope("page_map", "runs", fuzz::kSegment, map.encode_segment(0));
  PageMap zero;
  zero.append_zero({limits::kSegmentPages});
  corpus.add_envelope("page_map", "zero", fuzz::kSegment, zero.encode_segment(0));
}

void add_cold_maps(const Corpus& corpus) {
  const ColdMap map{{{0}, {5}}, {{7}, {200}}, {{9000}, {1}}};
  corpus.add_envelope("cold_map", "ranges", fuzz::kColdMap, encode_cold_map(map));
  corpus.add_envelope("cold_map", "empty", fuzz::kColdMap, encode_cold_map({}));
}

void add_manifests(const Corpus& corpus) {
  const Manifest manifest{.snapshot = {7},
                          .parent = {3},
                          .created_unix_ms = 1'700'000'000'000,
                          .spec = some_spec(),
                          .content_hash = {},
                          .content_form = ContentForm::kSegments,
                          .statistics = {.zero_pages = 1,
                                         .duplicate_pages = 2,
                                         .new_pages = 3,
                                         .new_chunk_bytes = 4,
                                         .changed_pages = 5,
                                         .became_zero_pages = 6,
                                         .cold_pages = 7}};
  corpus.add_envelope("manifest", "full", fuzz::kManifest, encode_manifest(manifest));
}

void add_working_sets(const Corpus& corpus) {
  const Recording recording{.content_hash = {},
                            .created_unix_ms = 1'700'000'000'000,
                            .regions = some_spec().regions,
                            .touches = {{.page = {100}, .us = 10},
                                        {.page = {3}, .us = 900},
                                        {.page = {4}, .us = 900, .kind = TouchKind::kPrefetch}}};
  corpus.add_envelope("recording", "touches", fuzz::kRecording, encode_recording(recording));
  corpus.add_envelope("recording", "empty", fuzz::kRecording, encode_recording({}));
  WorkingSet set;
  set.snapshot = {7};
  set.generation = 12;
  set.recordings = 3;
  set.pages = {{.page = {40}, .when = TouchClass::kFirst, .seen = 3, .median_us = 100},
               {.page = {3}, .when = TouchClass::kEarly, .seen = 2, .median_us = 20'000},
               {.page = {41}, .when = TouchClass::kLate, .seen = 3, .median_us = 900'000}};
  set.packs = {{.pages = 1, .bytes = 2000}, {.pages = 1, .bytes = 1000}};
  corpus.add_envelope("working_set", "pages", fuzz::kWorkingSet, encode_working_set(set));
  corpus.add_envelope("working_set", "empty", fuzz::kWorkingSet, encode_working_set({}));
  Bytes plain(bytes_of({fuzz::kPackPages.size()}).value);
  for (std::size_t i = 0; i < plain.size(); ++i) plain[i] = static_cast<std::byte>(i / 64);
  corpus.add("pack", "pages", PackCodec().encode(fuzz::kPackPages, plain));
}

void add_microvm_states(const Corpus& corpus) {
  for (const unsigned vcpus : {1u, 2u}) {
    corpus.add_envelope("microvm_state", std::to_string(vcpus) + "vcpus", fuzz::kMicroVmState,
                        encode_state(test::sample_microvm_state(vcpus)));
  }
}

void add_messages(const Corpus& corpus) {
  const Message messages[] = {
      message::Hello{
          .version = message::kVersion, .role = message::Role::kDemand, .name_space = "default"},
      message::BeginPush{some_spec(), "parent"},
      message::Offer{.first = {64},
                     .count = {9},
                     .zero_bitmap = Bytes(2, std::byte{0x81}),
                     .kept_bitmap = Bytes(2, std::byte{0x42})},
      message::Upload{3},
      message::Commit{},
      message::ListSnapshots{"after"},
      message::ShowSnapshot{"vm"},
      message::DeleteSnapshot{"vm"},
      message::GetPageMap{{12}, 34},
      message::GetChunks{{{1}, {2}, {3}}},
      message::GetStatistics{},
      message::PutRecording{{5}},
      message::GetRecording{{5}, 6},
      message::GetWorkingSet{{7}},
      message::ShowWorkingSet{{8}},
      message::DropWorkingSet{{9}},
      message::GetPack{{10}, 11, 12},
      message::PutPrefetchReport{{13}, {1, 2, 3, 4, 5, 6}},
      message::ReportDamage{{{1}, {2}}, {14}, {{{15}, 16, 17}}},
      message::GetPageHashes{{18}, 19},
      message::PageHashes{},
      message::ErrorReply{ErrorCode::kBusy, "busy"},
      message::Welcome{message::kVersion, test::store_of(9)},
      message::Done{},
      message::Needed{Bytes(3, std::byte{0x11})},
      message::ManifestReply{},
      message::Snapshots{{100, 200}, true, {{{7}, 1}}},
      message::PageMapSegment{},
      message::Chunks{2},
      message::Statistics{1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
      message::RecordingReply{},
      message::WorkingSetReply{},
      message::PackReply{},
      message::WorkingSetReport{{{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}}, {1, 2, 3, 4, 5, 6}},
  };
  for (const Message& message : messages) {
    Bytes bytes;
    encode_message(message, 42, 0, bytes);
    corpus.add("wire", "message" + std::to_string(message.index()), bytes);
  }
}

void add_handoffs(const Corpus& corpus) {
  corpus.add("handoff", "newest",
             as_bytes(encode_handoff({{{0x7f0000000000}, {2u << 20}, {0}, {4096}},
                                      {{0x7f0000400000}, {2u << 20}, {2u << 20}, {2u << 20}}})));
  corpus.add("handoff", "oldest",
             as_bytes(R"([{"base_host_virt_addr":140139286302720,"size":4096,"offset":0}])"));
  corpus.add("handoff", "strings", as_bytes(R"([{"a":"]}\"]\\"},[[]]])"));
}

void add_control(const Corpus& corpus) {
  const control::Prepare prepare{.snapshot = "vm",
                                 .socket = "/s",
                                 .state_out = "/o",
                                 .name_space = "default",
                                 .owner_uid = 1,
                                 .owner_gid = 2,
                                 .on_unservable = UnservablePolicy::kWait,
                                 .trace_out = "/t"};
  corpus.add("control", "prepare", as_bytes(encode_control_request(prepare)));
  corpus.add("control", "list", as_bytes(encode_control_request(control::List{})));
  corpus.add("control", "stop",
             as_bytes(encode_control_request(
                 control::Stop{.session = 1, .mode = control::StopMode::kKill})));
  corpus.add("control", "error",
             as_bytes(encode_control_reply(Error(ErrorCode::kBusy, "its VMM lives"))));
  corpus.add("control", "prepared",
             as_bytes(encode_control_reply(control::Prepared{.session = 1,
                                                             .socket = "/s",
                                                             .memory = {4096},
                                                             .state = {7},
                                                             .regions = {{{4096}, {0}, {4096}}},
                                                             .generation = 9,
                                                             .warnings = {"old"}})));
  corpus.add("control", "sessions",
             as_bytes(encode_control_reply(
                 HandlerReport{.servers = {}, .sessions = std::vector<SessionReport>(1)})));
  corpus.add("control", "stopped", as_bytes(encode_control_reply(Stopped{})));
}

/// A message as it is sent.
void append(const Message& message, std::uint64_t request_id, ByteSpan body, Bytes& to) {
  encode_message(message, request_id, body.size(), to);
  to.insert(to.end(), body.begin(), body.end());
}

/// What demand_link_fuzz has asked for: chunks 7 to 10 in request 1, the last two if at hand, and
/// chunk 11 in request 2; request 3 is a pin.
void add_replies(const Corpus& corpus) {
  PlainPage page{};
  page[5] = std::byte{9};
  const auto chunks = [&](std::initializer_list<std::uint64_t> numbers) {
    Bytes body;
    for (const std::uint64_t number : numbers) {
      ChunkCodec().encode(page, ChunkId::of(1, 0, number), body);
    }
    return body;
  };
  Bytes all;
  append(message::Done{}, 3, {}, all);
  append(message::Chunks{3}, 1, chunks({7, 8, 9}), all);
  append(message::Chunks{1}, 2, chunks({11}), all);
  corpus.add("demand_link", "chunks", all);
  Bytes refused;
  append(message::ErrorReply{ErrorCode::kNotFound, "gone"}, 2, {}, refused);
  append(message::ErrorReply{ErrorCode::kNotFound, "gone"}, 1, {}, refused);
  append(message::Chunks{1}, 4, chunks({11}), refused);
  corpus.add("demand_link", "refused", refused);
}

/// Conversations with peer_fuzz, each after a byte for the role.
void add_conversations(const Corpus& corpus) {
  const auto begin = [](message::Role role) { return Bytes{static_cast<std::byte>(role)}; };
  Bytes push = begin(message::Role::kControl);
  const SnapshotSpec spec{.name = "new",
                          .memory = {2 * kPageBytes},
                          .state = {},
                          .regions = {},
                          .labels = {},
                          .cpu_vendor = {}};
  append(message::BeginPush{spec, "mine"}, 1, {}, push);
  PlainPage page{};
  page[1] = std::byte{1};
  Bytes chunk;
  ChunkCodec().encode(page, kNoChunk, chunk);
  append(message::Offer{{0}, {2}, Bytes(1, std::byte{2})}, 2, Hasher().hash(page), push);
  append(message::Upload{1}, 3, chunk, push);
  append(message::Commit{}, 4, {}, push);
  append(message::ListSnapshots{}, 5, {}, push);
  corpus.add("peer", "push", push);

  Bytes keep = begin(message::Role::kControl);
  append(message::MoveTag{{"a:b", "mine"}}, 1, {}, keep);
  append(message::ListTags{}, 2, {}, keep);
  append(message::ChangeLabels{"a:b", {{"k", "v"}}, {"w"}}, 3, {}, keep);
  append(message::GetUsage{"mine"}, 4, {}, keep);
  append(message::GetPageMap{{1}, 0}, 5, {}, keep);
  append(message::GetPageHashes{{1}, 0}, 6, {}, keep);
  append(message::PutPrefetchReport{{1}, {}}, 7, {}, keep);
  append(message::DeleteSnapshot{"mine"}, 8, {}, keep);
  corpus.add("peer", "upkeep", keep);

  Bytes pages = begin(message::Role::kPrefetch);
  append(message::Pin{{1}}, 1, {}, pages);
  append(message::GetChunks{{ChunkId::of(1, 0, 1), ChunkId::of(2, 0, 1)}, 1}, 2, {}, pages);
  append(message::GetPack{{1}, 1, 0}, 3, {}, pages);
  append(message::Unpin{{1}}, 4, {}, pages);
  corpus.add("peer", "pages", pages);
}

void add_toml(const Corpus& corpus) {
  corpus.add("toml", "values",
             as_bytes("text = 'a'\nnumber = 12\nflag = true\nlist = [\"a\", [1, 2.5]]\n"
                      "[command]\ninner = \"\"\"x\"\"\"\n[command.deeper]\na.b = 1979-05-27\n"));
  corpus.add("policy", "peers",
             as_bytes("[[peer]]\nidentity = \"thaw://a\"\nnamespaces = [\"x\", \"team-*\"]\n"
                      "roles = [\"read\", \"push\"]\n[[peer]]\nidentity = 'b'\n"
                      "namespaces = [\"*\"]\nroles = [\"admin\"]\n"));
}

void add_http(const Corpus& corpus) {
  corpus.add("http", "get", as_bytes("GET /metrics?x=1 HTTP/1.1\r\nHost: a:1\r\n\r\n"));
  corpus.add("http", "head", as_bytes("HEAD / HTTP/1.0\r\n\r\n"));
  corpus.add("http", "chunked",
             as_bytes("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"));
}

}  // namespace
}  // namespace thaw

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: make_seeds CORPUS_DIRECTORY\n";
    return 2;
  }
  const thaw::Corpus corpus{std::filesystem::path(argv[1])};
  thaw::add_chunks(corpus);
  thaw::add_page_maps(corpus);
  thaw::add_cold_maps(corpus);
  thaw::add_manifests(corpus);
  thaw::add_working_sets(corpus);
  thaw::add_microvm_states(corpus);
  thaw::add_messages(corpus);
  thaw::add_handoffs(corpus);
  thaw::add_control(corpus);
  thaw::add_replies(corpus);
  thaw::add_conversations(corpus);
  thaw::add_toml(corpus);
  thaw::add_http(corpus);
  return 0;
}
