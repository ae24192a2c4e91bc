#include "faulthandler/metrics.h"

#include <atomic>
#include <future>

#include <gtest/gtest.h>

#include "base/socket.h"
#include "faulthandler/limits.h"
#include "faulthandler/operator_port.h"
#include "tests/support/http_client.h"
#include "tests/support/loopback.h"

namespace thaw::test {
namespace {

SessionReport session(SessionState state, std::uint64_t waiting) {
  SessionReport session;
  session.state = state;
  session.waiting_pages = waiting;
  return session;
}

/// One that waits for memory, on demand and with its prefetch.
SessionReport short_session() {
  SessionReport report = session(SessionState::kServing, 3);
  report.memory_waiting_pages = 1;
  report.prefetch.state = PrefetchState::kShortOfMemory;
  return report;
}

HandlerReport report() {
  return {.servers = {{.address = "10.0.0.1:7433", .state = ServerState::kAway, .away_ms = 1500},
                      {.address = "10.0.0.2:7433", .state = ServerState::kUp, .requests = 7}},
          .hedges = 3,
          .damaged = 1,
          .unserved_us = 250'000,
          .totals = {.sessions = 9,
                     .faults = {.total = 6, .fetched = 4, .zero = 2},
                     .poisoned_pages = 5,
                     .vmms_killed = 4},
          .sessions = {session(SessionState::kServing, 2), short_session(),
                       session(SessionState::kEnded, 0)}};
}

TEST(Metrics, SayWhatTheReportSays) {
  const HttpPage page = metrics_page(report());
  EXPECT_EQ(page.status, 200u);
  for (const std::string line : {
           "# TYPE thaw_handler_sessions gauge",
           "thaw_handler_sessions{state=\"serving\"} 2",
           "thaw_handler_sessions{state=\"prepared\"} 0",
           "# TYPE thaw_handler_sessions_begun_total counter",
           "thaw_handler_sessions_begun_total 9",
           "thaw_handler_faults_total{kind=\"fetched\"} 4",
           "thaw_handler_faults_total{kind=\"zero\"} 2",
           "thaw_handler_waiting_pages 5",
           "thaw_handler_poisoned_pages_total 5",
           "thaw_handler_sessions_short_of_memory{waits=\"prefetch\"} 1",
           "thaw_handler_sessions_short_of_memory{waits=\"demand\"} 1",
           "thaw_handler_vmms_killed_total 4",
           "thaw_handler_damaged_total 1",
           "thaw_handler_unserved_seconds_total 0.25",
           "thaw_handler_hedges_total 3",
           "thaw_handler_page_server_up{server=\"10.0.0.1:7433\"} 0",
           "thaw_handler_page_server_up{server=\"10.0.0.2:7433\"} 1",
           "thaw_handler_page_server_away_seconds{server=\"10.0.0.1:7433\"} 1.5",
           "thaw_handler_page_server_requests_total{server=\"10.0.0.2:7433\"} 7",
       }) {
    EXPECT_NE(("\n" + page.text).find("\n" + line + "\n"), std::string::npos) << line << "\nin\n"
                                                                              << page.text;
  }
}

TEST(Metrics, HandlerThatDoesNotAnswerHasNone) {
  const Error error(ErrorCode::kTimeout, "busy");
  EXPECT_EQ(metrics_page(error).status, 503u);
}

TEST(OperatorPort, ListensAsSoonAsItCanAndAsksOnceForAllWhoAsk) {
  std::promise<std::string> listening;
  unsigned tried = 0;
  std::atomic<unsigned> asked = 0;
  const auto listen = [&]() -> Result<UniqueFd> {
    if (++tried == 1) return fail(ErrorCode::kAlreadyExists, "somebody has it");
    UniqueFd listener = TRY(listen_tcp(TRY(resolve_tcp("127.0.0.1:0"))));
    listening.set_value(address_of(listener).text());
    return listener;
  };
  const auto ask = [&]() -> ControlReply {
    ++asked;
    return report();
  };
  OperatorPort port(
      {.listen = listen, .report = ask, .health = [] { return HttpPage{200, "ok\n"}; }});
  const std::string address = listening.get_future().get();
  const auto begun = Clock::now();
  for (int i = 0; i < 50; ++i) {
    EXPECT_NE(http_get(address, "/metrics").find("thaw_handler_hedges_total 3\n"),
              std::string::npos);
    EXPECT_TRUE(http_get(address, "/healthz").ends_with("\r\nok\n"));
  }
  EXPECT_GE(asked, 1u);
  EXPECT_LE(asked, 1 + (Clock::now() - begun) / limits::kOperatorInterval);
}

TEST(OperatorPort, ProbesAreAnsweredWhileTheLoopIsNot) {
  std::promise<void> asked;
  std::promise<void> answering;
  UniqueFd listener = listen_tcp(resolve_tcp("127.0.0.1:0").value()).value();
  const std::string address = address_of(listener).text();
  OperatorPort port({.listen = [&]() -> Result<UniqueFd> { return std::move(listener); },
                     .report = [&]() -> ControlReply {
                       asked.set_value();
                       answering.get_future().wait();
                       return report();
                     },
                     .health = [] { return HttpPage{200, "ok\n"}; }});
  std::string metrics;
  std::jthread scrape([&] { metrics = http_get(address, "/metrics"); });
  asked.get_future().wait();

  EXPECT_TRUE(http_get(address, "/healthz").ends_with("\r\nok\n"));

  answering.set_value();
  scrape.join();
  EXPECT_NE(metrics.find(" 200 OK"), std::string::npos) << metrics;
}

}  // namespace
}  // namespace thaw::test
