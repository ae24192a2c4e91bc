#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

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

/// What makes one page. On any thread.
struct HttpSource {
  std::function<HttpPage()> make;
  enum class Takes {
    kNoTime,   // it asks no other thread and takes no lock for long
    kMayWait,  // made beside the pages of the first kind, one at a time
  };
  Takes takes = Takes::kMayWait;
};
/// By path.
using HttpPages = std::map<std::string, HttpSource, std::less<>>;

/// Whether the page that the request names may wait. False where there is none.
bool may_wait(const HttpPages& pages, const HttpRequest& request);

/// The whole reply; to what is no request, or for no page that there is, a page that says so.
std::string reply_by_http(const HttpPages& pages, const Result<HttpRequest>& request);

}  // namespace thaw
