#include "pageserver/access.h"
#include "tests/fuzz/input.h"

namespace thaw {
namespace {

/// A policy is refused, or gives a peer that it does not name nothing.
void run(ByteSpan input) {
  const auto policy = Policy::parse(as_text(input));
  if (!policy) return;
  CHECK(policy->rights("", "x").none());
  CHECK(policy->rights_in_all("").none());
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
