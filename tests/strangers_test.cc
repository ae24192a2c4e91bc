#include "pageserver/strangers.h"

#include <array>
#include <vector>

#include <gtest/gtest.h>

namespace thaw::test {
namespace {

using enum StrangerStage;

constexpr StrangerSlots kSlots{.all = 4, .of_network = 2};

template <typename... Parts>
std::string network_of(Parts... parts) {
  return peer_network(std::array{static_cast<std::byte>(parts)...});
}

TEST(Strangers, StayWhileThereAreSlots) {
  const std::vector<Stranger> three{{"a"}, {"b"}, {"c"}};
  EXPECT_FALSE(stranger_to_leave({}, "a", kSlots));
  EXPECT_FALSE(stranger_to_leave(three, "d", kSlots));
  EXPECT_FALSE(stranger_to_leave(three, "a", kSlots));
}

TEST(Strangers, TheOldestSilentOneLeavesFirst) {
  EXPECT_EQ(stranger_to_leave(std::vector<Stranger>{{"a"}, {"b"}, {"c"}, {"d"}}, "e", kSlots), 0u);
  const std::vector<Stranger> some_spoke{
      {"a", kShown}, {"b", kSpoke}, {"c", kSilent}, {"d", kSilent}};
  EXPECT_EQ(stranger_to_leave(some_spoke, "e", kSlots), 2u);
  const std::vector<Stranger> all_spoke{{"a", kShown}, {"b", kSpoke}, {"c", kSpoke}, {"d", kShown}};
  EXPECT_EQ(stranger_to_leave(all_spoke, "e", kSlots), 1u);
  const std::vector<Stranger> all_shown{{"a", kShown}, {"b", kShown}, {"c", kShown}, {"d", kShown}};
  EXPECT_EQ(stranger_to_leave(all_shown, "e", kSlots), 0u);
}

TEST(Strangers, NetworkWithItsShareGivesWayItself) {
  const std::vector<Stranger> strangers{{"a"}, {"b", kSpoke}, {"b", kSpoke}};
  EXPECT_EQ(stranger_to_leave(strangers, "b", kSlots), 1u);
  EXPECT_FALSE(stranger_to_leave(strangers, "c", kSlots));
}

TEST(Strangers, ThisHostMayHaveAllSlots) {
  EXPECT_FALSE(stranger_to_leave(std::vector<Stranger>{{""}, {""}, {""}}, "", kSlots));
  EXPECT_EQ(stranger_to_leave(std::vector<Stranger>{{""}, {""}, {""}, {""}}, "", kSlots), 0u);
}

TEST(PeerNetwork, IsTheAddressOfIpv4AndThe64OfIpv6) {
  EXPECT_EQ(network_of(192, 0, 2, 1), "192.0.2.1");
  EXPECT_EQ(network_of(0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8),
            network_of(0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 8, 7, 6, 5, 4, 3, 2, 1));
  EXPECT_NE(network_of(0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1),
            network_of(0x20, 1, 0xd, 0xb8, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1));
  EXPECT_EQ(network_of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1), "192.0.2.1");
}

TEST(PeerNetwork, IsEmptyForThisHost) {
  EXPECT_EQ(network_of(127, 0, 0, 1), "");
  EXPECT_EQ(network_of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), "");
  EXPECT_EQ(network_of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 9), "");
  EXPECT_EQ(peer_network({}), "");
}

}  // namespace
}  // namespace thaw::test
