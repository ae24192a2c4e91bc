// Restores through the real programs: page server, fault handler, `thaw`, and a VMM process of our
// own. The VMM is never this process: the fault handler may kill it.

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/event_fd.h"
#include "base/socket.h"
#include "base/types.h"
#include "format/chunk.h"
#include "format/handoff.h"
#include "tests/support/raw_store.h"
#include "tests/support/relay.h"
#include "tests/support/restore_fixture.h"
#include "tests/support/seccomp.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

const std::size_t kTolerableGrowth = (16u << 20) + kSanitizerBytes;

INSTANTIATE_TEST_SUITE_P(Loops, RestoreTest, both_loops(), loop_name);

TEST_P(RestoreTest, HandlerUsesTheLoopThatIsTested) {
  if (GetParam() == LoopKind::kUring && !io_uring_is_allowed()) {
    GTEST_SKIP() << "io_uring is not allowed here: all tests run on epoll";
  }
  const std::vector<std::string> descriptors = open_descriptors(handler_->worker());
  EXPECT_EQ(std::ranges::count(descriptors, "anon_inode:[io_uring]"),
            GetParam() == LoopKind::kUring ? 1 : 0);
}

TEST_P(RestoreTest, HandlerThatCannotListenEndsWithAnError) {
  EXPECT_EQ(run({program_path("thaw-faulthandler"), "--control", "/proc/self/stat"}).exit_code, 1);
}

TEST_P(RestoreTest, WholeImageAndStateAreIdentical) {
  const std::uint64_t number = prepare({"--state-out", path("state.out")});
  EXPECT_EQ(read_file(path("state.out")), state_);
  Program vmm = start_vmm("verify");
  EXPECT_EQ(vmm.wait().value(), 0);
  const Json faults = wait_for_state(number, "ended")["faults"];
  EXPECT_EQ(faults["total"], faults["fetched"].get<int>() + faults["coalesced"].get<int>() +
                                 faults["zero"].get<int>() + faults["removed"].get<int>() +
                                 faults["present"].get<int>());
  EXPECT_GT(faults["zero"], 0);
  EXPECT_GT(faults["fetched"], 0);
}

TEST_P(RestoreTest, ColdPagesAreBroughtWithTheRestOfMemory) {
  std::size_t root = 0;  // an empty table
  while (!is_zero_page(PageSpan(image_.data() + root * kPageBytes, kPageBytes))) ++root;
  const Outcome pushed = server_.thaw(
      {"push", "cold", "--memory", path("image"), "--cr3", std::to_string(root * kPageBytes)});
  ASSERT_EQ(pushed.exit_code, 0) << pushed.output;
  EXPECT_GT(Json::parse(pushed.output)["cold_pages"], 0);
  const Outcome prepared = control(
      {"prepare", "cold", "--socket", path("vm"), "--no-record", "--hydrate-mib-s", "100000"});
  ASSERT_EQ(prepared.exit_code, 0) << prepared.output;
  Program vmm = start_half();
  wait_for_state(Json::parse(prepared.output)["session"], "detached");
  vmm.tell("");
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(RestoreTest, MemoryInTwoRegionsIsIdentical) {
  prepare();
  EXPECT_EQ(start_vmm("two-regions").wait().value(), 0);
}

TEST_P(RestoreTest, SocketIsForItsOwnerAlone) {
  prepare();
  struct stat status{};
  ASSERT_EQ(::stat(path("vm").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600);
}

TEST_P(RestoreTest, SixteenSessionsAtOnce) {
  std::vector<Program> vmms;
  for (int i = 0; i < 16; ++i) {
    const std::string socket = "vm" + std::to_string(i);
    prepare({}, socket);
    vmms.push_back(start_vmm("verify", "image", socket));
  }
  for (Program& vmm : vmms) EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(RestoreTest, VmThatFloodsItsHandlerCostsNoMemoryAndOthersAreServed) {
  prepare({}, "flood");
  prepare();
  Program flood = start_vmm("flood", "image", "flood");
  ASSERT_TRUE(succeeded(flood.wait_for_line("flooding")));
  wait_for(1, [](const Json& report) { return report["removed_pages"] > 1000; });
  const std::size_t before = resident_bytes(handler_->worker());
  Program vmm = start_vmm("verify");
  EXPECT_EQ(vmm.wait().value(), 0);
  // A fill has to wait while an event is unread, which is so all the time.
  wait_for(1, [](const Json& report) { return report["delayed_fills"] > 50'000; });
  EXPECT_LT(resident_bytes(handler_->worker()), before + kTolerableGrowth);
  flood.tell("stop");
  EXPECT_EQ(flood.wait().value(), 0);
}

TEST_P(RestoreTest, RemovedPagesAreZeroAndOthersTheSnapshots) {
  const std::uint64_t number = prepare();
  Program vmm = start_vmm("remove");
  EXPECT_EQ(vmm.wait().value(), 0);
  EXPECT_GE(wait_for_state(number, "ended")["removed_pages"], kPages / 4);
}

TEST_P(RestoreTest, GuestWaitsForAPageServerThatIsKilledAndRestarted) {
  const std::uint64_t number = prepare();
  Program vmm = start_half();
  server_.kill();
  vmm.tell("go on");
  wait_for(number, [](const Json& report) { return report["waiting_pages"] > 0; });
  server_.start();
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(RestoreTest, PagesOfAnotherStoreNeverEnterTheGuest) {
  const std::uint64_t number = prepare({"--on-unservable", "wait"});
  Program vmm = start_half();
  replace_store("none", "first");
  // The same name, and the same numbers of snapshot and chunks, for other content.
  write_file(path("other"), make_image(3, kPages));
  ASSERT_EQ(push("snapshot", "other").exit_code, 0);
  vmm.tell("go on");
  wait_for(number, [](const Json& report) { return report["waiting_pages"] > 0; });
  prepare({}, "second");
  EXPECT_EQ(start_vmm("verify", "other", "second").wait().value(), 0) << "the new one is served";
  EXPECT_EQ(session(number)["state"], "serving");

  replace_store("first", "second");
  EXPECT_EQ(vmm.wait().value(), 0) << vmm.rest_of_output();
}

TEST_P(RestoreTest, VmWhosePagesAreInAnotherStoreIsKilledWhereThatIsThePolicy) {
  const std::uint64_t number = prepare();
  Program vmm = start_half();
  replace_store("none", "first");
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  const std::string outcome = wait_for_state(number, "ended")["outcome"];
  EXPECT_NE(outcome.find("wrong_store"), std::string::npos) << outcome;
}

TEST_P(RestoreTest, HandlerGoesOnWithEachStoreThatComes) {
  write_file(path("other"), make_image(3, kPages));
  const auto restore = [&](const std::string& image, const std::string& socket) {
    const std::uint64_t number = prepare({}, socket);
    EXPECT_EQ(start_vmm("verify", image, socket).wait().value(), 0);
    wait_for_state(number, "ended");
  };
  restore("image", "first");
  replace_store("none", "old");
  ASSERT_EQ(push("snapshot", "other").exit_code, 0);
  restore("other", "second");
  replace_store("old", "new");
  restore("image", "third");
  replace_store("new", "old");
  restore("other", "fourth");
}

TEST_P(RestoreTest, RecordingGoesToNoOtherStore) {
  const std::uint64_t number = prepare();
  Program vmm = start_half();
  replace_store("none", "first");
  ASSERT_EQ(push("snapshot").exit_code, 0);  // which has the same content under the same number
  vmm.signal(SIGKILL);
  const Json report = wait_for(number, [](const Json& session) {
    return session["recording"] == "failed" || session["recording"] == "stored";
  });
  EXPECT_EQ(report["recording"], "failed");
}

TEST_P(RestoreTest, PageServerThatIsAwayIsNamedAtPrepare) {
  server_.kill();
  const Outcome outcome = control({"prepare", "snapshot", "--socket", path("vm")});
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_EQ(Json::parse(outcome.output)["error"]["code"], "unavailable");
  server_.start();
  prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
}

TEST_P(RestoreTest, UnknownSnapshotIsNamed) {
  const Outcome outcome = control({"prepare", "nothing", "--socket", path("vm")});
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_EQ(Json::parse(outcome.output)["error"]["code"], "not_found");
}

TEST_P(RestoreTest, VmmOfAnotherSizeIsKilled) {
  const std::uint64_t number = prepare();
  write_file(path("small"), ByteSpan(image_).first(image_.size() / 2));
  Program vmm({program_path("vmm"), path("vm"), path("small"), "hold"});
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  EXPECT_TRUE(
      wait_for_state(number, "ended")["outcome"].get<std::string>().starts_with("region_mismatch"));
}

TEST_P(RestoreTest, VmmOfAnotherSizeIsLeftAloneWhereThePolicyIsToWait) {
  const std::uint64_t number = prepare({"--on-unservable", "wait"});
  write_file(path("small"), ByteSpan(image_).first(image_.size() / 2));
  Program vmm = start_vmm("hold", "small");
  wait_for_state(number, "refused");
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  wait_for_state(number, "ended");
}

TEST_P(RestoreTest, DamagedChunkStopsTheVmAndNeverEntersIt) {
  ASSERT_EQ(server_.stop().value(), 0);
  RawStore(path("store")).mix_up_chunks();
  server_.start();
  const std::uint64_t number = prepare();
  Program vmm = start_vmm("verify");
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  EXPECT_EQ(vmm.rest_of_output(), "");
  const Json report = wait_for_state(number, "ended");
  EXPECT_GE(report["damaged_chunks"], 3);
  EXPECT_NE(report["outcome"].get<std::string>().find("checksum_mismatch"), std::string::npos);
}

TEST_P(RestoreTest, DamageOnTheWireNeverReachesTheGuest) {
  // One byte in every half MiB, but not in what `prepare` fetches.
  constexpr std::size_t kInterval = 512u << 10;
  Relay relay(server_.address(), [](Relay::Way way, std::size_t before, MutableByteSpan piece) {
    const std::size_t next = (before / kInterval + 1) * kInterval;
    if (way == Relay::Way::kToClient && next < before + piece.size()) {
      piece[next - before] ^= std::byte{0x10};
    }
    return true;
  });
  start_handler(relay.address());
  const std::uint64_t number = prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  EXPECT_GT(wait_for_state(number, "ended")["bytes_received"], 0);
}

TEST_P(RestoreTest, GuestSurvivesAConnectionThatIsCutAgainAndAgain) {
  Relay relay(server_.address(), [](Relay::Way way, std::size_t before, MutableByteSpan piece) {
    return way == Relay::Way::kToServer || before + piece.size() < (2u << 20);
  });
  start_handler(relay.address());
  prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
}

TEST_P(RestoreTest, ConnectionsThatAreNoVmmsLeaveTheSessionWaiting) {
  const std::uint64_t number = prepare();
  const Deadline deadline = Deadline::after(kPatience);
  const std::string good = encode_handoff({{{0x10000000}, {kPages * kPageBytes}, {0}, {4096}}});
  const UniqueFd not_uffd = create_event_fd().value();
  std::vector<UniqueFd> visitors;
  const auto visit = [&](std::string_view text, const std::vector<int>& descriptors) {
    visitors.push_back(connect_unix(path("vm"), deadline).value());
    if (text.empty()) return;
    EXPECT_TRUE(
        succeeded(send_with_descriptors(visitors.back(), as_bytes(text), descriptors, deadline)));
  };
  for (const bool stays : {true, false}) {
    visit("", {});
    visit("{}", {not_uffd.get()});
    visit(good, {});
    visit(good, {not_uffd.get()});
    visit("[", {not_uffd.get()});
    if (!stays) visitors.clear();
  }
  const Outcome second = control({"prepare", "snapshot", "--socket", path("vm")});
  EXPECT_EQ(second.exit_code, 5);
  EXPECT_EQ(Json::parse(second.output)["error"]["code"], "already_exists");

  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  wait_for_state(number, "ended");
}

TEST_P(RestoreTest, PrepareGoesWithItsClient) {
  const auto has_state_file = [this] {
    return std::ranges::any_of(open_descriptors(handler_->worker()),
                               [this](const auto& name) { return name.starts_with(path("")); });
  };
  server_.suspend();
  {
    Program client({program_path("thaw"), "--control", path("control"), "prepare", "snapshot",
                    "--socket", path("vm"), "--state-out", path("vm.state")});
    const Deadline deadline = Deadline::after(kPatience);
    while (!has_state_file() && !deadline.passed()) std::this_thread::yield();
    EXPECT_TRUE(has_state_file()) << "it has begun";
    client.signal(SIGKILL);
    static_cast<void>(client.wait());
    while (has_state_file() && !deadline.passed()) EXPECT_EQ(control({"ps"}).exit_code, 0);
  }
  server_.resume();
  EXPECT_FALSE(has_state_file());
  EXPECT_FALSE(std::filesystem::exists(path("vm.state")));
  EXPECT_FALSE(std::filesystem::exists(path("vm")));
  EXPECT_EQ(Json::parse(control({"ps"}).output)["sessions"].size(), 0u);
  EXPECT_EQ(server_.thaw({"rm", "snapshot"}).exit_code, 0);
}

TEST_P(RestoreTest, PathsThatCannotBeUsedAreRefusedAndLeftAlone) {
  write_file(path("file"), as_bytes("precious"));
  std::filesystem::create_directory(path("directory"));
  std::filesystem::create_symlink("file", path("link"));
  const auto refusal = [&](const std::string& socket, const std::string& state) {
    const Outcome outcome =
        control({"prepare", "snapshot", "--socket", path(socket), "--state-out", path(state)});
    EXPECT_NE(outcome.exit_code, 0);
    EXPECT_FALSE(std::filesystem::exists(path("state-out")));
    EXPECT_FALSE(std::filesystem::exists(path("state-out.partial")));
    EXPECT_FALSE(std::filesystem::exists(path("vm")));
    return Json::parse(outcome.output)["error"]["code"].get<std::string>();
  };
  EXPECT_EQ(refusal("file", "state-out"), "already_exists");
  EXPECT_EQ(refusal("directory", "state-out"), "already_exists");
  EXPECT_EQ(refusal("none/vm", "state-out"), "not_found");
  EXPECT_EQ(refusal("vm", "directory"), "already_exists");
  EXPECT_EQ(refusal("vm", "link"), "already_exists");
  EXPECT_EQ(refusal("vm", "none/state"), "not_found");
  EXPECT_EQ(refusal("vm", "directory/../vm"), "invalid_argument");
  EXPECT_EQ(refusal(std::string(200, 's'), "state-out"), "invalid_argument");
  EXPECT_EQ(as_text(read_file(path("file"))), "precious");

  const std::string deep = std::string(100, 'd') + "/vm";
  std::filesystem::create_directory(path(std::string(100, 'd')));
  prepare({}, deep);
  EXPECT_EQ(start_vmm("verify", "image", deep).wait().value(), 0);
}

TEST_P(RestoreTest, WhatStandsInASocketsPlaceIsLeftAlone) {
  const std::uint64_t number = prepare();
  std::filesystem::remove(path("vm"));
  write_file(path("vm"), as_bytes("precious"));
  EXPECT_EQ(control({"stop", std::to_string(number)}).exit_code, 0);
  EXPECT_EQ(as_text(read_file(path("vm"))), "precious");
  const Outcome again = control({"stop", std::to_string(number)});
  EXPECT_EQ(again.exit_code, 3);
  EXPECT_TRUE(again.output.contains(fmt::format("session {} has ended", number))) << again.output;

  const std::uint64_t other = prepare({}, "other");
  std::filesystem::remove(path("other"));
  const UniqueFd taken = listen_unix(path("other"), std::nullopt).value();
  EXPECT_EQ(control({"stop", std::to_string(other)}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(path("other")));
}

TEST_P(RestoreTest, ControlSocketThatWasRemovedComesBack) {
  prepare();
  Program vmm = start_half();
  const auto answers = [&] { return control({"ps"}).exit_code == 0; };
  const auto comes_back = [&] {
    const Deadline deadline = Deadline::after(kPatience);
    while (!answers() && !deadline.passed()) {
    }
    return answers();
  };
  std::filesystem::remove(path("control"));
  ASSERT_FALSE(answers());
  handler_->signal(SIGHUP);
  EXPECT_TRUE(comes_back());

  std::filesystem::remove(path("control"));
  ::kill(handler_->worker(), SIGKILL);
  EXPECT_TRUE(comes_back());
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  handler_->signal(SIGTERM);
  EXPECT_EQ(handler_->wait().value(), 0);
  EXPECT_FALSE(std::filesystem::exists(path("control")));
}

TEST_P(RestoreTest, HostileControlClientsDisturbNobody) {
  const Deadline deadline = Deadline::after(kPatience);
  std::vector<UniqueFd> clients;
  for (const std::string_view text : {"garbage\n", "{\"command\":\"explode\"}\n", "{", "\0"}) {
    clients.push_back(connect_unix(path("control"), deadline).value());
    ASSERT_TRUE(succeeded(send_all(clients.back(), as_bytes(text), deadline)));
  }
  prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
}

TEST_P(RestoreTest, KilledVmmEndsItsSessionAndLeaksNothing) {
  // The first restore records, the second has a working set: both links stay.
  for (std::uint64_t number = 1; number <= 2; ++number) {
    ASSERT_EQ(prepare(), number);
    EXPECT_EQ(start_vmm("verify").wait().value(), 0);
    wait_for(number, [](const Json& report) {
      return report["state"] == "ended" && report["recording"] != "uploading";
    });
  }
  const std::size_t before = open_descriptors(handler_->worker()).size();
  for (std::uint64_t number = 3; number < 8; ++number) {
    ASSERT_EQ(prepare(), number);
    Program vmm = start_vmm("halves");
    ASSERT_TRUE(succeeded(vmm.wait_for_line("half")));
    vmm.signal(SIGKILL);
    wait_for_state(number, "ended");
  }
  EXPECT_LE(open_descriptors_down_to(handler_->worker(), before), before);
}

TEST_P(RestoreTest, LivingSessionIsStoppedOnlyTogetherWithItsVm) {
  const std::uint64_t number = prepare();
  Program vmm = start_vmm("hold");
  wait_for_state(number, "serving");
  const std::string name = std::to_string(number);
  const Outcome refused = control({"stop", name});
  EXPECT_EQ(refused.exit_code, 5);
  EXPECT_EQ(Json::parse(refused.output)["error"]["code"], "busy");
  EXPECT_EQ(control({"stop", name, "--kill"}).exit_code, 0);
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  wait_for_state(number, "ended");
}

TEST_P(RestoreTest, HandlerWithoutDescriptorsRestsUntilThereAreSome) {
  constexpr std::chrono::milliseconds kWatched{1000};
  prepare();
  rlimit limit{};
  ASSERT_EQ(::prlimit(handler_->worker(), RLIMIT_NOFILE, nullptr, &limit), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = limit.rlim_max};
  ASSERT_EQ(::prlimit(handler_->worker(), RLIMIT_NOFILE, &none, nullptr), 0);
  Program vmm = start_vmm("verify");
  Program command({program_path("thaw"), "--control", path("control"), "ps"});

  const auto before = cpu_time(handler_->worker());
  const Deadline watched = Deadline::after(kWatched);
  while (!watched.passed()) ::poll(nullptr, 0, watched.milliseconds_left());
  EXPECT_LT(cpu_time(handler_->worker()) - before, kWatched / 4);

  ASSERT_EQ(::prlimit(handler_->worker(), RLIMIT_NOFILE, &limit, nullptr), 0);
  EXPECT_EQ(vmm.wait().value(), 0);
  EXPECT_EQ(command.wait().value(), 0);
}

TEST_P(RestoreTest, StoppingHandlerServesOnUntilItsVmsHaveExited) {
  prepare();
  Program vmm = start_half();
  handler_->signal(SIGTERM);
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
  EXPECT_EQ(handler_->wait().value(), 0);
}

TEST_P(RestoreTest, StoppingHandlerWaitsForTheCommandUnderWay) {
  std::atomic<bool> is_under_way = false;
  std::atomic<bool> may_go_on = false;
  Relay relay(server_.address(), [&](Relay::Way, std::size_t, MutableByteSpan) {
    is_under_way = true;
    is_under_way.notify_one();
    may_go_on.wait(false);
    return false;
  });
  start_handler(relay.address());
  Program command({program_path("thaw"), "--json", "--control", path("control"), "prepare",
                   "snapshot", "--socket", path("vm")});
  is_under_way.wait(false);
  handler_->signal(SIGTERM);
  const Deadline deadline = Deadline::after(kPatience);
  while (std::filesystem::exists(path("control")) && !deadline.passed()) std::this_thread::yield();
  may_go_on = true;
  may_go_on.notify_all();
  EXPECT_EQ(handler_->wait().value(), 0);
  EXPECT_NE(command.wait().value(), 0);
}

TEST_P(RestoreTest, SecondSignalKillsTheVms) {
  const std::uint64_t number = prepare();
  Program vmm = start_vmm("hold");
  wait_for_state(number, "serving");
  handler_->signal(SIGTERM);
  wait_for(number, [](const Json& report) { return report["state"] == "serving"; });
  handler_->signal(SIGTERM);
  EXPECT_EQ(vmm.wait().value(), 128 + SIGKILL);
  EXPECT_EQ(handler_->wait().value(), 0);
}

}  // namespace
}  // namespace thaw::test
