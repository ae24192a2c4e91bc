#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/connection_threads.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// Just enough HTTP/1.1 to show a few pages: GET and HEAD, one request a connection.

struct HttpRequest {
  enum class Method { kGet, kHead, kOther };
  Method method = Method::kGet;
  std::string path;  // as it came, without what follows a "?"
  friend bool operator==(const HttpRequest&, const HttpRequest&) = default;
};

/// The request that these bytes begin with, or nothing as long as its header is not whole. What
/// comes after that is not looked at. kMalformed for what is none; kTooLarge from
/// limits::kMaxHttpRequestBytes on.
Result<std::optional<HttpRequest>> parse_http_request(std::string_view received);

struct HttpPage {
  unsigned status = 200;
  std::string text;
};

/// What makes each page, by its path. On any thread, several at a time.
using HttpPages = std::map<std::string, std::function<HttpPage()>, std::less<>>;

/// The whole reply; to what is no request, or for no page that there is, a page that says so.
std::string reply_by_http(const HttpPages& pages, const Result<HttpRequest>& request);

/// Shows pages to whoever connects, on threads of its own. A client has limits::kHttpExchange to
/// ask, and again as long to take what it gets.
class HttpPort {
 public:
  HttpPort(UniqueFd listener, HttpPages pages);

 private:
  void answer(const UniqueFd& connection) const;

  const HttpPages pages_;
  ConnectionThreads threads_;
};

}  // namespace thaw
