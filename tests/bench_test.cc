#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "bench/figures.h"
#include "bench/image.h"
#include "bench/report.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::bench {
namespace {

using Json = nlohmann::json;

TEST(Figures, MedianIsTheMiddleOrTheMeanOfTheTwoInTheMiddle) {
  EXPECT_EQ(median({3}), 3);
  EXPECT_EQ(median({5, 1, 3}), 3);
  EXPECT_EQ(median({4, 1, 2, 9}), 3);
}

TEST(Figures, QuantileIsTheNearestValueThatOccurs) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  EXPECT_EQ(quantile(values, 0), 1);
  EXPECT_EQ(quantile(values, 0.5), 50);
  EXPECT_EQ(quantile(values, 0.99), 99);
  EXPECT_EQ(quantile(values, 1), 100);
  EXPECT_EQ(quantile({7}, 0.99), 7);
}

TEST(Figures, SamplesKeepTheirNamesApart) {
  Samples samples;
  samples.add("a", 1);
  samples.add("b", 10);
  samples.add("a", 3);
  EXPECT_EQ(samples.of("a"), (std::vector<double>{1, 3}));
  EXPECT_EQ(samples.median_of("a"), 2);
  EXPECT_EQ(samples.median_of("b"), 10);
}

TEST(Report, JsonHasTheMachineAndEveryField) {
  const Machine machine{.cpu = "a CPU", .cores = 2, .kernel = "6.1", .date = "2026-01-31"};
  const std::vector<Figure> figures{
      {.name = "time", .unit = "us", .value = 30, .floor = 20, .n = 5, .note = "a \"note\""},
      {.name = "rate", .unit = "1/s", .value = 10, .floor = 40, .n = 7, .note = ""}};

  const Json json = Json::parse(figures_json(machine, "fault", figures));

  EXPECT_EQ(json["bench"], "fault");
  EXPECT_EQ(json["machine"],
            Json({{"cpu", "a CPU"}, {"cores", 2}, {"kernel", "6.1"}, {"date", "2026-01-31"}}));
  ASSERT_EQ(json["results"].size(), 2);
  EXPECT_EQ(json["results"][0], Json({{"name", "time"},
                                      {"unit", "us"},
                                      {"value", 30.0},
                                      {"floor", 20.0},
                                      {"ratio", 1.5},
                                      {"n", 5},
                                      {"note", "a \"note\""}}));
  EXPECT_EQ(json["results"][1]["ratio"], 0.25);
}

TEST(Report, MachineIsNamed) {
  const Machine machine = this_machine();
  EXPECT_GT(machine.cores, 0);
  EXPECT_NE(machine.cpu, "");
  EXPECT_NE(machine.kernel, "");
  EXPECT_NE(machine_line(machine).find(machine.kernel), std::string::npos);
}

TEST(ImageFile, PagesAreSortedByWhatIsInThem) {
  const test::ScratchDirectory directory;
  Bytes content(3 * kPageBytes);
  content[2 * kPageBytes - 1] = std::byte{1};
  test::write_file(directory.path("image"), content);

  const auto image = ImageFile::open(directory.path("image"));

  ASSERT_TRUE(test::succeeded(image));
  EXPECT_EQ(image->pages(), 3);
  const PageKinds kinds = sort_pages(*image);
  EXPECT_EQ(kinds.content, std::vector<std::uint32_t>{1});
  EXPECT_EQ(kinds.zero, (std::vector<std::uint32_t>{0, 2}));
}

TEST(ImageFile, FileOfNoWholePagesIsRefused) {
  const test::ScratchDirectory directory;
  test::write_file(directory.path("image"), Bytes(kPageBytes + 1));
  test::write_file(directory.path("empty"), {});
  EXPECT_EQ(test::code_of(ImageFile::open(directory.path("image"))), ErrorCode::kInvalidArgument);
  EXPECT_EQ(test::code_of(ImageFile::open(directory.path("empty"))), ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace thaw::bench
