#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <netinet/in.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/unique_fd.h"

namespace thaw {

/// Blocking work on sockets, each call with a deadline. One thread per socket at a time. Sockets
/// are close-on-exec; those of UNIX domain are for one host, those of TCP have TCP_NODELAY.

/// A resolved address of a server: of TCP, or of a UNIX socket on this host, which is written
/// "unix:PATH". What takes one works with both.
struct TcpAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  friend bool operator==(const TcpAddress& a, const TcpAddress& b) { return a.text() == b.text(); }
  bool is_unix() const;
  /// REQUIRES: is_unix().
  std::string unix_path() const;
  /// Of TCP, reached by this host alone.
  bool is_loopback() const;
  /// "192.0.2.1:7777", "[2001:db8::1]:7777" or "unix:/run/thaw/s.sock".
  std::string text() const;
};

/// The parts of "HOST:PORT" or "[IPV6]:PORT", without the brackets. kInvalidArgument for text of
/// another form.
struct HostAndPort {
  std::string host;
  std::string port;
};
Result<HostAndPort> split_host_and_port(const std::string& host_and_port);
/// kInvalidArgument for what resolve_tcp() would not take as an address or name.
Result<void> check_address(const std::string& address);
/// Whether it is an address, for which no name server is asked.
bool is_numeric(const std::string& address);

/// Resolves "HOST:PORT", "[IPV6]:PORT" or "unix:PATH" with at most limits::kMaxSocketPath bytes of
/// an absolute path; the first address of a name wins. kInvalidArgument for
/// text of another form, kUnavailable when the name does not resolve.
Result<TcpAddress> resolve_tcp(const std::string& host_and_port);
/// The same; all addresses of the name, at least one, each once and in the resolver's order.
Result<std::vector<TcpAddress>> resolve_tcp_all(const std::string& host_and_port);

Result<UniqueFd> connect_tcp(const TcpAddress& address, Deadline deadline);

/// Listens at the address, non-blocking; a port that another program has is kAlreadyExists. A UNIX
/// socket is made as listen_unix() does.
Result<UniqueFd> listen_tcp(const TcpAddress& address);

/// A non-blocking TCP socket with the options above, for an event loop to connect.
Result<UniqueFd> create_tcp_socket(const TcpAddress& address);

/// Binds and listens at `path` with mode 0600, non-blocking, owned by `owner` if one is given. A
/// socket file that nobody listens on any more is replaced; one that is in use, or a path that is
/// no socket, is kAlreadyExists.
Result<UniqueFd> listen_unix(const std::string& path, std::optional<FileOwner> owner);
Result<UniqueFd> connect_unix(const std::string& path, Deadline deadline);
/// The next connection to a socket that listens without blocking, non-blocking itself. kTimeout
/// when nobody connects in time.
Result<UniqueFd> accept_connection(const UniqueFd& listener, Deadline deadline);
/// Of the peer of a connection; one that has gone already has no address.
Result<TcpAddress> peer_address(const UniqueFd& connection);

/// Sends everything, or fails. The peer's going away is kUnavailable, never SIGPIPE.
Result<void> send_all(const UniqueFd& socket, ByteSpan bytes, Deadline deadline);
/// The same for several pieces in one write where the kernel allows.
Result<void> send_all(const UniqueFd& socket, std::span<const ByteSpan> pieces, Deadline deadline);
/// Gives the kernel what it takes without waiting, and returns how much that is. 0 also when the
/// socket has failed, which the next operation on it tells.
std::size_t send_at_once(const UniqueFd& socket, ByteSpan bytes);
/// Fills the whole span. kUnavailable when the peer closes before its first byte, kTruncated when
/// it closes in the middle, kTimeout at the deadline.
Result<void> receive_all(const UniqueFd& socket, MutableByteSpan to, Deadline deadline);

/// Waits for some bytes and returns how many came; 0 when the peer has closed.
Result<std::size_t> receive_some(const UniqueFd& socket, MutableByteSpan to, Deadline deadline);

/// For a connection that may rest for ever on a thread of its own: its calls block from now on, and
/// keepalive tells within about two minutes that the other host has gone.
Result<void> make_blocking(const UniqueFd& socket);
/// Waits without a deadline for some bytes; 0 when the peer has closed. REQUIRES: make_blocking().
Result<std::size_t> receive_resting(const UniqueFd& socket, MutableByteSpan to);

/// Whether the peer is on this host: a UNIX socket, or both ends have the same address.
bool is_to_this_host(const UniqueFd& socket);
/// The CPU on which the socket's last packets were processed.
std::optional<int> incoming_cpu(const UniqueFd& socket);

/// Ends both directions; operations that wait on the socket return. The descriptor stays open.
void shut_down(const UniqueFd& socket);
/// Ends the sending direction alone: the peer reads to the end of what was sent.
void shut_down_sending(const UniqueFd& socket);
/// Ends the receiving direction alone: what waits to receive returns, replies still go out.
void shut_down_receiving(const UniqueFd& socket);

/// Sends bytes and descriptors in one message (SCM_RIGHTS). The descriptors stay the caller's.
Result<void> send_with_descriptors(const UniqueFd& socket, ByteSpan bytes,
                                   std::span<const int> descriptors, Deadline deadline);

struct Received {
  std::size_t bytes = 0;  // 0: the peer has closed
  std::vector<UniqueFd> descriptors;
  /// More were sent than limits::kMaxDescriptorsPerMessage, or than this process has numbers for.
  /// The kernel has closed the others.
  bool lost_descriptors = false;
};
/// Receives what is there without waiting, descriptors close-on-exec; nothing when there is
/// nothing yet.
Result<std::optional<Received>> receive_with_descriptors(const UniqueFd& socket,
                                                         MutableByteSpan to);

/// Looks at what is there without waiting and without taking it; nothing when there is nothing yet,
/// 0 bytes when the peer has closed.
Result<std::optional<std::size_t>> peek(const UniqueFd& socket, MutableByteSpan to);

/// Two ends of a connection on which messages, and descriptors with them, keep their bounds
/// (SOCK_SEQPACKET), non-blocking.
struct MessagePair {
  UniqueFd ours;
  UniqueFd theirs;
};
Result<MessagePair> create_message_pair();

/// Keeps open files alive without a descriptor number for each: they wait in the queue of the
/// socket that is returned, until that is closed.
Result<UniqueFd> hold_descriptors(std::span<const UniqueFd> descriptors);

/// Time since the boot, as the kernel notes when a process begins.
using BootTime = Nanoseconds;
BootTime boot_time();

/// How a process was found.
enum class PeerFoundBy {
  kSocket,  // SO_PEERPIDFD: it is the one that connected
  kNumber,  // Linux before 6.5: it has that one's pid and user, and had begun before
};
/// The process at the other end of a UNIX socket, as it was when it connected.
struct PeerProcess {
  pid_t pid;  // 0: its PID namespace is neither ours nor below ours
  /// Refers to that very process even if its pid is used again later. Not valid where the kernel
  /// has no SO_PEERPIDFD and the pid is 0.
  UniqueFd pidfd;
  uid_t user{};
  PeerFoundBy found_by{};
};
/// `seen`: when it was known that it had connected. Without SO_PEERPIDFD: kNotFound when it has
/// exited, kPermission when another process has its number.
Result<PeerProcess> peer_process(const UniqueFd& socket, BootTime seen = boot_time());
/// How that finds a process without SO_PEERPIDFD.
Result<UniqueFd> pidfd_by_number(pid_t pid, uid_t user, BootTime seen);
/// Whether this is root, or this process's user.
bool is_own_or_root(uid_t user);
/// The user of the process that connected, or at a client's end, of the one that listened.
Result<uid_t> peer_user(const UniqueFd& socket);
/// Whether a peer's process is named by the kernel in every PID namespace (SO_PEERPIDFD).
bool names_peers_everywhere(const UniqueFd& socket);

/// Refers to this process.
Result<UniqueFd> own_pidfd();
/// Whether the descriptor is the pidfd of a process whose PID namespace is neither ours nor below
/// ours. Such a process can be waited for and not be killed.
bool is_pidfd_of_unseen_process(const UniqueFd& descriptor);

/// SIGKILL through a pidfd. A process that is gone already is success. kPermission also when its
/// PID namespace is neither ours nor below ours.
Result<void> kill_process(const UniqueFd& pidfd);
/// Waits until the process has exited.
Result<void> wait_for_exit(const UniqueFd& pidfd, Deadline deadline);

}  // namespace thaw
