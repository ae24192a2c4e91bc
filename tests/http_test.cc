#include <array>
#include <cstring>
#include <future>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/http_port.h"
#include "base/limits.h"
#include "base/socket.h"
#include "tests/support/http_client.h"
#include "tests/support/loopback.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Method = HttpRequest::Method;

const std::string kGet = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

TEST(HttpRequest, IsReadOnceItIsWhole) {
  for (std::size_t size = 0; size < kGet.size(); ++size) {
    EXPECT_EQ(parse_http_request(kGet.substr(0, size)).value(), std::nullopt) << size;
  }
  EXPECT_EQ(parse_http_request(kGet).value(), (HttpRequest{Method::kGet, "/a"}));
  EXPECT_EQ(parse_http_request("HEAD /b?c=/d HTTP/1.0\r\n\r\n").value(),
            (HttpRequest{Method::kHead, "/b"}));
  EXPECT_EQ(parse_http_request(kGet + "GET /next").value()->path, "/a");
  EXPECT_EQ(parse_http_request("DELETE /b HTTP/1.1\r\n\r\n").value()->method, Method::kOther);
}

TEST(HttpRequest, WhatIsNoneIsRefused) {
  for (const std::string& bytes : {
           std::string("\x16\x03\x01\x02\x00\x01", 6),  // TLS
           std::string("hello\r\n\r\n"),
           std::string("GET /a\r\n\r\n"),
           std::string("GET /a HTTP/9.9\r\n\r\n"),
           std::string("GET /\0 HTTP/1.1\r\n\r\n", 19),
           std::string("GET /a HTTP/1.1\r\nno field\r\n\r\n"),
           std::string("GET /a HTTP/1.1\r\nContent-Length: x\r\n\r\n"),
       }) {
    EXPECT_EQ(code_of(parse_http_request(bytes)), ErrorCode::kMalformed) << bytes;
  }
  const std::string long_path(limits::kMaxHttpRequestBytes, 'a');
  EXPECT_EQ(code_of(parse_http_request("GET /" + long_path)), ErrorCode::kTooLarge);
}

class HttpPortTest : public testing::Test {
 protected:
  HttpPortTest() {
    UniqueFd listener = listen_tcp(resolve_tcp("127.0.0.1:0").value()).value();
    address_ = address_of(listener).text();
    using enum HttpSource::Takes;
    port_ = HttpPort::open(std::move(listener),
                           HttpPages{{"/a", {[] { return HttpPage{200, "the page\n"}; }, kMayWait}},
                                     {"/bad", {[] { return HttpPage{503, "not now\n"}; }, kNoTime}},
                                     {"/slow", {[this] { return slow_page(); }, kMayWait}}})
                .value();
  }
  UniqueFd connect() const {
    return connect_tcp(resolve_tcp(address_).value(), Deadline::after(kPatience)).value();
  }

  HttpPage slow_page() {
    begun_.set_value();
    go_on_.get_future().wait();
    return {200, "at last\n"};
  }

  std::promise<void> begun_;
  std::promise<void> go_on_;
  std::string address_;
  std::unique_ptr<HttpPort> port_;
};

bool begins_with(const std::string& text, const std::string& beginning) {
  return text.starts_with(beginning);
}

TEST_F(HttpPortTest, ShowsWhatThereIs) {
  const std::string reply = http_get(address_, "/a");
  EXPECT_PRED2(begins_with, reply, "HTTP/1.1 200 OK\r\n");
  EXPECT_NE(reply.find("Content-Length: 9\r\n"), std::string::npos) << reply;
  EXPECT_TRUE(reply.ends_with("\r\n\r\nthe page\n")) << reply;
  EXPECT_PRED2(begins_with, http_get(address_, "/bad"), "HTTP/1.1 503 ");
  EXPECT_PRED2(begins_with, http_get(address_, "/other"), "HTTP/1.1 404 ");
}

TEST_F(HttpPortTest, HeadIsThePageWithoutItsText) {
  const std::string reply = exchange_http(address_, "HEAD /a HTTP/1.1\r\n\r\n");
  EXPECT_NE(reply.find("Content-Length: 9\r\n"), std::string::npos) << reply;
  EXPECT_TRUE(reply.ends_with("\r\n\r\n")) << reply;
}

TEST_F(HttpPortTest, WhatItDoesNotDoIsRefused) {
  EXPECT_PRED2(begins_with, exchange_http(address_, "PUT /a HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 ");
  EXPECT_PRED2(begins_with, exchange_http(address_, "nonsense\r\n\r\n"), "HTTP/1.1 400 ");
  // Each is read by a client that has sent more than anybody reads at once.
  const std::string much(100'000, 'x');
  EXPECT_PRED2(begins_with,
               exchange_http(address_, "POST /a HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + much),
               "HTTP/1.1 405 ");
  EXPECT_PRED2(begins_with, exchange_http(address_, "GET /" + much), "HTTP/1.1 431 ");
}

bool is_closed(const UniqueFd& client) {
  std::array<std::byte, 1> some;
  const auto n = receive_some(client, some, Deadline::after(kPatience));
  return !n || *n == 0;
}

TEST_F(HttpPortTest, SilentClientsCostNothingAndTheOldestGoesFirst) {
  std::vector<UniqueFd> silent;
  for (std::size_t i = 0; i < limits::kHttpConnections; ++i) silent.push_back(connect());
  const auto begun = Clock::now();

  EXPECT_PRED2(begins_with, http_get(address_, "/bad"), "HTTP/1.1 503 ");
  EXPECT_PRED2(begins_with, http_get(address_, "/a"), "HTTP/1.1 200 ");

  if (Clock::now() - begun < limits::kHttpExchange) {
    std::array<std::byte, 1> some;
    EXPECT_TRUE(is_closed(silent.front()));
    EXPECT_EQ(peek(silent.back(), some).value_or(std::size_t{0}), std::nullopt);
  }
}

TEST_F(HttpPortTest, PageThatTakesLongHoldsUpNoOther) {
  std::string slow;
  std::jthread waiting([&] { slow = http_get(address_, "/slow"); });
  begun_.get_future().wait();

  EXPECT_PRED2(begins_with, http_get(address_, "/bad"), "HTTP/1.1 503 ");

  go_on_.set_value();
  waiting.join();
  EXPECT_TRUE(slow.ends_with("at last\n")) << slow;
}

TEST_F(HttpPortTest, ClientThatHasAskedStaysBeforeThoseThatHaveNot) {
  std::string slow;
  std::jthread waiting([&] { slow = http_get(address_, "/slow"); });
  begun_.get_future().wait();
  std::vector<UniqueFd> silent;
  for (std::size_t i = 0; i < 2 * limits::kHttpConnections; ++i) silent.push_back(connect());
  EXPECT_PRED2(begins_with, http_get(address_, "/bad"), "HTTP/1.1 503 ");

  go_on_.set_value();
  waiting.join();
  EXPECT_TRUE(slow.ends_with("at last\n")) << slow;
}

/// Brings this thread into a network namespace of its own that has the address beside loopback.
void enter_network_with(const std::string& address) {
  CHECK(::unshare(CLONE_NEWNET) == 0);
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq up{.ifr_ifrn = {"lo"}, .ifr_ifru = {}};
  up.ifr_flags = IFF_UP;
  CHECK(::ioctl(socket.get(), SIOCSIFFLAGS, &up) == 0);
  ifreq beside{.ifr_ifrn = {"lo:1"}, .ifr_ifru = {}};
  const TcpAddress resolved = resolve_tcp(address + ":0").value();
  std::memcpy(&beside.ifr_addr, &resolved.storage, sizeof(beside.ifr_addr));
  CHECK(::ioctl(socket.get(), SIOCSIFADDR, &beside) == 0);
}

TEST_F(HttpPortTest, SilentClientsOfOneNetworkCloseNoneOfAnother) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root makes network namespaces";
  std::jthread([] {
    enter_network_with("192.0.2.1");
    const UniqueFd listener = listen_tcp(resolve_tcp("0.0.0.0:0").value()).value();
    const std::string port = split_host_and_port(address_of(listener).text()).value().port;
    const auto connect = [&](const std::string& host) {
      const TcpAddress address = resolve_tcp(host + ":" + port).value();
      return connect_tcp(address, Deadline::after(kPatience)).value();
    };
    const auto http = HttpPort::open(duplicate(listener).value(),
                                     {{"/a", {[] { return HttpPage{200, "the page\n"}; }}}});
    ASSERT_TRUE(succeeded(http));
    const UniqueFd probe = connect("127.0.0.1");
    std::vector<UniqueFd> flood;
    for (std::size_t i = 0; i < 2 * limits::kHttpConnections; ++i) {
      flood.push_back(connect("192.0.2.1"));
    }
    ASSERT_TRUE(succeeded(send_all(probe, as_bytes(kGet), Deadline::after(kPatience))));
    std::array<std::byte, 12> reply;
    ASSERT_TRUE(succeeded(receive_all(probe, reply, Deadline::after(kPatience))));
    EXPECT_EQ(as_text(reply), "HTTP/1.1 200");
  });
}

TEST_F(HttpPortTest, ClientThatComesByBytesIsUnderstood) {
  const UniqueFd client = connect();
  for (const char& byte : kGet) {
    ASSERT_TRUE(succeeded(send_all(client, as_bytes({&byte, 1}), Deadline::after(kPatience))));
  }
  std::array<std::byte, 12> reply;
  ASSERT_TRUE(succeeded(receive_all(client, reply, Deadline::after(kPatience))));
  EXPECT_EQ(as_text(reply), "HTTP/1.1 200");
}

TEST_F(HttpPortTest, ClientsThatStallOrFloodKeepNobodyOutForLong) {
  std::vector<UniqueFd> stalled;
  for (unsigned i = 0; i < 20; ++i) {
    stalled.push_back(connect());
    ASSERT_TRUE(succeeded(send_all(stalled.back(), as_bytes("GET /"), Deadline::after(kPatience))));
  }
  std::jthread flood([this] {
    EXPECT_PRED2(begins_with, exchange_http(address_, "GET /" + std::string(1 << 20, 'a')),
                 "HTTP/1.1 431 ");
  });
  EXPECT_PRED2(begins_with, http_get(address_, "/a"), "HTTP/1.1 200 ");
  std::array<std::byte, 64> reply;
  const auto n = receive_some(stalled.front(), reply, Deadline::after(kPatience));
  ASSERT_TRUE(succeeded(n));
  EXPECT_PRED2(begins_with, std::string(as_text(std::span(reply).first(*n))), "HTTP/1.1 408 ");
}

TEST_F(HttpPortTest, PortThatIsTakenIsSaid) {
  EXPECT_EQ(code_of(listen_tcp(resolve_tcp(address_).value())), ErrorCode::kAlreadyExists);
}

}  // namespace
}  // namespace thaw::test
