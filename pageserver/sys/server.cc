#include "pageserver/sys/server.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include <boost/asio.hpp>
#include <unistd.h>

#include "base/background_task.h"
#include "base/cpu.h"
#include "base/event_fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/peer_network.h"
#include "base/service_manager.h"
#include "format/limits.h"
#include "pageserver/limits.h"
#include "pageserver/peer.h"
#include "pageserver/strangers.h"
#include "pageserver/sys/fair_threads.h"
#include "pageserver/sys/page_threads.h"
#include "pageserver/within_memory.h"

namespace thaw {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Protocol = asio::generic::stream_protocol;  // TCP, or UNIX sockets
using boost::system::error_code;
using Strand = asio::strand<asio::io_context::executor_type>;
using Socket = asio::basic_stream_socket<Protocol, Strand>;

constexpr auto kUseAwaitable = asio::as_tuple(asio::use_awaitable);
constexpr Nanoseconds kFirstAcceptPause = limits::milliseconds(100);
/// Of a message: memory for so much is there before it comes.
constexpr std::size_t kFirstPieceBytes = limits::kSmallBodyBytes;

/// Where the work of all connections runs.
struct Executors {
  /// `pages_ended` as PageThreads says.
  explicit Executors(std::function<void()> pages_ended) : pages(std::move(pages_ended)) {}

  PageThreads pages;
  FairThreads quick{{limits::kQuickThreads, limits::kQuickThreadsOfIdentity}};
  FairThreads bulk{{.threads = limits::kBulkThreads,
                    .of_identity = limits::kBulkThreadsOfIdentity,
                    .takes_long_turns = true}};
  FairThreads census{{.threads = 1, .of_identity = 1, .takes_long_turns = true}};
  /// The store takes writes from one thread at a time.
  FairThreads writer{{1, 1}};

  /// For what a request does before it writes.
  FairThreads& threads_for(const Message& message) {
    return is_quick(message) ? quick : is_census(message) ? census : bulk;
  }
};

/// Whom the upkeep of the store works for. No certificate's identity has a space.
const Tenant kUpkeep{.identity = "the store", .name_space = {}};

/// A certificate makes no peer a user of this host.
std::string identity_of(const TlsPeer& peer) {
  std::string identity = peer.identity();
  return identity.starts_with(kUserIdentity) ? std::string() : identity;
}

TcpAddress address_of(const Protocol::endpoint& endpoint) {
  TcpAddress address;
  address.length = static_cast<socklen_t>(endpoint.size());
  std::memcpy(&address.storage, endpoint.data(), endpoint.size());
  return address;
}

/// Who may connect to a UNIX socket. What peers may do is decided by their users, not by this.
/// Without a policy these are root and the server's user. A fault handler that is root and has
/// given up its rights over files connects as a member of the server's group.
Result<void> let_connect(const TcpAddress& address, const std::string& policy) {
  constexpr unsigned kUser = 0600;
  constexpr unsigned kGroup = 0660;
  constexpr unsigned kAll = 0666;
  const unsigned mode = !policy.empty() ? kAll : ::geteuid() == 0 ? kUser : kGroup;
  std::error_code error;
  std::filesystem::permissions(address.unix_path(), std::filesystem::perms(mode), error);
  if (error) return fail_errno("chmod " + address.unix_path(), error.value());
  return {};
}

/// What the log calls a peer, and whose share of the slots for strangers it takes.
struct PeerName {
  std::string text;
  std::string network;
};

/// A peer on a UNIX socket is identified by its user, and has that user's share.
Result<PeerName> name_peer(Socket& socket, Peer& peer) {
  error_code ignored;
  const Protocol::endpoint remote = socket.remote_endpoint(ignored);
  if (remote.protocol().family() != AF_UNIX) {
    const TcpAddress address = address_of(remote);
    return PeerName{address.text(), peer_network(address)};
  }
  ucred user{};
  socklen_t length = sizeof(user);
  if (::getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &user, &length) != 0) {
    return fail_errno("SO_PEERCRED");
  }
  std::string identity = fmt::format("{}{}", kUserIdentity, user.uid);
  peer.identify(identity);
  return PeerName{fmt::format("process {} of user {}", user.pid, user.uid), std::move(identity)};
}

/// One peer's socket. Lives as long as one of its two coroutines. On its strand, but for the
/// requests that serve() takes to the bulk threads, during which nothing else touches them.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  /// `tls` is nullptr for plain TCP; `network` as Stranger says.
  Connection(Socket socket, std::shared_ptr<TlsContext> tls, std::string remote,
             std::string network, Peer peer, Executors& executors)
      : socket_(std::move(socket)),
        tls_context_(std::move(tls)),
        remote_(std::move(remote)),
        network_(std::move(network)),
        watchdog_(socket_.get_executor()),
        peer_(std::move(peer)),
        executors_(executors) {
    peer_.come_from(network_);
  }

  void start() {
    asio::co_spawn(socket_.get_executor(), serve(shared_from_this()), asio::detached);
    asio::co_spawn(socket_.get_executor(), watch(shared_from_this()), asio::detached);
  }

  /// Whether it has not been answered a hello yet. Any thread.
  bool is_stranger() const { return stranger_; }
  /// Any thread.
  Stranger stranger() const {
    if (stage_ != StrangerStage::kShown) return {network_, stage_};
    // What the policy does not name is refused with its hello, and until then has shown nothing.
    if (!named_) return {network_, StrangerStage::kSpoke};
    return {network_, StrangerStage::kShown, peer_.identity()};
  }
  /// Closes at once, for another. Any thread.
  void make_room() {
    asio::post(socket_.get_executor(), [self = shared_from_this()] {
      if (!self->stranger_) return;
      self->displaced_ = true;
      self->close();
    });
  }
  /// The certificate; nothing before it was shown, and without TLS. Any thread.
  std::optional<TlsPeer> shown() const {
    return stage_ == StrangerStage::kShown ? shown_ : std::nullopt;
  }
  const std::string& remote() const { return remote_; }
  /// Closes at once, with the request that is under way unanswered. Any thread.
  void leave() {
    asio::post(socket_.get_executor(), [self = shared_from_this()] {
      self->left_ = self->stopping_ = true;
      self->close();
    });
  }
  /// Closes now if no request is under way, else after its reply. Any thread.
  void stop() {
    asio::post(socket_.get_executor(), [self = shared_from_this()] {
      self->stopping_ = true;
      if (self->idle_) self->close();
    });
  }

 private:
  struct Request {
    std::uint64_t id = 0;
    Message message;
    Bytes body;
    Result<void> accepted;  // else it is not to be answered but refused
  };

  asio::awaitable<void> serve([[maybe_unused]] std::shared_ptr<Connection> self) {
    Result<void> secured = co_await hear();
    if (secured) {
      secured = co_await secure();
      if (!secured) {
        log_refusal(secured.error());
        co_await linger();
      }
    } else {
      log_refusal(secured.error());
    }
    while (secured && !stopping_) {
      Result<Request> request = co_await receive(stranger_ ? kGreeting : kFullMessages);
      if (!request) {
        log_refusal(request.error());
        // A peer that has gone needs no answer; one that speaks badly gets it and is left.
        if (request.error().code() != ErrorCode::kUnavailable) {
          Reply refusal = error_reply(request.error());
          co_await send(0, refusal);
        }
        break;
      }
      Result<Reply> reply = co_await answer(*request);
      std::optional<PageThreads::Place> place;
      if (stranger_ && reply && peer_.role() != message::Role::kControl) {
        if (auto taken = executors_.pages.take_place()) {
          place.emplace(*std::move(taken));
        } else {
          log_refusal(taken.error());
          reply = std::unexpected(taken.error());
        }
      }
      const bool fatal = stranger_ && !reply;
      if (reply) stranger_ = false;
      if (!reply) reply = error_reply(reply.error());
      const bool sent = co_await send(request->id, *reply);
      if (!sent) break;
      if (fatal) {
        co_await linger();
        break;
      }
      if (place) {
        watchdog_.cancel();
        UniqueFd released(socket_.release());
        place->serve(Stream(std::move(released), std::move(tls_)), std::move(peer_), remote_);
        co_return;
      }
    }
    close();
  }

  /// A peer that has gone is no event; the others are counted in the log when they are many.
  void log_refusal(const Error& error) const {
    if (left_) return;
    if (displaced_) {
      log_warning(LogKind("strangers displaced"),
                  "closed {}: it said no hello, and newer peers came", remote_);
    } else if (error.code() != ErrorCode::kUnavailable) {
      log_warning(LogKind("refused peers", error), "refused {}: {}", remote_, error.message());
    }
  }

  asio::awaitable<Result<Reply>> answer(const Request& request) {
    if (!request.accepted) co_return std::unexpected(request.accepted.error());
    if (stranger_) co_return peer_.hello(request.message);
    Result<Peer::Step> step = Peer::NeedsTurn{};
    for (unsigned turns = 0; step && !std::holds_alternative<Reply>(*step);) {
      if (std::holds_alternative<Peer::NeedsTurn>(*step)) {
        if (turns > 0) co_await pause(limits::kBuildTurnInterval);
        if (turns > limits::kMostBuildTurns || (turns > 0 && stopping_)) {
          co_return fail(ErrorCode::kBusy, "another peer's request is making the working set");
        }
        ++turns;
        co_await do_on(executors_.threads_for(request.message),
                       [&] { step = peer_.handle(request.message, request.body); });
      } else if (std::holds_alternative<Peer::NeedsBuild>(*step)) {
        co_await do_on(executors_.bulk, [&] { step = peer_.build(request.message); });
      } else {
        co_await do_on(executors_.writer, [&] { step = peer_.finish_write(request.message); });
      }
    }
    if (!step) co_return std::unexpected(step.error());
    co_return std::get<Reply>(*std::move(step));
  }

  asio::awaitable<void> pause(Nanoseconds time) {
    asio::steady_timer timer(socket_.get_executor(), time);
    co_await timer.async_wait(kUseAwaitable);
  }

  /// Has `work` done by these threads when it is this peer's turn, and comes back to the strand.
  template <typename Work>
  asio::awaitable<void> do_on(FairThreads& threads, Work work) {
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(
        [this, &threads, &work](auto resume) {
          threads.submit(peer_.tenant(), [this, &work, resume = std::move(resume)]() mutable {
            work();
            asio::post(socket_.get_executor(), std::move(resume));
          });
        },
        asio::use_awaitable);
  }

  /// How large a request may be, and how long the peer may be silent before it.
  struct Patience {
    std::size_t header_bytes;
    std::size_t body_bytes;
    Nanoseconds silence;
  };
  static constexpr Patience kFullMessages{limits::kMaxHeaderBytes, limits::kMaxBodyBytes,
                                          limits::kIdlePushTimeout};
  static constexpr Patience kGreeting{limits::kMaxGreetingBytes, 0, limits::kPartialMessageTimeout};

  asio::awaitable<Result<Request>> receive(Patience patience) {
    std::array<std::byte, kWireHeadBytes> prefix;
    peer_.release_body();
    idle_ = true;
    arm(patience.silence);
    Result<void> first = co_await fill(asio::buffer(prefix.data(), 1));
    idle_ = false;
    if (!first && first.error().code() == ErrorCode::kTls) co_return std::unexpected(first.error());
    if (!first) co_return fail(ErrorCode::kUnavailable, "the peer has gone");
    arm(limits::kPartialMessageTimeout);
    Result<void> filled = co_await fill(asio::buffer(prefix) + 1);
    if (!filled) co_return std::unexpected(filled.error());
    const auto head = decode_wire_head(prefix);
    if (!head) co_return std::unexpected(head.error());
    if (head->header_bytes > patience.header_bytes || head->body_bytes > patience.body_bytes) {
      co_return fail(ErrorCode::kTooLarge, "a greeting of {} + {} bytes", head->header_bytes,
                     head->body_bytes);
    }
    Bytes header;
    Request request;
    filled = co_await receive_part(header, head->header_bytes);
    if (filled) filled = co_await receive_body(request, head->body_bytes);
    if (!filled) co_return std::unexpected(filled.error());
    arm(Nanoseconds::max());
    auto envelope = decode_message(header);
    if (!envelope) co_return std::unexpected(envelope.error());
    request.id = envelope->request_id;
    request.message = std::move(envelope->message);
    co_return request;
  }

  /// Memory is taken as bytes come: what a peer only announces costs nothing. The next size of
  /// what is to become `whole`.
  static std::size_t next_size(const Bytes& part, std::size_t whole) {
    return std::min(whole, std::max(2 * part.size(), kFirstPieceBytes));
  }
  static Result<void> resize(Bytes& part, std::size_t size) {
    return within_memory([&]() -> Result<void> {
      part.resize(size);
      return {};
    });
  }

  asio::awaitable<Result<void>> receive_part(Bytes& to, std::size_t size) {
    while (to.size() < size) {
      const std::size_t filled = to.size();
      Result<void> received = resize(to, next_size(to, size));
      if (received) received = co_await fill(asio::buffer(to) + filled);
      if (!received) co_return received;
    }
    co_return Result<void>();
  }

  /// A body for which there is no memory is read and forgotten, so that the peer is told why.
  asio::awaitable<Result<void>> receive_body(Request& request, std::size_t size) {
    while (request.body.size() < size) {
      const std::size_t filled = request.body.size();
      const std::size_t next = next_size(request.body, size);
      if (next > limits::kSmallBodyBytes) request.accepted = peer_.hold_body(next);
      if (request.accepted) request.accepted = resize(request.body, next);
      if (!request.accepted) {
        request.body = Bytes();
        peer_.release_body();
        co_return co_await skip(size - filled);
      }
      Result<void> received = co_await fill(asio::buffer(request.body) + filled);
      if (!received) co_return received;
    }
    co_return Result<void>();
  }

  asio::awaitable<Result<void>> skip(std::size_t bytes) {
    std::array<std::byte, 4096> scratch;
    while (bytes > 0) {
      const std::size_t next = std::min(bytes, scratch.size());
      Result<void> received = co_await fill(asio::buffer(scratch.data(), next));
      if (!received) co_return received;
      bytes -= next;
    }
    co_return Result<void>();
  }

  /// Waits for the first byte, before which a peer gets no memory for TLS.
  asio::awaitable<Result<void>> hear() {
    idle_ = true;
    arm(limits::kFirstByteTimeout);
    // async_wait() may end without cause: for what a descriptor before had, of the same number.
    std::byte first;
    const auto [error, n] = co_await socket_.async_receive(
        asio::buffer(&first, 1), asio::socket_base::message_peek, kUseAwaitable);
    if (timed_out_) {
      co_return fail(ErrorCode::kTimeout, "it sent nothing in {} s",
                     limits::kFirstByteTimeout.count());
    }
    if (error) co_return fail(ErrorCode::kUnavailable, "the peer has gone");
    stage_ = StrangerStage::kSpoke;
    if (tls_context_ == nullptr) co_return Result<void>();
    auto session = tls_context_->begin();
    if (!session) co_return std::unexpected(session.error());
    tls_ = *std::move(session);
    co_return Result<void>();
  }

  /// Both sides show who they are.
  asio::awaitable<Result<void>> secure() {
    if (!tls_) co_return Result<void>();
    arm(limits::kHandshakeTimeout);
    while (!stopping_) {
      const auto done = tls_->shake_hands();
      const bool sent = co_await send_outbox();  // after a failure it says why
      if (!done) co_return std::unexpected(done.error());
      if (*done) {
        shown_ = tls_->peer();
        if (shown_) peer_.identify(identity_of(*shown_));
        named_ = peer_.is_named();
        stage_ = StrangerStage::kShown;
        co_return Result<void>();
      }
      if (!sent) co_return fail(ErrorCode::kUnavailable, "the peer has gone");
      const Result<void> received = co_await receive_sealed();
      if (!received) co_return received;
    }
    co_return fail(ErrorCode::kStopped, "the server stops");
  }

  /// Lets the peer read why it is refused: closed with bytes unread, the connection would be reset.
  asio::awaitable<void> linger() {
    error_code ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
    arm(limits::kRefusalTimeout);
    std::array<std::byte, 4096> rest;
    for (std::size_t bytes = 0; bytes < limits::kTlsInboxBytes;) {
      const auto [error, n] = co_await socket_.async_read_some(asio::buffer(rest), kUseAwaitable);
      if (error) break;
      bytes += n;
    }
  }

  asio::awaitable<bool> send_outbox() {
    if (tls_->outbox().empty()) co_return true;
    const auto [error, n] =
        co_await asio::async_write(socket_, asio::buffer(tls_->outbox()), kUseAwaitable);
    tls_->outbox().clear();
    co_return !error;
  }

  asio::awaitable<Result<void>> receive_sealed() {
    const MutableByteSpan inbox = tls_->inbox();
    const auto [error, n] =
        co_await socket_.async_read_some(asio::buffer(inbox.data(), inbox.size()), kUseAwaitable);
    if (timed_out_) co_return fail(ErrorCode::kTimeout, "the peer stopped in the middle");
    if (error) co_return fail(ErrorCode::kTruncated, "the peer went away: {}", error.message());
    tls_->received(n);
    co_return Result<void>();
  }

  asio::awaitable<Result<void>> fill_unsealed(MutableByteSpan to) {
    while (!to.empty()) {
      const auto plain = tls_->read(to);
      const bool sent = co_await send_outbox();
      if (!plain) co_return std::unexpected(plain.error());
      if (*plain == 0) {
        if (!sent || tls_->closed()) co_return fail(ErrorCode::kTruncated, "the peer has ended");
        const Result<void> received = co_await receive_sealed();
        if (!received) co_return received;
      }
      to = to.subspan(*plain);
    }
    co_return Result<void>();
  }

  asio::awaitable<Result<void>> fill(asio::mutable_buffer buffer) {
    if (tls_) {
      co_return co_await fill_unsealed({static_cast<std::byte*>(buffer.data()), buffer.size()});
    }
    const auto [error, n] = co_await asio::async_read(socket_, buffer, kUseAwaitable);
    if (!error) co_return Result<void>();
    if (timed_out_) co_return fail(ErrorCode::kTimeout, "a message stopped after {} bytes", n);
    co_return fail(ErrorCode::kTruncated, "a message ended early: {}", error.message());
  }

  /// Head and body in one write; the body goes out of the store's memory.
  asio::awaitable<bool> send(std::uint64_t request_id, Reply& reply) {
    if (!reply.owned.empty()) reply.pieces.push_back(reply.owned);
    std::size_t body_bytes = 0;
    for (const ByteSpan piece : reply.pieces) body_bytes += piece.size();
    Bytes head;
    encode_message(reply.message, request_id, body_bytes, head);
    reply.pieces.insert(reply.pieces.begin(), head);
    arm(limits::kRequestTimeout);
    const bool sent = co_await send_pieces(reply.pieces);
    arm(Nanoseconds::max());
    co_return sent;
  }

  asio::awaitable<bool> send_pieces(const std::vector<ByteSpan>& pieces) {
    if (tls_) {
      if (!tls_->write(pieces)) co_return false;
      co_return co_await send_outbox();
    }
    std::vector<asio::const_buffer> buffers;
    for (const ByteSpan piece : pieces) buffers.emplace_back(piece.data(), piece.size());
    const auto [error, n] = co_await asio::async_write(socket_, buffers, kUseAwaitable);
    co_return !error;
  }

  static Reply error_reply(const Error& error) {
    return {.message = to_reply(error), .owned = {}, .pieces = {}, .pin = {}};
  }

  /// The peer has this long for its next step, and for all of them up to its hello.
  void arm(Nanoseconds patience) {
    deadline_ = patience == Nanoseconds::max() ? Clock::time_point::max() : Clock::now() + patience;
    if (stranger_) deadline_ = std::min(deadline_, came_ + limits::kHelloTimeout);
    watchdog_.expires_at(deadline_);
  }

  asio::awaitable<void> watch([[maybe_unused]] std::shared_ptr<Connection> self) {
    while (socket_.is_open()) {
      co_await watchdog_.async_wait(kUseAwaitable);
      if (Clock::now() < deadline_) continue;
      timed_out_ = true;
      error_code ignored;
      socket_.shutdown(Socket::shutdown_both, ignored);
      socket_.cancel(ignored);
      deadline_ = Clock::time_point::max();
      watchdog_.expires_at(deadline_);
    }
  }

  void close() {
    error_code ignored;
    socket_.close(ignored);
    watchdog_.cancel();
  }

  Socket socket_;
  const std::shared_ptr<TlsContext> tls_context_;
  std::optional<TlsSession> tls_;
  std::optional<TlsPeer> shown_;  // fixed from kShown on
  bool named_ = false;            // the same: the policy names it
  const std::string remote_;
  const std::string network_;
  asio::steady_timer watchdog_;
  const Clock::time_point came_ = Clock::now();
  Clock::time_point deadline_ = Clock::time_point::max();
  std::atomic<bool> stranger_ = true;
  std::atomic<StrangerStage> stage_ = StrangerStage::kSilent;
  bool displaced_ = false;
  bool left_ = false;
  bool timed_out_ = false;
  bool idle_ = false;
  bool stopping_ = false;
  Peer peer_;
  Executors& executors_;
};

/// Accepts connections and remembers them weakly, for the stop. On one strand.
class Acceptor {
 public:
  /// `access` must outlive it; nullptr: every peer may do everything. `last_time_unix_ms` is the
  /// store's.
  Acceptor(asio::io_context& context, Store& store, const ServerOptions& options, Access* access,
           std::uint64_t last_time_unix_ms)
      : strand_(asio::make_strand(context)),
        acceptor_(strand_),
        files_timer_(strand_),
        alive_timer_(strand_),
        context_(context),
        store_(store),
        options_(options),
        server_(options.store_id, options.pin_grace),
        access_(access) {
    server_.use = options_.use;
    server_.access = access;
    server_.most_connections = options_.descriptors.connections;
    if (options_.use == StoreUse::kReplica) return;
    server_.time.begin(last_time_unix_ms);
    jobs_.emplace(store_, server_.pins, server_.pushes, server_.time, options_.upkeep,
                  [this](auto work) { executors_.writer.submit(kUpkeep, std::move(work)); });
    server_.jobs = &*jobs_;
  }

  Result<std::string> listen() {
    const TcpAddress& wanted = options_.listen;
    UniqueFd listener = TRY(listen_tcp(wanted));
    if (wanted.is_unix()) TRY(let_connect(wanted, options_.policy));
    error_code error;
    acceptor_.assign(Protocol(wanted.storage.ss_family, 0), listener.get(), error);
    if (error) return fail_errno("listen on " + wanted.text(), error.value());
    static_cast<void>(listener.release());
    return wanted.is_unix() ? wanted.text() : address_of(acceptor_.local_endpoint()).text();
  }

  void start() {
    asio::co_spawn(strand_, accept(), asio::detached);
    if (access_ != nullptr || options_.tls != nullptr) {
      asio::co_spawn(strand_, follow_files(), asio::detached);
    }
    if (const auto interval = manager_.alive_interval()) {
      asio::co_spawn(strand_, tell_alive(*interval), asio::detached);
    }
    manager_.ready();
  }

  /// Reads certificate and policy again, away from the threads that answer.
  void reload() { reload_.request(); }

  void stop() {
    asio::post(strand_, [this] {
      error_code ignored;
      acceptor_.close(ignored);
      files_timer_.cancel();
      alive_timer_.cancel();
      manager_.stopping();
      for (const auto& weak : connections_) {
        if (const auto connection = weak.lock()) connection->stop();
      }
    });
  }

  void join() {
    if (jobs_) store_.stop_compacting();
    server_.jobs = nullptr;
    jobs_.reset();
    executors_.pages.stop();
    executors_.quick.join();
    executors_.bulk.join();
    executors_.census.join();
    executors_.writer.join();
  }

 private:
  /// What they say counts for peers that are here, too.
  asio::awaitable<void> follow_files() {
    while (acceptor_.is_open()) {
      files_timer_.expires_after(limits::kPolicyInterval);
      co_await files_timer_.async_wait(kUseAwaitable);
      if (access_ != nullptr) access_->refresh();
      if (options_.tls == nullptr) continue;
      options_.tls->look();
      leave_refused();
    }
  }

  /// After a change of whom TLS trusts: closes the connections of peers who could make no new one.
  void leave_refused() {
    const std::uint64_t generation = options_.tls->trust_generation();
    if (std::exchange(trusted_in_, generation) == generation) return;
    struct Left {
      std::size_t connections = 0;
      std::string why;
    };
    std::map<std::string, Left> all_left;
    const auto refused = [&](const TlsPeer& peer, const std::string& remote) {
      const auto trusted = options_.tls->check(peer);
      if (trusted) return false;
      const std::string identity = peer.identity();
      Left& left = all_left[identity.empty() ? remote : identity];
      ++left.connections;
      left.why = trusted.error().message();
      return true;
    };
    for (const auto& weak : connections_) {
      const auto connection = weak.lock();
      const auto shown = connection == nullptr ? std::nullopt : connection->shown();
      if (shown && refused(*shown, connection->remote())) connection->leave();
    }
    executors_.pages.leave(refused);
    for (const auto& [peer, left] : all_left) {
      log_warning(LogKind("peers that TLS refuses by now"), "left {} (connections: {}): {}", peer,
                  left.connections, left.why);
    }
  }

  /// All connections' coroutines run on the thread that this one runs on.
  asio::awaitable<void> tell_alive(Nanoseconds interval) {
    while (acceptor_.is_open()) {
      manager_.alive();
      alive_timer_.expires_after(interval);
      co_await alive_timer_.async_wait(kUseAwaitable);
    }
  }

  /// Those that are strangers still, oldest first.
  std::vector<std::shared_ptr<Connection>> strangers() {
    std::vector<std::shared_ptr<Connection>> found;
    std::erase_if(strangers_, [&](const auto& weak) {
      auto connection = weak.lock();
      if (connection == nullptr || !connection->is_stranger()) return true;
      found.push_back(std::move(connection));
      return false;
    });
    return found;
  }

  /// For one more stranger, of this network.
  void make_room(std::string_view network) {
    const auto connections = strangers();
    std::vector<Stranger> as_they_are;
    for (const auto& connection : connections) as_they_are.push_back(connection->stranger());
    const std::size_t all = options_.descriptors.strangers;
    const StrangerSlots slots{.all = all,
                              .of_network = limits::kMostStrangersOfNetwork,
                              .of_identity = limits::kMostShownOfIdentity,
                              .for_newcomers = all / limits::kNewcomersPart};
    const auto leaves = stranger_to_leave(as_they_are, network, slots);
    if (!leaves) return;
    connections[*leaves]->make_room();
    strangers_.erase(std::next(strangers_.begin(), static_cast<std::ptrdiff_t>(*leaves)));
  }

  /// Nothing can be accepted now: those that are here go on, new ones wait in the system's queue.
  asio::awaitable<void> wait_for_room(const error_code& error, Nanoseconds& pause) {
    if (pause == kFirstAcceptPause) log_warning("accept: {}; new peers wait", error.message());
    for (const auto& stranger : strangers()) stranger->make_room();
    asio::steady_timer timer(strand_, pause);
    pause = std::min<Nanoseconds>(2 * pause, limits::kAcceptPauseMost);
    co_await timer.async_wait(kUseAwaitable);
  }

  asio::awaitable<void> accept() {
    Nanoseconds pause = kFirstAcceptPause;
    while (acceptor_.is_open()) {
      auto [error, socket] =
          co_await acceptor_.async_accept(asio::make_strand(context_), kUseAwaitable);
      if (error == asio::error::operation_aborted) co_return;
      if (error) {
        co_await wait_for_room(error, pause);
        continue;
      }
      if (std::exchange(pause, kFirstAcceptPause) != kFirstAcceptPause) {
        log_info("accept: peers are taken again");
      }
      std::erase_if(connections_, [](const auto& weak) { return weak.expired(); });
      error_code ignored;
      Peer peer(store_, server_, options_.kept_recordings);
      auto name = name_peer(socket, peer);
      if (!name) continue;
      make_room(name->network);
      socket.set_option(tcp::no_delay(true), ignored);
      socket.set_option(asio::socket_base::keep_alive(true), ignored);
      auto connection =
          std::make_shared<Connection>(std::move(socket), options_.tls, std::move(name->text),
                                       std::move(name->network), std::move(peer), executors_);
      connections_.push_back(connection);
      strangers_.push_back(connection);
      connection->start();
    }
  }

  Strand strand_;
  asio::basic_socket_acceptor<Protocol, Strand> acceptor_;
  asio::steady_timer files_timer_;
  asio::steady_timer alive_timer_;
  ServiceManager manager_;
  asio::io_context& context_;
  Store& store_;
  const ServerOptions options_;
  ServerCommon server_;
  Access* const access_;
  Executors executors_{
      [this] { asio::post(strand_, [this] { executors_.pages.forget_ended(); }); }};
  std::optional<Jobs> jobs_;
  std::list<std::weak_ptr<Connection>> connections_;
  std::list<std::weak_ptr<Connection>> strangers_;  // among others, oldest first
  std::uint64_t trusted_in_ = 0;                    // TLS's generation that peers were checked in
  BackgroundTask reload_{[this] {
    if (options_.tls != nullptr) options_.tls->reload();
    if (access_ != nullptr) access_->reload();
  }};
};

/// Ends after the signal to stop.
asio::awaitable<void> obey_signals(asio::posix::stream_descriptor& incoming,
                                   const UniqueFd& signals, Acceptor& acceptor) {
  while (true) {
    const auto [error] =
        co_await incoming.async_wait(asio::posix::stream_descriptor::wait_read, kUseAwaitable);
    if (error) co_return acceptor.stop();
    const int signal = next_signal(signals);
    if (signal == SIGHUP) {
      log_info("signal {}: reloading", signal);
      reopen_log();
      acceptor.reload();
    } else if (signal != 0) {
      log_info("signal {}: finishing what is under way", signal);
      co_return acceptor.stop();
    }
  }
}

}  // namespace

Result<void> run_server(Store& store, const ServerOptions& options, const UniqueFd& signals,
                        const std::function<void(const std::string& address)>& ready) {
  std::unique_ptr<Access> access;
  if (options.listen.is_unix() || !options.policy.empty()) {
    const auto user = options.listen.is_unix() ? std::optional(::geteuid()) : std::nullopt;
    access = TRY(Access::load(options.policy, user));
  }
  const std::uint64_t last_time = TRY(store.last_time_unix_ms());
  asio::io_context context;
  std::optional<Acceptor> acceptor;
  try {
    acceptor.emplace(context, store, options, access.get(), last_time);
  } catch (const std::system_error& error) {
    return fail_errno("starting the server's threads", error.code().value());
  }
  const std::string address = TRY(acceptor->listen());
  asio::posix::stream_descriptor incoming(context, TRY(duplicate(signals)).release());
  asio::co_spawn(context, obey_signals(incoming, signals, *acceptor), asio::detached);
  acceptor->start();
  ready(address);
  take_precedence();  // all requests come and all replies go by this thread
  context.run();
  acceptor->join();
  return {};
}

}  // namespace thaw
