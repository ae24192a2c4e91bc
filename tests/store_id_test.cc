#include "pageserver/store_id.h"

#include "tests/support/programs.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

TEST(StoreId, IsDrawnOnceForEachStore) {
  const ScratchDirectory one;
  const ScratchDirectory two;
  const auto drawn = open_store_id(one.path(""));
  ASSERT_TRUE(succeeded(drawn));
  EXPECT_TRUE(drawn->valid());
  EXPECT_EQ(open_store_id(one.path("")).value(), *drawn);
  EXPECT_NE(open_store_id(two.path("")).value(), *drawn);
}

TEST(StoreId, FileThatSaysSomethingElseIsCorrupt) {
  const ScratchDirectory directory;
  const std::string digits(32, 'a');
  const auto reading = [&](const std::string& text) {
    write_file(directory.path(kStoreIdFile), as_bytes(text));
    return code_of(open_store_id(directory.path("")));
  };
  EXPECT_EQ(reading(digits + "\n"), std::nullopt);
  for (const std::string& text :
       {std::string(), std::string("\n"), digits, digits + "\n\n", digits + "a\n",
        std::string(32, '0') + "\n", std::string(32, 'A') + "\n", std::string(31, 'a') + "g\n",
        "0x" + std::string(30, 'a') + "\n"}) {
    EXPECT_EQ(reading(text), ErrorCode::kCorrupt) << text;
  }
  EXPECT_EQ(reading(std::string(1000, 'a')), ErrorCode::kTooLarge);
}

}  // namespace
}  // namespace thaw::test
