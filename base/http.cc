#include "base/http.h"

#include <sstream>
#include <utility>

#include <boost/beast/http.hpp>

#include "base/limits.h"

namespace thaw {

namespace {

namespace http = boost::beast::http;

HttpRequest::Method method_of(http::verb verb) {
  if (verb == http::verb::get) return HttpRequest::Method::kGet;
  if (verb == http::verb::head) return HttpRequest::Method::kHead;
  return HttpRequest::Method::kOther;
}

unsigned status_for(ErrorCode refusal) {
  if (refusal == ErrorCode::kTooLarge) return 431;
  if (refusal == ErrorCode::kTimeout) return 408;
  return 400;
}

HttpPage page_for(const HttpPages& pages, const Result<HttpRequest>& request) {
  if (!request) {
    return {status_for(request.error().code()), request.error().message() + "\n"};
  }
  if (request->method == HttpRequest::Method::kOther) return {405, "GET and HEAD, no more\n"};
  const auto page = pages.find(request->path);
  if (page != pages.end()) return page->second.make();
  std::string text = "there is no such page; there are:\n";
  for (const auto& [path, source] : pages) text += path + "\n";
  return {404, text};
}

}  // namespace

Result<std::optional<HttpRequest>> parse_http_request(std::string_view received) {
  http::request_parser<http::empty_body> parser;
  boost::system::error_code error;
  if (received.size() >= limits::kMaxHttpRequestBytes) error = http::error::header_limit;
  while (!parser.is_header_done() && !error) {
    received.remove_prefix(parser.put(boost::asio::buffer(received), error));
  }
  if (error == http::error::need_more) return std::nullopt;
  if (error == http::error::header_limit) {
    return fail(ErrorCode::kTooLarge, "a request of {} bytes or more",
                limits::kMaxHttpRequestBytes);
  }
  if (error) return fail(ErrorCode::kMalformed, "no request: {}", error.message());
  const auto& message = parser.get();
  const std::string_view target(message.target().data(), message.target().size());
  return HttpRequest{method_of(message.method()), std::string(target.substr(0, target.find('?')))};
}

bool may_wait(const HttpPages& pages, const HttpRequest& request) {
  if (request.method == HttpRequest::Method::kOther) return false;
  const auto page = pages.find(request.path);
  return page != pages.end() && page->second.takes == HttpSource::Takes::kMayWait;
}

std::string reply_by_http(const HttpPages& pages, const Result<HttpRequest>& request) {
  HttpPage page = page_for(pages, request);
  http::response<http::string_body> reply(static_cast<http::status>(page.status), 11);
  reply.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
  reply.set(http::field::cache_control, "no-store");
  if (page.status == 405) reply.set(http::field::allow, "GET, HEAD");
  reply.keep_alive(false);
  reply.content_length(page.text.size());
  const bool head = request && request->method == HttpRequest::Method::kHead;
  if (!head) reply.body() = std::move(page.text);
  std::ostringstream bytes;
  bytes << reply;
  return std::move(bytes).str();
}

}  // namespace thaw
