#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "cli/plot.h"
#include "format/limits.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

constexpr std::uint32_t kLastMoment = std::numeric_limits<std::uint32_t>::max();

/// A parser's opinion; Python has one.
bool is_xml(const std::string& text) {
  const test::ScratchDirectory scratch;
  test::write_file(scratch.path("picture.svg"), as_bytes(text));
  return test::run({"/usr/bin/env", "python3", "-c",
                    "import sys, xml.etree.ElementTree as t; t.parse(sys.argv[1])",
                    scratch.path("picture.svg")})
             .exit_code == 0;
}

std::size_t count(const std::string& text, const std::string& piece) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(piece, at)) != text.npos; ++at) ++found;
  return found;
}

/// The data of the path with the dots of a kind; empty when there is none.
std::string dots(const std::string& picture, const std::string& kind) {
  const std::size_t path = picture.find("class=\"dots " + kind + "\"");
  if (path == picture.npos) return {};
  const std::size_t data = picture.find(" d=\"", path) + 4;
  return picture.substr(data, picture.find('"', data) - data);
}

Recording recording_of(std::vector<Touch> touches) {
  Recording recording;
  recording.touches = std::move(touches);
  return recording;
}

TEST(Plot, TouchesApartAreAStrokeEachInTheColourOfTheirKind) {
  const std::string picture = plot_svg(recording_of({{{0}, 0, TouchKind::kPrefetch},
                                                     {{500}, 50'000, TouchKind::kDemand},
                                                     {{100}, 70'000, TouchKind::kDemand},
                                                     {{1023}, 90'000, TouchKind::kPrefetch},
                                                     {{300}, 100'000, TouchKind::kPrefetch}}),
                                       {1024}, "five");
  EXPECT_TRUE(is_xml(picture)) << picture;
  EXPECT_EQ(count(dots(picture, "demand"), "h"), 2u);
  EXPECT_EQ(count(dots(picture, "prefetch"), "h"), 3u);
  EXPECT_NE(picture.find("asked for it: 2 pages"), picture.npos);
  EXPECT_NE(picture.find("before it asked: 3 pages"), picture.npos);
  EXPECT_NE(picture.find("(ms)"), picture.npos);
  EXPECT_NE(picture.find("(KiB)"), picture.npos);
}

TEST(Plot, NeighboursInTimeAreOneStroke) {
  std::vector<Touch> touches(10'000);
  for (std::uint32_t i = 0; i < touches.size(); ++i) touches[i] = {{7}, 100 * i};
  const std::string picture = plot_svg(recording_of(std::move(touches)), {1024}, "line");
  EXPECT_EQ(count(dots(picture, "demand"), "h"), 1u);
  EXPECT_NE(picture.find("10,000 pages"), picture.npos);
}

TEST(Plot, NothingTouchedIsSaid) {
  for (const std::uint64_t memory : {0u, 1u, 1024u}) {
    const std::string picture = plot_svg({}, {memory}, "empty");
    EXPECT_TRUE(is_xml(picture)) << picture;
    EXPECT_NE(picture.find("no page was touched"), picture.npos);
    EXPECT_EQ(count(dots(picture, "demand"), "h"), 0u);
  }
}

TEST(Plot, KindThatIsNotThereHasNoLegend) {
  const std::string picture = plot_svg(recording_of({{{1}, 1}}), {16}, "demand alone");
  EXPECT_EQ(picture.find("before it asked"), picture.npos);
  EXPECT_NE(picture.find("asked for it: 1 page<"), picture.npos);
}

TEST(Plot, ExtremesStayInThePicture) {
  const Recording recording =
      recording_of({{{0}, 0}, {{limits::kMaxImagePages - 1}, kLastMoment}, {{0}, kLastMoment}});
  for (const std::uint64_t memory : {std::uint64_t{0}, std::uint64_t{1}, limits::kMaxImagePages}) {
    const std::string picture = plot_svg(recording, {memory}, "extremes");
    EXPECT_TRUE(is_xml(picture)) << picture;
    EXPECT_EQ(count(dots(picture, "demand"), "h0"), 3u);
    EXPECT_NE(picture.find("(s)"), picture.npos);
    EXPECT_NE(picture.find("(GiB)"), picture.npos);
    EXPECT_EQ(picture.find("nan"), picture.npos);
    EXPECT_EQ(picture.find("inf"), picture.npos);
    EXPECT_LT(picture.size(), 8u << 10);
  }
}

TEST(Plot, LargestRecordingIsASmallFile) {
  auto generator = test::seeded_generator();
  std::vector<Touch> touches;
  for (std::uint32_t i = 0; i < limits::kMaxTouches; ++i) {
    const auto kind = test::pick(generator, 2) == 0 ? TouchKind::kDemand : TouchKind::kPrefetch;
    touches.push_back({{test::pick(generator, 1u << 20)}, i * 75, kind});
  }
  const std::string picture = plot_svg(recording_of(std::move(touches)), {1u << 20}, "noise");
  EXPECT_TRUE(is_xml(picture));
  EXPECT_LT(picture.size(), 512u << 10);
}

TEST(Plot, TitleIsEscapedAndCut) {
  const std::string picture = plot_svg({}, {16}, "a<b>&\"c'\x01\xff\n" + std::string(300, '&'));
  EXPECT_TRUE(is_xml(picture)) << picture;
  EXPECT_NE(picture.find("a&lt;b&gt;&amp;\"c'???&amp;"), picture.npos);
  EXPECT_LT(picture.size(), 8u << 10);
}

}  // namespace
}  // namespace thaw
