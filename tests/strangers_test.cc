#include "pageserver/strangers.h"

#include <array>
#include <vector>

#include <gtest/gtest.h>

#include "base/peer_network.h"

namespace thaw::test {
namespace {

using enum StrangerStage;

constexpr StrangerSlots kSlots{.all = 4, .of_network = 2, .of_identity = 2, .for_newcomers = 1};

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

TEST(Strangers, OneIdentityKeepsFewSlotsByItsCertificate) {
  const std::vector<Stranger> flood{
      {"a", kShown, "x"}, {"b", kShown, "x"}, {"c", kSpoke}, {"d", kShown, "x"}};
  EXPECT_EQ(stranger_to_leave(flood, "e", kSlots), 0u) << "its oldest has no more than c";
  const std::vector<Stranger> others{
      {"a", kShown, "x"}, {"b", kShown, "x"}, {"c", kSpoke}, {"d", kShown, "y"}};
  EXPECT_EQ(stranger_to_leave(others, "e", kSlots), 2u);
  const std::vector<Stranger> silent{
      {"a", kShown, "x"}, {"b", kShown, "x"}, {"c", kSilent}, {"d", kShown, "x"}};
  EXPECT_EQ(stranger_to_leave(silent, "e", kSlots), 2u) << "it has spoken all the same";
}

TEST(Strangers, CertificatesLeaveSlotsToNewcomers) {
  constexpr StrangerSlots kHalf{.all = 4, .of_network = 2, .of_identity = 1, .for_newcomers = 2};
  const std::vector<Stranger> three{
      {"a", kShown, "x"}, {"b", kShown, "y"}, {"c", kShown, "z"}, {"d", kSpoke}};
  EXPECT_EQ(stranger_to_leave(three, "e", kHalf), 0u);
  EXPECT_EQ(stranger_to_leave(three, "e", kSlots), 3u);
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
  EXPECT_EQ(peer_network(ByteSpan()), "");
}

}  // namespace
}  // namespace thaw::test
