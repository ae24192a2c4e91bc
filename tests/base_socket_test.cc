#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/passed_descriptors.h"
#include "base/socket.h"
#include "tests/support/seccomp.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::code_of;
using test::ScratchDirectory;
using test::succeeded;

Deadline soon() { return Deadline::after(std::chrono::seconds(10)); }
Deadline now() { return Deadline::after(Nanoseconds(0)); }

struct Pair {
  UniqueFd a;
  UniqueFd b;
};

Pair socket_pair() {
  int fds[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

TEST(ListenUnix, AnswersAndIsPrivate) {
  const ScratchDirectory scratch;
  const std::string path = scratch.path("s");
  const auto listener = listen_unix(path, std::nullopt);
  ASSERT_TRUE(succeeded(listener));
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);

  const auto client = connect_unix(path, soon());
  ASSERT_TRUE(succeeded(client));
  const auto server = accept_connection(*listener, soon());
  ASSERT_TRUE(succeeded(server));
  ASSERT_TRUE(succeeded(send_all(*client, as_bytes("hello"), soon())));
  std::array<std::byte, 5> text;
  ASSERT_TRUE(succeeded(receive_all(*server, text, soon())));
  EXPECT_EQ(as_text(text), "hello");
  EXPECT_EQ(code_of(accept_connection(*listener, now())), ErrorCode::kTimeout);
}

TEST(ListenUnix, ReplacesAStaleSocketAndRefusesOneInUse) {
  const ScratchDirectory scratch;
  const std::string path = scratch.path("s");
  auto dead = listen_unix(path, std::nullopt);
  ASSERT_TRUE(succeeded(dead));
  dead->reset();
  ASSERT_TRUE(std::filesystem::exists(path));

  const auto live = listen_unix(path, std::nullopt);
  ASSERT_TRUE(succeeded(live));
  EXPECT_EQ(code_of(listen_unix(path, std::nullopt)), ErrorCode::kAlreadyExists);
  EXPECT_TRUE(succeeded(connect_unix(path, soon()))) << "the live one still answers";
}

TEST(ListenUnix, PathMayBeLongerThanAnAddress) {
  const ScratchDirectory scratch;
  const std::string directory = scratch.path(std::string(150, 'd'));
  std::filesystem::create_directory(directory);
  const std::string path = directory + "/s";
  {
    const auto listener = listen_unix(path, std::nullopt);
    ASSERT_TRUE(succeeded(listener));
    EXPECT_TRUE(succeeded(connect_unix(path, soon())));
    EXPECT_EQ(code_of(listen_unix(path, std::nullopt)), ErrorCode::kAlreadyExists);
  }
  EXPECT_TRUE(succeeded(listen_unix(path, std::nullopt))) << "a stale one is replaced";
  EXPECT_EQ(code_of(connect_unix(directory + "/none", soon())), ErrorCode::kNotFound);
  EXPECT_EQ(code_of(listen_unix(directory + "/" + std::string(108, 's'), std::nullopt)),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(listen_unix(directory + "/none/s", std::nullopt)), ErrorCode::kNotFound);
}

TEST(ListenUnix, RefusesFilesAndBadPaths) {
  const ScratchDirectory scratch;
  std::ofstream(scratch.path("file")) << "precious";
  EXPECT_EQ(code_of(listen_unix(scratch.path("file"), std::nullopt)), ErrorCode::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::exists(scratch.path("file")));
  EXPECT_FALSE(std::filesystem::exists(scratch.path("s")));
  EXPECT_EQ(code_of(listen_unix("", std::nullopt)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(listen_unix(std::string(limits::kMaxSocketPath + 1, 'x'), std::nullopt)),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(connect_unix(scratch.path("none"), soon())), ErrorCode::kNotFound);
}

TEST(Socket, PiecesArriveInOrderThroughAFullBuffer) {
  const Pair pair = socket_pair();
  const Bytes large(4u << 20, std::byte{7});
  const std::array<ByteSpan, 4> pieces{as_bytes("ab"), ByteSpan(), large, as_bytes("cd")};
  Bytes received(large.size() + 4);
  std::jthread sender([&] { EXPECT_TRUE(succeeded(send_all(pair.a, pieces, soon()))); });
  ASSERT_TRUE(succeeded(receive_all(pair.b, received, soon())));
  EXPECT_EQ(as_text(ByteSpan(received).first(2)), "ab");
  EXPECT_EQ(as_text(ByteSpan(received).last(2)), "cd");
  EXPECT_TRUE(std::ranges::equal(ByteSpan(received).subspan(2, large.size()), large));
}

TEST(Socket, PeerThatGoesOrIsSilentHasAName) {
  Pair pair = socket_pair();
  std::array<std::byte, 4> four;
  EXPECT_EQ(code_of(receive_all(pair.b, four, now())), ErrorCode::kTimeout);
  const Bytes endless(64u << 20);
  EXPECT_EQ(code_of(send_all(pair.b, endless, now())), ErrorCode::kTimeout);

  Pair cut = socket_pair();
  ASSERT_TRUE(succeeded(send_all(cut.a, as_bytes("ab"), soon())));
  cut.a.reset();
  EXPECT_EQ(code_of(receive_all(cut.b, four, soon())), ErrorCode::kTruncated);
  EXPECT_EQ(code_of(receive_all(cut.b, four, soon())), ErrorCode::kUnavailable);
  EXPECT_EQ(code_of(send_all(cut.b, as_bytes("x"), soon())), ErrorCode::kUnavailable);
}

TEST(Descriptors, ArriveUsableAndCloseOnExec) {
  const Pair carrier = socket_pair();
  Pair cargo = socket_pair();
  const int sent[] = {cargo.a.get()};
  ASSERT_TRUE(succeeded(send_with_descriptors(carrier.a, as_bytes("[]"), sent, soon())));
  cargo.a.reset();

  std::array<std::byte, 16> text;
  auto received = receive_with_descriptors(carrier.b, text);
  ASSERT_TRUE(succeeded(received));
  ASSERT_TRUE(received->has_value());
  EXPECT_EQ((*received)->bytes, 2u);
  ASSERT_EQ((*received)->descriptors.size(), 1u);
  const UniqueFd& arrived = (*received)->descriptors.front();
  EXPECT_EQ(::fcntl(arrived.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  ASSERT_TRUE(succeeded(send_all(arrived, as_bytes("x"), soon())));
  std::array<std::byte, 1> one;
  EXPECT_TRUE(succeeded(receive_all(cargo.b, one, soon())));
}

TEST(Descriptors, AreNotSentToWhatRefusesThem) {
  if (!can_refuse_descriptors()) GTEST_SKIP() << "the kernel cannot refuse descriptors";
  const ScratchDirectory directory;
  const auto address = resolve_tcp("unix:" + directory.path("s")).value();
  const UniqueFd listener = listen_tcp(address).value();
  const UniqueFd client = connect_tcp(address, soon()).value();
  const auto send = [&](const UniqueFd& to) {
    const std::array sent{listener.get()};
    const auto result = send_with_descriptors(to, as_bytes("x"), sent, soon());
    return result ? 0 : result.error().error_number();
  };
  EXPECT_EQ(send(client), EPERM) << "nothing has accepted it yet";
  const UniqueFd server = accept_connection(listener, soon()).value();
  EXPECT_EQ(send(client), EPERM);
  EXPECT_EQ(send(server), EPERM);
  EXPECT_TRUE(succeeded(send_all(client, as_bytes("bytes"), soon())));
}

TEST(Descriptors, NothingYetAndClosedAreDifferent) {
  Pair pair = socket_pair();
  std::array<std::byte, 16> text;
  EXPECT_FALSE(receive_with_descriptors(pair.b, text).value().has_value());
  pair.a.reset();
  const auto closed = receive_with_descriptors(pair.b, text);
  ASSERT_TRUE(succeeded(closed));
  EXPECT_EQ(closed->value().bytes, 0u);
}

TEST(Descriptors, AreHeldWithoutNumbers) {
  Pair cargo = socket_pair();
  std::vector<UniqueFd> held;
  for (int i = 0; i < 20; ++i) held.push_back(duplicate(cargo.a).value());
  cargo.a.reset();
  auto holder = hold_descriptors(held);
  ASSERT_TRUE(succeeded(holder));
  held.clear();
  std::array<std::byte, 1> byte{};
  EXPECT_FALSE(peek(cargo.b, byte).value().has_value()) << "the other end is open";
  holder->reset();
  EXPECT_EQ(peek(cargo.b, byte).value(), 0u);
}

TEST(Descriptors, SurplusIsToldAndNothingLeaks) {
  const Pair pair = socket_pair();
  constexpr std::size_t kSent = limits::kMaxDescriptorsPerMessage + 4;
  std::array<int, kSent> sent;
  sent.fill(pair.a.get());
  // The library itself refuses to send that many.
  char byte = 'x';
  iovec vector{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(sent))> control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(sent));
  std::memcpy(CMSG_DATA(header), sent.data(), sizeof(sent));
  const auto open_descriptors = [] {
    const std::filesystem::directory_iterator entries("/proc/self/fd");
    return std::distance(begin(entries), end(entries));
  };
  ASSERT_EQ(::sendmsg(pair.a.get(), &message, 0), 1);
  const auto before = open_descriptors();

  std::array<std::byte, 16> text;
  {
    const auto received = receive_with_descriptors(pair.b, text);
    ASSERT_TRUE(succeeded(received));
    EXPECT_EQ(received->value().descriptors.size(), limits::kMaxDescriptorsPerMessage);
    EXPECT_TRUE(received->value().lost_descriptors);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(PeerProcess, IsKilledThroughItsPidfd) {
  Pair pair = socket_pair();
  const ScratchDirectory scratch;
  const auto listener = listen_unix(scratch.path("s"), std::nullopt);
  ASSERT_TRUE(succeeded(listener));
  const pid_t child = ::fork();
  if (child == 0) {
    const auto socket = connect_unix(scratch.path("s"), soon());
    while (socket) ::pause();
    ::_exit(1);
  }
  const auto socket = accept_connection(*listener, soon());
  ASSERT_TRUE(succeeded(socket));
  const auto peer = peer_process(*socket);
  ASSERT_TRUE(succeeded(peer));
  EXPECT_EQ(peer->pid, child);
  EXPECT_EQ(code_of(wait_for_exit(peer->pidfd, now())), ErrorCode::kTimeout);

  ASSERT_TRUE(succeeded(kill_process(peer->pidfd)));
  EXPECT_TRUE(succeeded(wait_for_exit(peer->pidfd, soon())));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(succeeded(kill_process(peer->pidfd))) << "gone already is success";
}

TEST(PeerProcess, WithoutPeerPidfdIsTheOneThatConnectedOrNone) {
  const ScratchDirectory scratch;
  const auto listener = listen_unix(scratch.path("s"), std::nullopt);
  const auto client = connect_unix(scratch.path("s"), soon());
  const auto socket = accept_connection(*listener, soon());
  ASSERT_TRUE(succeeded(socket));
  // In a thread, whose filter ends with it.
  std::thread([&] {
    test::hide_peer_pidfd();
    EXPECT_FALSE(names_peers_everywhere(*socket));
    const auto peer = peer_process(*socket);
    ASSERT_TRUE(succeeded(peer));
    EXPECT_EQ(peer->pid, ::getpid());
    EXPECT_EQ(peer->user, ::geteuid());
    EXPECT_EQ(peer->found_by, PeerFoundBy::kNumber);
    EXPECT_EQ(code_of(wait_for_exit(peer->pidfd, now())), ErrorCode::kTimeout);
    EXPECT_EQ(code_of(peer_process(*socket, BootTime(0))), ErrorCode::kPermission);
  }).join();
  EXPECT_TRUE(succeeded(pidfd_by_number(::getpid(), ::geteuid(), boot_time())));
  EXPECT_EQ(code_of(pidfd_by_number(::getpid(), ::geteuid() + 1, boot_time())),
            ErrorCode::kPermission);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t ended{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(code_of(pidfd_by_number(child, ::geteuid(), boot_time())), ErrorCode::kNotFound);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST(Tcp, ResolvesOnlyHostAndPort) {
  const auto loopback = resolve_tcp("127.0.0.1:7777");
  ASSERT_TRUE(succeeded(loopback));
  EXPECT_TRUE(loopback->is_loopback());
  EXPECT_EQ(loopback->text(), "127.0.0.1:7777");
  const auto elsewhere = resolve_tcp("192.0.2.1:1");
  ASSERT_TRUE(succeeded(elsewhere));
  EXPECT_FALSE(elsewhere->is_loopback());
  for (const char* text : {"", "host", ":80", "host:", "127.0.0.1:http", "127.0.0.1:65536"}) {
    EXPECT_EQ(code_of(resolve_tcp(text)), ErrorCode::kInvalidArgument) << text;
  }
}

TEST(Tcp, RefusedConnectionIsUnavailable) {
  const auto address = resolve_tcp("127.0.0.1:1");
  ASSERT_TRUE(succeeded(address));
  EXPECT_EQ(code_of(connect_tcp(*address, soon())), ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace thaw
