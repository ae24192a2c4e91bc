// What a handler has its supervisor do: the real classes on real sockets, and ends that lie.

#include <csignal>
#include <functional>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/event_fd.h"
#include "base/file.h"
#include "base/memory_file.h"
#include "base/place.h"
#include "base/process.h"
#include "base/socket.h"
#include "faulthandler/errand_messages.h"
#include "faulthandler/errand_service.h"
#include "faulthandler/limits.h"
#include "faulthandler/sent_errands.h"
#include "faulthandler/sys/epoll_loop.h"
#include "tests/support/hanging_files.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

using Kind = Errand::Kind;

struct Ask {
  std::uint64_t session;
  Errand errand;
};

class ErrandsTest : public testing::Test {
 protected:
  /// What comes of them, one after the other, at this end of a connection.
  std::vector<ErrandResult> results(UniqueFd connection, std::vector<Ask> asks) {
    const auto loop = create_epoll_loop().value();
    SentErrands errands(*loop, std::move(connection));
    std::vector<ErrandResult> all;
    std::function<void()> next;
    ErrandTask task([&](ErrandResult result) {
      all.push_back(std::move(result));
      next();
    });
    next = [&] {
      if (all.size() == asks.size()) return loop->stop();
      Ask& ask = asks[all.size()];
      task.start(errands, ask.session, std::move(ask.errand), {});
    };
    Operation begin([&](int) { next(); });
    loop->wait(Nanoseconds(0), begin);
    loop->run({.before = [] {}, .after = [] {}});
    return all;
  }
  std::vector<ErrandResult> results_of_service(std::vector<Ask> asks) {
    return results(service_.connect().value(), std::move(asks));
  }

  ErrandService service_{[] {}};
};

std::vector<Ask> asks_for(std::uint64_t session, std::initializer_list<Kind> kinds) {
  std::vector<Ask> asks;
  for (const Kind kind : kinds) asks.push_back({session, {.kind = kind}});
  return asks;
}

TEST_F(ErrandsTest, AreDoneForAVmmThatWasShown) {
  const UniqueFd image = create_memory_file("image", {4 * kPageBytes}).value();
  void* const at = ::mmap(nullptr, 2 * kPageBytes, PROT_READ, MAP_SHARED, image.get(), kPageBytes);
  ASSERT_NE(at, MAP_FAILED);
  const HostAddress address{reinterpret_cast<std::uintptr_t>(at)};
  const UniqueFd self = own_pidfd().value();
  service_.show(7, {.pid = ::getpid(), .pidfd = &self, .image = &image});
  std::vector<Ask> asks = asks_for(7, {Kind::kMappings, Kind::kVcpus});
  asks.push_back({7, {.kind = Kind::kBackingFile, .at = {address}}});

  const auto seen = results_of_service(std::move(asks));

  ASSERT_EQ(seen.size(), 3u);
  ASSERT_TRUE(seen[0].done()) << seen[0].failure;
  const FileRange mapped{{address, {2 * kPageBytes}}, kPageBytes};
  EXPECT_EQ(seen[0].mappings, std::vector{mapped});
  EXPECT_TRUE(seen[1].done());
  EXPECT_EQ(seen[1].vcpus, VcpuActivity::kUnknown);
  EXPECT_TRUE(seen[2].backing.is_there);
  EXPECT_FALSE(seen[2].backing.file.valid()) << "a memory file has no limit of its own";
  ::munmap(at, 2 * kPageBytes);
}

TEST_F(ErrandsTest, SayHowAVmmHasEndedAndSeeNothingElseInIt) {
  const ChildProcess vmm = ChildProcess::start({"sleep", "1000"}, {}).value();
  service_.show(7, {.pid = vmm.pid(), .pidfd = &vmm.pidfd()});
  ASSERT_TRUE(succeeded(kill_process(vmm.pidfd())));
  ASSERT_TRUE(succeeded(wait_for_exit(vmm.pidfd(), Deadline::after(std::chrono::seconds(30)))));

  const auto seen =
      results_of_service(asks_for(7, {Kind::kExit, Kind::kVcpus, Kind::kBackingFile}));

  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].exit, (ExitStatus{.signal = SIGKILL}));
  EXPECT_EQ(seen[1].failure, "its VMM has exited");
  EXPECT_EQ(seen[2].failure, "its VMM has exited");
}

TEST_F(ErrandsTest, ThatDoNotEndInTheKernelHoldUpNoOther) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root mounts file systems";
  const ScratchDirectory directory;
  const UniqueFd image = create_memory_file("image", {kPageBytes}).value();
  const UniqueFd self = own_pidfd().value();
  HangingFiles files(directory.path(""));
  void* const page = ::mmap(nullptr, kPageBytes, PROT_READ, MAP_SHARED, image.get(), 0);
  const std::string file = directory.path("file");
  const pid_t vmm = ::fork();
  if (vmm == 0) {
    ::close_range(STDERR_FILENO + 1, ~0u, 0);  // the files end with their server's descriptor
    ::_exit(hold_own_locks(file, page).has_value() ? 0 : 1);
  }
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, vmm, 0)));
  const Deadline deadline = Deadline::after(std::chrono::seconds(30));
  while (!files.hang()) ASSERT_FALSE(deadline.passed());
  service_.show(7, {.pid = vmm, .pidfd = &pidfd, .image = &image});
  service_.show(8, {.pid = ::getpid(), .pidfd = &self, .image = &image});

  std::vector<Ask> asks = asks_for(7, {Kind::kMappings});
  asks.push_back({8, {.kind = Kind::kMappings}});

  const auto seen = results_of_service(std::move(asks));

  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].failure, "the supervisor has not answered in time");
  EXPECT_EQ(seen[1].mappings.size(), 1u) << seen[1].failure;
  files.release();
  ::waitpid(vmm, nullptr, 0);
  ::munmap(page, kPageBytes);
}

TEST_F(ErrandsTest, AreOfASessionThatIsThere) {
  const UniqueFd self = own_pidfd().value();
  service_.show(8, {.pid = ::getpid(), .pidfd = &self});
  service_.show(9, {.pid = ::getpid(), .pidfd = &self});
  service_.hide(9);
  std::vector<Ask> asks = asks_for(7, {Kind::kVcpus});
  asks.push_back({9, {.kind = Kind::kVcpus}});
  asks.push_back({8, {.kind = Kind::kMappings}});

  const auto seen = results_of_service(std::move(asks));

  ASSERT_EQ(seen.size(), 3u);
  EXPECT_NE(seen[0].failure.find("session 7 has no VMM"), std::string::npos) << seen[0].failure;
  EXPECT_NE(seen[1].failure.find("session 9 has no VMM"), std::string::npos) << seen[1].failure;
  EXPECT_EQ(seen[2].failure, "its VMM maps no host image");
}

TEST_F(ErrandsTest, WriteATraceWhereThatWasPrepared) {
  const ScratchDirectory directory;
  const Place place = find_place(directory.path("trace")).value();
  service_.show(7, {.traces = &place.directory, .trace = directory.path("trace")});
  service_.show(8, {});
  UniqueFd content = create_memory_file("trace", {5}).value();
  ASSERT_TRUE(succeeded(write_at(content, as_bytes("trace"), 0)));
  std::vector<Ask> asks;
  asks.push_back({8, {.kind = Kind::kTrace, .file = duplicate(content).value()}});
  asks.push_back({7, {.kind = Kind::kTrace, .file = std::move(content)}});

  const auto seen = results_of_service(std::move(asks));

  ASSERT_EQ(seen.size(), 2u);
  EXPECT_FALSE(seen[0].done()) << "no trace was wanted there";
  EXPECT_TRUE(seen[1].done()) << seen[1].failure;
  EXPECT_EQ(read_text_file(directory.path("trace"), 100).value(), "trace");
}

TEST_F(ErrandsTest, FailInTimeWhenTheSupervisorSaysNothing) {
  const MessagePair ends = create_message_pair().value();
  const auto begun = Clock::now();
  std::vector<Ask> asks = asks_for(7, {Kind::kVcpus, Kind::kVcpus});

  const auto seen = results(duplicate(ends.theirs).value(), std::move(asks));

  ASSERT_EQ(seen.size(), 2u);
  for (const ErrandResult& each : seen) {
    EXPECT_EQ(each.failure, "the supervisor has not answered in time");
  }
  EXPECT_GE(Clock::now() - begun, 2 * limits::kErrandPatience);
  std::array<std::byte, limits::kMaxErrandBytes> bytes;
  const auto first = receive_with_descriptors(ends.ours, bytes).value();
  ASSERT_TRUE(first.has_value());
  const auto request = decode_errand(ByteSpan(bytes).first(first->bytes));
  ASSERT_TRUE(succeeded(request));
  EXPECT_EQ(request->session, 7u);
  const auto second = receive_with_descriptors(ends.ours, bytes);
  EXPECT_TRUE(!second || !second->has_value() || (*second)->bytes == 0)
      << "one at a time of a session";
}

TEST_F(ErrandsTest, FailAtOnceWhenTheSupervisorHasGone) {
  MessagePair ends = create_message_pair().value();
  ends.ours.reset();
  const auto begun = Clock::now();

  const auto seen = results(std::move(ends.theirs), asks_for(7, {Kind::kVcpus, Kind::kExit}));

  ASSERT_EQ(seen.size(), 2u);
  EXPECT_FALSE(seen[0].done());
  EXPECT_FALSE(seen[1].done());
  EXPECT_LT(Clock::now() - begun, limits::kErrandPatience);
}

TEST_F(ErrandsTest, AnswersThatMakeNoSenseEndThem) {
  const Bytes to_another = encode_answer(99, {});
  Bytes too_short = encode_answer(1, {});
  too_short.pop_back();
  Bytes too_long = encode_answer(1, {});
  too_long.push_back(std::byte{0});
  const FileRange page{{{kPageBytes}, {kPageBytes}}, 0};
  const Bytes unordered = encode_answer(1, {.mappings = {page, page}});
  const Bytes endless = encode_answer(1, {.mappings = {{{{kPageBytes}, {~0ull}}, 0}}});
  for (const Bytes& lie : {to_another, too_short, too_long, unordered, endless}) {
    const MessagePair ends = create_message_pair().value();
    const auto at_once = Deadline::after(Nanoseconds(0));
    ASSERT_TRUE(succeeded(send_with_descriptors(ends.ours, lie, {}, at_once)));

    const auto seen =
        results(duplicate(ends.theirs).value(), asks_for(7, {Kind::kMappings, Kind::kMappings}));

    ASSERT_EQ(seen.size(), 2u);
    for (const ErrandResult& each : seen) {
      EXPECT_TRUE(each.failure.starts_with("protocol")) << each.failure;
    }
  }
}

TEST_F(ErrandsTest, ADescriptorThatWasNotAskedForEndsThem) {
  const MessagePair ends = create_message_pair().value();
  const UniqueFd some = create_event_fd().value();
  const std::array descriptors{some.get()};
  ASSERT_TRUE(succeeded(send_with_descriptors(ends.ours, encode_answer(1, {}), descriptors,
                                              Deadline::after(Nanoseconds(0)))));

  const auto seen = results(duplicate(ends.theirs).value(), asks_for(7, {Kind::kVcpus}));

  ASSERT_EQ(seen.size(), 1u);
  EXPECT_TRUE(seen[0].failure.starts_with("protocol")) << seen[0].failure;
}

TEST_F(ErrandsTest, RequestThatMakesNoSenseEndsTheConnection) {
  Bytes too_many = encode_errand({1, 7, {.kind = Kind::kVcpus}});
  too_many.resize(too_many.size() + 8);
  const Bytes unknown = encode_errand({1, 7, {.kind = static_cast<Kind>(99)}});
  for (const Bytes& lie : {too_many, unknown, Bytes(3)}) {
    const UniqueFd end = service_.connect().value();
    ASSERT_TRUE(succeeded(send_with_descriptors(end, lie, {}, Deadline::after(Nanoseconds(0)))));
    ASSERT_TRUE(wait_until_readable(end, Deadline::after(std::chrono::seconds(30))));
    std::array<std::byte, 64> bytes;
    const auto received = receive_with_descriptors(end, bytes);
    EXPECT_TRUE(!received || (*received)->bytes == 0);
  }
}

}  // namespace
}  // namespace thaw::test
