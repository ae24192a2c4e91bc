#include "base/http.h"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

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
    port_ = std::make_unique<HttpPort>(
        std::move(listener), HttpPages{{"/a", [] { return HttpPage{200, "the page\n"}; }},
                                       {"/bad", [] { return HttpPage{503, "not now\n"}; }}});
  }
  UniqueFd connect() const {
    return connect_tcp(resolve_tcp(address_).value(), Deadline::after(kPatience)).value();
  }

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

TEST_F(HttpPortTest, ClientsThatStallOrFloodKeepNobodyOutForLong) {
  std::vector<UniqueFd> stalled;
  for (unsigned i = 0; i < 2 * limits::kHttpThreads; ++i) {
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
