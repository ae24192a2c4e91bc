#include <fmt/core.h>

#include "format/handoff.h"
#include "format/limits.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::succeeded;

// The same two regions as three generations of Firecracker write them.
constexpr std::string_view kFirecracker1_1 =
    R"([{"base_host_virt_addr":140139286302720,"size":3221225472,"offset":0},)"
    R"({"base_host_virt_addr":140142507528192,"size":1073741824,"offset":3221225472}])";
constexpr std::string_view kFirecracker1_7 =
    R"([{"base_host_virt_addr":140139286302720,"size":3221225472,"offset":0,)"
    R"("page_size_kib":4096},)"
    R"({"base_host_virt_addr":140142507528192,"size":1073741824,"offset":3221225472,)"
    R"("page_size_kib":4096}])";
constexpr std::string_view kFirecracker1_12 =
    R"([{"base_host_virt_addr":140139286302720,"size":3221225472,"offset":0,)"
    R"("page_size":4096,"page_size_kib":4096},)"
    R"({"base_host_virt_addr":140142507528192,"size":1073741824,"offset":3221225472,)"
    R"("page_size":4096,"page_size_kib":4096}])";

const std::vector<HandoffRegion> kRegions{
    {{140139286302720}, {3221225472}, {0}, {4096}},
    {{140142507528192}, {1073741824}, {3221225472}, {4096}},
};

std::string one_region(std::string_view extra) {
  return fmt::format(R"([{{"base_host_virt_addr":4096,"size":8192,"offset":0{}}}])", extra);
}

TEST(Handoff, EveryFirecrackerDecodes) {
  for (const std::string_view text : {kFirecracker1_1, kFirecracker1_7, kFirecracker1_12}) {
    const auto regions = decode_handoff(text);
    ASSERT_TRUE(succeeded(regions)) << text;
    EXPECT_EQ(*regions, kRegions) << text;
  }
}

TEST(Handoff, RoundTrips) {
  EXPECT_EQ(decode_handoff(encode_handoff(kRegions)).value(), kRegions);
  EXPECT_EQ(decode_handoff(encode_handoff({})).value(), std::vector<HandoffRegion>());
}

TEST(Handoff, TracksWritesWhereItSaysSo) {
  std::vector<HandoffRegion> regions = kRegions;
  regions[1].tracking = WriteTracking::kOn;
  EXPECT_EQ(decode_handoff(encode_handoff(regions)).value(), regions);
  EXPECT_EQ(encode_handoff(kRegions).find("track"), std::string::npos);
  EXPECT_EQ(decode_handoff(one_region(R"(,"track_writes":false)")).value()[0].tracking,
            WriteTracking::kOff);
  for (const char* const no_answer : {"1", "\"true\"", "null", "[]"}) {
    const std::string text = one_region(fmt::format(R"(,"track_writes":{})", no_answer));
    EXPECT_EQ(code_of(decode_handoff(text)), ErrorCode::kMalformed) << text;
  }
}

TEST(Handoff, PageSizeRules) {
  const auto page_size = [](std::string_view extra) {
    return decode_handoff(one_region(extra)).value().front().page_size.value;
  };
  EXPECT_EQ(page_size(""), 4096u);
  EXPECT_EQ(page_size(R"(,"page_size_kib":2097152)"), 2097152u);
  EXPECT_EQ(page_size(R"(,"page_size":2097152,"page_size_kib":4096)"), 2097152u);
  EXPECT_EQ(page_size(R"(,"something_new":{"a":[1,null]})"), 4096u) << "unknown fields";
}

TEST(Handoff, HostileTextIsMalformed) {
  for (const std::string& text : {std::string(),
                                  std::string("{}"),
                                  std::string("null"),
                                  std::string("[1]"),
                                  std::string("[{}]"),
                                  std::string("[[]]"),
                                  std::string("["),
                                  std::string("[{]}"),
                                  std::string(R"([{"size":1,"offset":0}])"),
                                  one_region(R"(,"size":-1)"),
                                  one_region(R"(,"page_size":"4096")"),
                                  one_region(R"(,"page_size":4096.5)"),
                                  one_region(R"(,"page_size":-4096)"),
                                  one_region(R"(,"offset":18446744073709551616)"),
                                  one_region(R"(,"page_size":null)"),
                                  one_region("") + "]",
                                  one_region("") + "x",
                                  one_region("") + std::string("\0x", 2),
                                  std::string(100'000, '['),
                                  std::string("[\"\xff\xfe\"]")}) {
    EXPECT_EQ(code_of(decode_handoff(text)), ErrorCode::kMalformed) << text.substr(0, 100);
  }
}

TEST(Handoff, RegionsHaveALimit) {
  const HandoffRegion region{{4096}, {4096}, {0}, {4096}};
  std::vector<HandoffRegion> regions(limits::kMaxRegions, region);
  const std::string most = encode_handoff(regions);
  EXPECT_TRUE(succeeded(decode_handoff(most)));
  EXPECT_LE(most.size(), limits::kMaxHandoffBytes);
  regions.push_back(region);
  EXPECT_EQ(code_of(decode_handoff(encode_handoff(regions))), ErrorCode::kTooLarge);
}

TEST(HandoffScanner, FindsTheEndHoweverTheTextIsSplit) {
  for (const std::string_view text : {kFirecracker1_1, kFirecracker1_7, kFirecracker1_12}) {
    for (std::size_t split = 0; split < text.size(); ++split) {
      HandoffScanner scanner;
      EXPECT_FALSE(scanner.feed(as_bytes(text.substr(0, split))).value()) << split;
      EXPECT_TRUE(scanner.feed(as_bytes(text.substr(split))).value()) << split;
    }
  }
}

TEST(HandoffScanner, FindsTheEndByteByByte) {
  constexpr std::string_view kText = " \n[{\"a\":\"]}\\\"]\\\\\"},[[]]]";
  HandoffScanner scanner;
  for (std::size_t i = 0; i < kText.size(); ++i) {
    EXPECT_EQ(scanner.feed(as_bytes(kText.substr(i, 1))).value(), i + 1 == kText.size()) << i;
  }
  EXPECT_TRUE(scanner.feed(as_bytes(" \r\n\t")).value()) << "space may follow";
  EXPECT_EQ(code_of(scanner.feed(as_bytes("["))), ErrorCode::kMalformed);
}

TEST(HandoffScanner, RefusesWhatIsNoArrayAtItsFirstByte) {
  for (const std::string_view text : {"{", "]", "\"", "x", "\x7f"}) {
    HandoffScanner scanner;
    EXPECT_EQ(code_of(scanner.feed(as_bytes(text))), ErrorCode::kMalformed) << text;
  }
}

}  // namespace
}  // namespace thaw
