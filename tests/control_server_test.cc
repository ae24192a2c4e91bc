// The control socket with commands in the hands of a test: what clients do to it and to one
// another.

#include "faulthandler/control_server.h"

#include <array>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include <gtest/gtest.h>
#include <poll.h>

#include "base/event_fd.h"
#include "base/limits.h"
#include "base/new_listener.h"
#include "base/place.h"
#include "base/socket.h"
#include "faulthandler/limits.h"
#include "faulthandler/sys/epoll_loop.h"
#include "format/control_channel.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

constexpr std::chrono::seconds kPatience{60};

Deadline soon() { return Deadline::after(kPatience); }

class ControlServerTest : public testing::Test {
 protected:
  ControlServerTest() {
    server_ = std::make_unique<ControlServer>(
        path_, listen_unix(path_, std::nullopt).value(),
        ControlServer::Tools{*loop_, *tasks_, *prepares_, *others_},
        ControlCommands{
            .prepare = [this](const control::Prepare& request, SessionObjects,
                              const std::stop_token& stop) { return prepare(request, stop); },
            .handle = [](const ControlRequest&) { return HandlerReport{}; }});
  }

  /// A client that has asked for a session and reads nothing.
  UniqueFd ask_for_session(const std::string& snapshot = "hangs") {
    UniqueFd socket = connect_unix(path_, soon()).value();
    control::Prepare request;
    request.snapshot = snapshot;
    const std::string line = encode_control_request(request);
    const auto sent = send_with_descriptors(socket, as_bytes(line), objects_.numbers(), soon());
    EXPECT_TRUE(succeeded(sent));
    return socket;
  }
  static ControlReply reply_of(const UniqueFd& client) {
    return decode_control_reply(receive_control_line(client, soon()).value()).value();
  }
  static ErrorCode refusal_of(const UniqueFd& client) {
    return std::get<Error>(reply_of(client)).code();
  }
  Result<ControlReply> list() { return ask_fault_handler(path_, control::List{}); }
  /// Waits until one of the counts below has become so large.
  void wait_for(const std::size_t& count, std::size_t wanted) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return count >= wanted; }));
  }
  void add_one(std::size_t& count) {
    {
      const std::lock_guard lock(mutex_);
      ++count;
    }
    changed_.notify_all();
  }

  const ScratchDirectory directory_;
  const std::string path_ = directory_.path("control");
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t begun_ = 0;  // guarded by mutex_, as what follows
  std::size_t called_off_ = 0;
  std::size_t taken_back_ = 0;
  const std::unique_ptr<Loop> loop_ = create_epoll_loop().value();
  const std::unique_ptr<TaskQueue> tasks_ = TaskQueue::create().value();
  const std::unique_ptr<WorkerPool> prepares_ = WorkerPool::create(limits::kPrepareThreads).value();
  const std::unique_ptr<WorkerPool> others_ = WorkerPool::create(limits::kControlThreads).value();
  std::unique_ptr<ControlServer> server_;
  const SessionObjects objects_ = make_objects();

 private:
  SessionObjects make_objects() const {
    Place place = find_place(directory_.path("vm")).value();
    NewListener socket =
        NewListener::create(directory_.path("vm"), std::move(place), std::nullopt).value();
    return {.listener = duplicate(socket.listener()).value(),
            .socket_directory = duplicate(socket.directory()).value(),
            .socket_file = duplicate(socket.file()).value(),
            .state = {},
            .trace_directory = {}};
  }
  /// A snapshot that "hangs" takes until it is called off.
  Preparation prepare(const control::Prepare& request, const std::stop_token& stop) {
    add_one(begun_);
    if (request.snapshot == "hangs") {
      std::mutex mutex;
      std::unique_lock lock(mutex);
      std::condition_variable_any().wait(lock, stop, [] { return false; });
      add_one(called_off_);
      return {Error(ErrorCode::kStopped, "called off"), {}};
    }
    control::Prepared prepared;
    prepared.session = 7;
    return {prepared, [this] { add_one(taken_back_); }};
  }
};

TEST_F(ControlServerTest, AnswersOtherCommandsWhileAllPreparesHang) {
  std::vector<UniqueFd> clients;
  for (unsigned i = 0; i < 2 * limits::kPrepareThreads; ++i) clients.push_back(ask_for_session());
  wait_for(begun_, limits::kPrepareThreads);

  EXPECT_TRUE(succeeded(list()));
}

TEST_F(ControlServerTest, RefusesAPrepareWithoutItsObjects) {
  const control::Prepare request;
  const UniqueFd none = connect_unix(path_, soon()).value();
  ASSERT_TRUE(succeeded(send_all(none, as_bytes(encode_control_request(request)), soon())));
  EXPECT_EQ(refusal_of(none), ErrorCode::kInvalidArgument);

  // Of other kinds.
  const UniqueFd wrong = connect_unix(path_, soon()).value();
  const UniqueFd event = create_event_fd().value();
  const std::array numbers{event.get(), event.get(), event.get()};
  ASSERT_TRUE(succeeded(
      send_with_descriptors(wrong, as_bytes(encode_control_request(request)), numbers, soon())));
  EXPECT_EQ(refusal_of(wrong), ErrorCode::kInvalidArgument);

  const UniqueFd many = connect_unix(path_, soon()).value();
  const std::vector<int> crowd(limits::kMaxDescriptorsPerMessage, event.get());
  for (int piece = 0; piece < 2; ++piece) {
    ASSERT_TRUE(succeeded(send_with_descriptors(many, as_bytes("{"), crowd, soon())));
  }
  EXPECT_EQ(refusal_of(many), ErrorCode::kNoDescriptors);
  EXPECT_EQ(begun_, 0u);
}

TEST_F(ControlServerTest, CallsOffThePrepareOfAClientThatGoes) {
  UniqueFd client = ask_for_session();
  wait_for(begun_, 1);

  client.reset();

  wait_for(called_off_, 1);
}

TEST_F(ControlServerTest, PrepareThatWaitsForAThreadIsForgottenWithItsClient) {
  std::vector<UniqueFd> clients;
  for (unsigned i = 0; i < limits::kPrepareThreads; ++i) clients.push_back(ask_for_session());
  wait_for(begun_, limits::kPrepareThreads);
  UniqueFd waiting = ask_for_session();
  waiting.reset();
  while (clients.size() < limits::kMaxPrepares) clients.push_back(ask_for_session());

  // There is room for as many as before.
  EXPECT_TRUE(succeeded(list()));
  clients.clear();
  wait_for(called_off_, limits::kPrepareThreads);
  EXPECT_TRUE(std::holds_alternative<control::Prepared>(reply_of(ask_for_session("ready"))));
}

TEST_F(ControlServerTest, RefusesMorePreparesThanItsLimitByName) {
  std::vector<UniqueFd> clients;
  for (std::size_t i = 0; i < limits::kMaxPrepares; ++i) clients.push_back(ask_for_session());

  EXPECT_EQ(refusal_of(ask_for_session()), ErrorCode::kBusy);
}

TEST_F(ControlServerTest, TakesBackASessionWhoseReplyWasNotRead) {
  UniqueFd client = ask_for_session("ready");
  ASSERT_TRUE(wait_until_readable(client, soon()));

  client.reset();

  wait_for(taken_back_, 1);
}

TEST_F(ControlServerTest, SessionWhoseReplyWasReadStays) {
  for (int i = 0; i < 20; ++i) {
    UniqueFd client = ask_for_session("ready");
    if (i % 2 == 0) shut_down_sending(client);
    EXPECT_TRUE(std::holds_alternative<control::Prepared>(reply_of(client)));
    client.reset();
  }
  server_.reset();

  EXPECT_EQ(taken_back_, 0u);
}

TEST_F(ControlServerTest, SilentClientsAreBoundedAndTheOldestGoes) {
  std::vector<UniqueFd> clients;
  for (std::size_t i = 0; i <= limits::kMaxSilentClients; ++i) {
    clients.push_back(connect_unix(path_, soon()).value());
    if (i % 2 == 0) continue;
    EXPECT_TRUE(succeeded(send_all(clients.back(), as_bytes("{"), soon())));
  }

  EXPECT_TRUE(succeeded(list()));

  std::array<std::byte, 1> byte;
  EXPECT_EQ(receive_some(clients.front(), byte, soon()).value(), 0u);
  EXPECT_EQ(peek(clients.back(), byte).value(), std::nullopt);
}

TEST_F(ControlServerTest, ListenerThatReplacesALostSocketIsHeard) {
  const UniqueFd client = ask_for_session();
  wait_for(begun_, 1);
  std::filesystem::remove(path_);
  ASSERT_FALSE(list().has_value());

  server_->hear(listen_unix(path_, std::nullopt).value());

  EXPECT_TRUE(succeeded(list()));
  server_.reset();
  EXPECT_EQ(refusal_of(client), ErrorCode::kStopped) << "one that came before is answered";
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ControlServerTest, WhatStandsInTheSocketsPlaceIsLeftAlone) {
  std::filesystem::remove(path_);
  std::ofstream(path_) << "precious";

  server_.reset();

  EXPECT_EQ(std::filesystem::file_size(path_), 8u);
}

TEST_F(ControlServerTest, WhatIsNoCommandIsRefusedByName) {
  const UniqueFd client = connect_unix(path_, soon()).value();
  ASSERT_TRUE(succeeded(send_all(client, as_bytes("garbage\n"), soon())));
  EXPECT_EQ(refusal_of(client), ErrorCode::kMalformed);
}

TEST_F(ControlServerTest, EndCallsOffWhatIsUnderWayAndSaysSo) {
  const UniqueFd client = ask_for_session();
  wait_for(begun_, 1);

  server_.reset();

  EXPECT_EQ(refusal_of(client), ErrorCode::kStopped);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST(TaskQueue, TaskThatWasGivenUpNeverRuns) {
  const auto tasks = TaskQueue::create().value();
  bool has_run = false;
  const auto result = tasks->run<void>([&] {
    has_run = true;
    return Result<void>();
  });
  EXPECT_EQ(code_of(result), ErrorCode::kTimeout);

  tasks->run_all();

  EXPECT_FALSE(has_run);
}

}  // namespace
}  // namespace thaw::test
