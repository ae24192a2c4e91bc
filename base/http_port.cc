#include "base/http_port.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <poll.h>

#include "base/clock.h"
#include "base/event_fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/peer_network.h"
#include "base/socket.h"
#include "base/thread.h"

namespace thaw {

namespace {

/// A request whose page is to be made, and then the reply to it.
struct Errand {
  std::uint64_t connection;
  HttpRequest request;
  std::string reply{};
};

/// The thread that makes pages which may wait. Locks itself; bounded by the connections, of which
/// each has one errand at most and evicted ones are taken out.
class PageMaker {
 public:
  PageMaker(const HttpPages& pages, const UniqueFd& made_some)
      : pages_(pages), made_some_(made_some) {}

  Result<void> start() {
    thread_ = TRY(start_thread([this](const std::stop_token& stop) { run(stop); }));
    return {};
  }

  void make(Errand errand) {
    {
      const std::lock_guard lock(mutex_);
      waiting_.push_back(std::move(errand));
    }
    changed_.notify_one();
  }
  void forget(std::uint64_t connection) {
    const std::lock_guard lock(mutex_);
    std::erase_if(waiting_, [&](const Errand& each) { return each.connection == connection; });
    std::erase_if(made_, [&](const Errand& each) { return each.connection == connection; });
  }
  std::vector<Errand> take_made() {
    clear_event_fd(made_some_);
    const std::lock_guard lock(mutex_);
    return std::exchange(made_, {});
  }

 private:
  void run(const std::stop_token& stop) {
    while (auto errand = next(stop)) {
      errand->reply = reply_by_http(pages_, std::move(errand->request));
      {
        const std::lock_guard lock(mutex_);
        made_.push_back(*std::move(errand));
      }
      signal_event_fd(made_some_);
    }
  }
  std::optional<Errand> next(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait(lock, stop, [this] { return !waiting_.empty(); })) return std::nullopt;
    Errand first = std::move(waiting_.front());
    waiting_.pop_front();
    return first;
  }

  const HttpPages& pages_;
  const UniqueFd& made_some_;
  std::mutex mutex_;
  std::deque<Errand> waiting_;  // guarded by mutex_
  std::vector<Errand> made_;    // guarded by mutex_
  std::condition_variable_any changed_;
  std::jthread thread_;
};

/// One client. On the polling thread.
class Client {
 public:
  Client(std::uint64_t id, std::string network, UniqueFd socket)
      : id_(id), network_(std::move(network)), socket_(std::move(socket)) {}

  std::uint64_t id() const { return id_; }
  const std::string& network() const { return network_; }
  const UniqueFd& socket() const { return socket_; }
  Deadline deadline() const { return deadline_; }
  bool ended() const { return step_ == Step::kEnded; }
  /// It has not asked for a page yet, or has its answer.
  bool idle() const { return step_ == Step::kAsks || step_ == Step::kReadsOn; }
  short events() const {
    switch (step_) {
      case Step::kAsks:
      case Step::kReadsOn:
        return POLLIN;
      case Step::kIsAnswered:
        return POLLOUT;
      case Step::kWaits:
      case Step::kEnded:
        return 0;
    }
    std::unreachable();
  }

  /// The whole request, once; a failure when it is none.
  std::optional<Result<HttpRequest>> on_events(short events) {
    if (step_ == Step::kAsks && (events & POLLIN) != 0) return receive();
    if (step_ == Step::kReadsOn && (events & POLLIN) != 0) {
      discard();
    } else if ((events & (POLLERR | POLLHUP)) != 0) {
      step_ = Step::kEnded;
    } else if (step_ == Step::kIsAnswered && (events & POLLOUT) != 0) {
      send_more();
    }
    return std::nullopt;
  }
  /// A failure for a client that took too long to ask; others just end.
  std::optional<Result<HttpRequest>> on_deadline() {
    if (step_ == Step::kAsks) return fail(ErrorCode::kTimeout, "no request within the time");
    step_ = Step::kEnded;
    return std::nullopt;
  }

  void wait_for_page() {
    step_ = Step::kWaits;
    deadline_ = Deadline::after(limits::kHttpPage);
  }
  /// What may come after the request: a client that sends still would lose the reply, because a
  /// connection that is closed with bytes unread is reset.
  enum class Rest { kNone, kIsRead };
  void answer(std::string reply, Rest rest) {
    reply_ = std::move(reply);
    rest_ = rest;
    step_ = Step::kIsAnswered;
    deadline_ = Deadline::after(limits::kHttpExchange);
    send_more();
  }

 private:
  enum class Step { kAsks, kWaits, kIsAnswered, kReadsOn, kEnded };

  /// Nothing where the poll was wrong; 0 when the peer has ended or failed.
  std::optional<std::size_t> receive_now(MutableByteSpan to) {
    const auto n = receive_some(socket_, to, Deadline::after(Nanoseconds(0)));
    if (n) return *n;
    if (n.error().code() == ErrorCode::kTimeout) return std::nullopt;
    return std::size_t{0};
  }

  std::optional<Result<HttpRequest>> receive() {
    std::array<std::byte, 2048> some;
    const auto n = receive_now(some);
    if (!n) return std::nullopt;
    if (*n == 0) {
      step_ = Step::kEnded;
      return std::nullopt;
    }
    const std::string_view piece = as_text(std::span(some).first(*n));
    received_ += piece;
    // A client that sends single bytes costs no parsing of all for each of them.
    const bool may_be_whole =
        piece.contains('\n') || received_.size() >= limits::kMaxHttpRequestBytes;
    if (!may_be_whole) return std::nullopt;
    auto request = parse_http_request(received_);
    if (!request) return std::unexpected(request.error());
    if (!*request) return std::nullopt;
    return **std::move(request);
  }

  void discard() {
    std::array<std::byte, 4096> some;
    if (receive_now(some) == 0) step_ = Step::kEnded;
  }

  void send_more() {
    sent_ += send_at_once(socket_, as_bytes(reply_).subspan(sent_));
    if (sent_ < reply_.size()) return;
    step_ = Step::kEnded;
    if (rest_ == Rest::kNone) return;
    shut_down_sending(socket_);
    step_ = Step::kReadsOn;
    deadline_ = Deadline::after(limits::kRefusalTimeout);
  }

  const std::uint64_t id_;
  const std::string network_;
  UniqueFd socket_;
  Step step_ = Step::kAsks;
  Deadline deadline_ = Deadline::after(limits::kHttpExchange);
  std::string received_;
  std::string reply_;
  std::size_t sent_ = 0;
  Rest rest_ = Rest::kNone;
};

}  // namespace

struct HttpPort::Parts {
  Parts(UniqueFd socket, HttpPages shown, UniqueFd event)
      : listener(std::move(socket)),
        pages(std::move(shown)),
        woken(std::move(event)),
        maker(pages, woken) {}

  void run(const std::stop_token& stop) {
    while (!stop.stop_requested()) turn();
  }

  void turn() {
    std::vector<pollfd> requests{{.fd = woken.get(), .events = POLLIN, .revents = 0}};
    const bool pausing = !accepting_again.passed();
    requests.push_back({.fd = pausing ? -1 : listener.get(), .events = POLLIN, .revents = 0});
    int patience = pausing ? accepting_again.milliseconds_left() : -1;
    for (const Client& client : clients) {
      requests.push_back({.fd = client.socket().get(), .events = client.events(), .revents = 0});
      const int left = client.deadline().milliseconds_left();
      if (left >= 0) patience = patience < 0 ? left : std::min(patience, left);
    }
    ::poll(requests.data(), requests.size(), patience);

    std::size_t at = 2;
    for (Client& client : clients) {
      const short events = requests[at++].revents;
      auto request = events != 0 ? client.on_events(events) : std::nullopt;
      if (!request && client.deadline().passed()) request = client.on_deadline();
      if (request) take(client, *std::move(request));
    }
    if (requests[0].revents != 0) {
      for (Errand& errand : maker.take_made()) give(std::move(errand));
    }
    std::erase_if(clients, [this](const Client& client) {
      if (client.ended()) maker.forget(client.id());
      return client.ended();
    });
    if (requests[1].revents != 0) accept();
  }

  void take(Client& client, Result<HttpRequest> request) {
    if (request && may_wait(pages, *request)) {
      client.wait_for_page();
      return maker.make({client.id(), *std::move(request)});
    }
    const bool refused = !request || request->method == HttpRequest::Method::kOther;
    client.answer(reply_by_http(pages, request),
                  refused ? Client::Rest::kIsRead : Client::Rest::kNone);
  }

  void give(Errand errand) {
    const auto client = std::ranges::find(clients, errand.connection, &Client::id);
    if (client != clients.end()) client->answer(std::move(errand.reply), Client::Rest::kNone);
  }

  void make_room() {
    std::map<std::string_view, std::size_t> of_network;
    for (const Client& client : clients) ++of_network[client.network()];
    // The first of those that are alike.
    const auto leaves = std::ranges::max_element(clients, {}, [&](const Client& client) {
      return std::pair(client.idle(), of_network[client.network()]);
    });
    maker.forget(leaves->id());
    clients.erase(leaves);
  }

  void accept() {
    auto socket = accept_connection(listener, Deadline::after(Nanoseconds(0)));
    if (!socket && socket.error().code() == ErrorCode::kTimeout) return;
    const bool full = clients.size() == limits::kHttpConnections;
    if (!clients.empty() && (!socket || full)) make_room();
    if (socket) {
      const auto address = peer_address(*socket);
      clients.emplace_back(next_id++, address ? peer_network(*address) : std::string(),
                           *std::move(socket));
    } else {
      // Out of descriptors, mostly: the client stays in the queue.
      log_error("HTTP: {}", socket.error().message());
      accepting_again = Deadline::after(limits::kAcceptPauseMost);
    }
  }

  const UniqueFd listener;
  const HttpPages pages;
  const UniqueFd woken;
  PageMaker maker;
  // Of the polling thread.
  std::list<Client> clients;  // the oldest first
  std::uint64_t next_id = 0;
  Deadline accepting_again = Deadline::after(Nanoseconds(0));
  std::jthread thread;
};

HttpPort::HttpPort(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

HttpPort::~HttpPort() {
  parts_->thread.request_stop();
  signal_event_fd(parts_->woken);
}

Result<std::unique_ptr<HttpPort>> HttpPort::open(UniqueFd listener, HttpPages pages) {
  auto parts =
      std::make_unique<Parts>(std::move(listener), std::move(pages), TRY(create_event_fd()));
  TRY(parts->maker.start());
  parts->thread = TRY(start_thread([&of = *parts](const std::stop_token& stop) { of.run(stop); }));
  return std::unique_ptr<HttpPort>(new HttpPort(std::move(parts)));
}

}  // namespace thaw
