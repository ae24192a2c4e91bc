#include "base/http.h"
#include "base/limits.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

bool is_whole(const Result<std::optional<HttpRequest>>& parsed) {
  return parsed.has_value() && parsed->has_value();
}

/// Bytes are a request or not, whatever comes after them; and whatever they are, there is a reply.
void run(ByteSpan input) {
  const std::string_view bytes = as_text(input);
  const auto all = parse_http_request(bytes);
  const auto half = parse_http_request(bytes.substr(0, bytes.size() / 2));
  if (bytes.size() < limits::kMaxHttpRequestBytes) {
    CHECK(!is_whole(half) || *half == *all);
    CHECK(half.has_value() || !all.has_value());
  }
  static const HttpPages pages{{"/", {.make = [] { return HttpPage{200, "page"}; }}}};
  if (all && !*all) return;
  const Result<HttpRequest> request =
      all ? Result<HttpRequest>(**all) : std::unexpected(all.error());
  CHECK(reply_by_http(pages, request).starts_with("HTTP/1.1 "));
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
