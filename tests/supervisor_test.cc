// The supervisor with programs in the handler's place that do what no handler should.

#include "faulthandler/supervisor.h"

#include <thread>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/event_fd.h"
#include "base/socket.h"
#include "faulthandler/handler_settings.h"
#include "faulthandler/successor_proof.h"
#include "faulthandler/sys/epoll_loop.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

/// Lets this process have so many descriptors more than it has, for as long as it lives.
class FewDescriptors {
 public:
  explicit FewDescriptors(rlim_t more) {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const UniqueFd next = create_event_fd().value();  // the lowest number that is free
    const rlimit few{static_cast<rlim_t>(next.get()) + more, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;
  ~FewDescriptors() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_{};
};

/// What is kept of sessions whose VMMs have come.
std::vector<NamedDescriptor> kept_sessions(std::uint64_t count) {
  std::vector<NamedDescriptor> kept;
  for (std::uint64_t id = 1; id <= count; ++id) {
    for (const KeptRole role : {KeptRole::kRecord, KeptRole::kArrival, KeptRole::kUserfaultfd}) {
      kept.push_back({kept_name(id, role), create_event_fd().value()});
    }
  }
  return kept;
}

TEST(Supervisor, StartsAHandlerAsSoonAsThereAreDescriptorsForIt) {
  const auto loop = create_epoll_loop().value();
  Supervisor supervisor(*loop, create_message_pair().value().ours, {.handler = {"true"}},
                        {.settings = create_event_fd().value()});
  supervisor.take_over(kept_sessions(20));
  auto few = std::make_unique<FewDescriptors>(20);
  std::jthread more([&few] {
    std::this_thread::sleep_for(5 * limits::kRestartFirst);
    few.reset();
  });

  EXPECT_EQ(supervisor.run([] {}), 0);
}

TEST(SuccessorProof, ProgramWithOtherRecordsOfVmsIsRefused) {
  const auto loop = create_epoll_loop().value();
  HandlerSettings settings;
  settings.record_version = kRecordVersion + 1;
  const UniqueFd file = keep_settings(settings).value();
  std::optional<Result<UniqueFd>> ended;
  const auto proof = SuccessorProof::start(*loop, {program_path("thaw-faulthandler")}, file,
                                           [&](Result<UniqueFd> end) {
                                             ended = std::move(end);
                                             loop->stop();
                                           });
  ASSERT_TRUE(succeeded(proof));
  loop->run({.before = [] {}, .after = [] {}});

  ASSERT_TRUE(ended && !*ended);
  const std::string why = ended->error().message();
  EXPECT_NE(why.find("cannot take VMs over"), std::string::npos) << why;
}

}  // namespace
}  // namespace thaw::test
