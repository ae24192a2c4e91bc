#include "format/control.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::succeeded;

control::Prepare full_prepare() {
  return {.snapshot = "web",
          .socket = "/run/thaw/1.sock",
          .state_out = "/run/thaw/1.state",
          .name_space = "prod",
          .owner_uid = 1000,
          .owner_gid = 0,
          .on_unservable = UnservablePolicy::kPoison,
          .unservable_after_ms = 6,
          .record = RecordMode::kNever,
          .record_idle_ms = 7,
          .record_most_ms = 8,
          .prefetch = false,
          .hydrate_bytes_per_s = 9,
          .trace_out = "/run/thaw/1.trace",
          .shared = true,
          .verify = true};
}

SessionReport full_report() {
  return {
      .session = 5,
      .snapshot = "web",
      .socket = "/s",
      .state = SessionState::kEnded,
      .outcome = "the VMM exited",
      .vmm_pid = 4242,
      .vmm_exit = "signal 9 (SIGKILL)",
      .memory = {1u << 30},
      .shared = true,
      .verified = true,
      .present_pages = 10,
      .faults = {.total = 6, .fetched = 1, .coalesced = 1, .zero = 1, .removed = 1, .present = 2},
      .prefetch = {.state = PrefetchState::kStopped,
                   .set_pages = 15,
                   .prefetched_pages = 16,
                   .late_pages = 17,
                   .packs = 18,
                   .bytes = 19,
                   .hydrated_pages = 20},
      .recording = RecordingState::kUploading,
      .recorded_pages = 21,
      .local_pages = 22,
      .around_pages = 11,
      .around_window = 12,
      .around_probes = 13,
      .around_hits = 14,
      .removed_pages = 1,
      .redundant_fills = 2,
      .gone_fills = 3,
      .delayed_fills = 4,
      .damaged_chunks = 5,
      .waiting_pages = 6,
      .poisoned_pages = 23,
      .bytes_received = 7,
      .handler_deaths = 23,
      .unserved_us = 24,
      .latency_us_p50 = 1.5,
      .latency_us_p99 = 0.1,
      .latency_us_max = 1e6};
}

void expect_round_trip(const ControlRequest& request) {
  const std::string line = encode_control_request(request);
  EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line";
  const auto back = decode_control_request(line);
  ASSERT_TRUE(succeeded(back)) << line;
  EXPECT_EQ(*back, request) << line;
}

template <typename Reply>
void expect_round_trip_of_reply(const Reply& reply) {
  const std::string line = encode_control_reply(reply);
  EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line";
  const auto back = decode_control_reply(line);
  ASSERT_TRUE(succeeded(back)) << line;
  ASSERT_TRUE(std::holds_alternative<Reply>(*back)) << line;
  EXPECT_EQ(std::get<Reply>(*back), reply) << line;
}

std::string prepare_with(const std::string& arguments) {
  return R"({"command":"prepare","arguments":{)" + arguments + "}}";
}

TEST(ControlRequest, EveryCommandRoundTrips) {
  expect_round_trip(control::Prepare{});
  expect_round_trip(full_prepare());
  expect_round_trip(control::List{});
  expect_round_trip(control::Stop{.session = 7, .mode = control::StopMode::kKill});
  expect_round_trip(
      control::Stop{.session = ~std::uint64_t{0}, .mode = control::StopMode::kRefuseIfAlive});
}

TEST(ControlRequest, AbsentArgumentsAreDefaults) {
  const auto request = decode_control_request(prepare_with(R"("snapshot":"a")"));
  ASSERT_TRUE(succeeded(request));
  control::Prepare expected;
  expected.snapshot = "a";
  EXPECT_EQ(std::get<control::Prepare>(*request), expected);
}

TEST(ControlRequest, RefusalsByName) {
  EXPECT_EQ(code_of(decode_control_request(R"({"command":"dance","arguments":{}})")),
            ErrorCode::kUnsupported);
  for (const std::string& line :
       {std::string(),
        std::string("null"),
        std::string("[]"),
        std::string("{}"),
        std::string(R"({"command":"list"})"),
        std::string(R"({"command":1,"arguments":{}})"),
        std::string(R"({"command":"list","arguments":{}} trailing)"),
        std::string(R"({"command":"list","arguments":{}})") + std::string("\0x", 2),
        std::string(R"({"command":"list","arguments":{"all":true}})"),
        std::string(R"({"command":"list","arguments":{},"argument":{}})"),
        std::string(R"({"command":"prepare","arguments":[]})"),
        prepare_with(R"("snapshoot":"misspelt")"),
        prepare_with(R"("snapshot":1)"),
        prepare_with(R"("owner_uid":-1)"),
        prepare_with(R"("owner_uid":4294967296)"),
        prepare_with(R"("owner_uid":1.0)"),
        prepare_with(R"("on_unservable":"shrug")"),
        prepare_with("\"snapshot\":\"\xff\""),
        std::string(R"({"command":"stop","arguments":{"session":1,"kill":1}})"),
        std::string(R"({"command":"stop","arguments":{"session":"1"}})")}) {
    EXPECT_EQ(code_of(decode_control_request(line)), ErrorCode::kMalformed) << line;
  }
}

TEST(ControlReply, EveryKindRoundTrips) {
  expect_round_trip_of_reply(Stopped{});
  expect_round_trip_of_reply(HandlerReport{});
  expect_round_trip_of_reply(HandlerReport{
      .servers = {ServerReport{},
                  {.address = "s:1", .state = ServerState::kAway, .away_ms = 1, .requests = 2}},
      .hedges = 3,
      .damaged = 5,
      .unserved_us = 7,
      .index_bytes = 8,
      .index_bytes_most = 10,
      .totals = {.sessions = 4, .faults = {.total = 9, .fetched = 9}, .poisoned_pages = 6},
      .sessions = {SessionReport{}, full_report()}});
  expect_round_trip_of_reply(
      control::Prepared{.session = 1,
                        .socket = "/s",
                        .memory = {8192},
                        .state = {77},
                        .regions = {{{4096}, {0}, {4096}}, {{4096}, {4096}, {4096}}},
                        .generation = 9,
                        .warnings = {"a CPU of another vendor"}});
}

TEST(ControlReply, ErrorsKeepTheirCode) {
  const auto reply =
      decode_control_reply(encode_control_reply(Error(ErrorCode::kBusy, "its VMM lives \"\n\"")));
  ASSERT_TRUE(succeeded(reply));
  const Error& error = std::get<Error>(*reply);
  EXPECT_EQ(error.code(), ErrorCode::kBusy);
  EXPECT_EQ(error.context(), "its VMM lives \"\n\"");
}

TEST(ControlReply, TextThatIsNoUtf8IsReplaced) {
  const auto reply =
      decode_control_reply(encode_control_reply(Error(ErrorCode::kNotFound, "file \xff")));
  ASSERT_TRUE(succeeded(reply));
  EXPECT_EQ(std::get<Error>(*reply).context(), "file \xef\xbf\xbd");
}

TEST(ControlReply, RefusalsByName) {
  for (const std::string& line :
       {std::string(), std::string("[]"), std::string("{}"), std::string("7"),
        std::string(R"({"sessions":{}})"), std::string(R"({"sessions":[1]})"),
        std::string(R"({"sessions":[{"state":"dancing"}]})"),
        std::string(R"({"sessions":[],"servers":[{"state":"dancing"}]})"),
        std::string(R"({"sessions":[],"surfers":[]})"),
        std::string(R"({"sessions":[{"vmm_pid":1e300}]})"),
        std::string(R"({"sessions":[{"vmm_pid":9223372036854775808}]})"),
        std::string(R"({"sessions":[{"faults":{"totl":1}}]})"),
        std::string(R"({"error":{"number":65536,"text":""}})"),
        std::string(R"({"error":{"number":1e300,"text":""}})"),
        std::string(R"({"error":{"number":1}})"), std::string(R"({"stopped":false})"),
        std::string(R"({"prepared":{"regions":[{"size":-1}]}})")}) {
    EXPECT_EQ(code_of(decode_control_reply(line)), ErrorCode::kMalformed) << line;
  }
}

}  // namespace
}  // namespace thaw
