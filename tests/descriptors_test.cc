#include "pageserver/descriptors.h"

#include <gtest/gtest.h>

namespace thaw::test {
namespace {

TEST(DescriptorShares, NeverExceedTheLimit) {
  for (std::size_t limit = 16; limit < 3000; ++limit) {
    for (const std::size_t wanted : {1u, 2u, 100u, 1024u, 65'536u}) {
      const DescriptorShares shares = share_descriptors(limit, wanted);
      EXPECT_LT(shares.connections + shares.strangers + shares.tables, limit);
      EXPECT_GE(shares.connections, 1u);
      EXPECT_LE(shares.connections, wanted);
      EXPECT_GE(shares.strangers, 1u);
      EXPECT_GE(shares.tables + 1, shares.connections);
    }
  }
}

TEST(DescriptorShares, PeersGetWhatTheyWantWhereThereIsEnough) {
  const DescriptorShares shares = share_descriptors(20'000, 1024);
  EXPECT_EQ(shares.connections, 1024u);
  EXPECT_EQ(shares.strangers, 128u);
  EXPECT_GT(shares.tables, 18'000u);
}

TEST(DescriptorShares, AServiceManagersUsualLimitIsHalved) {
  const DescriptorShares shares = share_descriptors(1024, 1024);
  EXPECT_EQ(shares.connections + shares.strangers, 480u);
  EXPECT_EQ(shares.tables, 480u);
}

}  // namespace
}  // namespace thaw::test
