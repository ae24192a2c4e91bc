#include "faulthandler/server_names.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/log.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

std::vector<std::string> known_addresses(const std::vector<NamedServer>& known,
                                         const std::string& name) {
  const auto found = std::ranges::find(known, name, &NamedServer::name);
  return found == known.end() ? std::vector<std::string>() : found->addresses;
}

Result<std::vector<std::string>> resolve_one(const std::string& name,
                                             const TransportFlags& transport) {
  std::vector<std::string> texts;
  for (const ServerAddress& server : TRY(resolve_servers(name, transport, nullptr))) {
    texts.push_back(server.text());
  }
  return texts;
}

/// In which order a name server lists them means nothing.
bool are_the_same(std::vector<std::string> a, std::vector<std::string> b) {
  std::ranges::sort(a);
  std::ranges::sort(b);
  return a == b;
}

}  // namespace

std::vector<NamedServer> recall_names(const std::vector<std::string>& names,
                                      const std::vector<NamedServer>& known) {
  std::vector<NamedServer> servers;
  for (const std::string& name : names) {
    servers.push_back({name, known_addresses(known, name)});
    if (!servers.back().addresses.empty() || !is_numeric(name)) continue;
    if (const auto address = resolve_tcp(name)) servers.back().addresses = {address->text()};
  }
  return servers;
}

Result<std::vector<NamedServer>> resolve_names(const std::vector<std::string>& names,
                                               const std::vector<NamedServer>& known,
                                               const TransportFlags& transport) {
  std::vector<NamedServer> servers;
  for (const std::string& name : names) {
    auto addresses = resolve_one(name, transport);
    if (!addresses && addresses.error().code() != ErrorCode::kUnavailable) {
      return std::unexpected(addresses.error());
    }
    if (!addresses) {
      log_warning("page server {} does not resolve: {}", name, addresses.error().context());
      addresses = known_addresses(known, name);
    }
    servers.push_back({name, *std::move(addresses)});
  }
  return servers;
}

std::vector<ServerAddress> addresses_of(const std::vector<NamedServer>& names,
                                        const std::shared_ptr<TlsContext>& tls) {
  std::vector<ServerAddress> servers;
  for (const NamedServer& name : names) {
    bool has_loopback = false;
    for (const std::string& text : name.addresses) {
      const auto address = resolve_tcp(text);  // of numbers
      if (!address) continue;
      const auto host = split_host_and_port(name.name);  // none of a UNIX socket
      const auto same = [&](const ServerAddress& other) { return other.tcp == *address; };
      if (std::ranges::any_of(servers, same)) continue;
      // "localhost" is one server, which most often listens on one of its addresses.
      if (address->is_loopback() && std::exchange(has_loopback, true)) continue;
      if (servers.size() == limits::kMaxServers) {
        log_warning("page server {} of {} is one too many: {} are the limit", text, name.name,
                    limits::kMaxServers);
        continue;
      }
      servers.emplace_back(*address, host ? host->host : "", tls);
    }
  }
  return servers;
}

std::vector<std::string> unresolved_names(const std::vector<NamedServer>& names) {
  std::vector<std::string> unresolved;
  for (const NamedServer& server : names) {
    if (server.addresses.empty()) unresolved.push_back(server.name);
  }
  return unresolved;
}

struct SettingsWatch::State {
  State(HandlerSettings given, std::shared_ptr<TlsContext> context,
        std::function<void(const HandlerSettings&)> told)
      : settings(std::move(given)), tls(std::move(context)), on_change(std::move(told)) {}

  /// Whether the watch is over; waits so long for that.
  bool stopped_within(Nanoseconds time) {
    std::unique_lock lock(mutex);
    return wakeup.wait_for(lock, time, [this] { return stopped; });
  }
  void look_at_names(Clock::time_point now);
  void look_at_tls();
  void tell();
  void run();

  // Of the thread.
  HandlerSettings settings;
  const std::shared_ptr<TlsContext> tls;  // nullptr: there is none
  Clock::time_point next_resolution{};
  Nanoseconds pause{limits::kResolveFirst};  // while a name does not resolve
  bool changed = false;

  std::mutex mutex;
  std::condition_variable wakeup;
  bool stopped = false;  // guarded by mutex
  bool telling = false;  // guarded by mutex
  const std::function<void(const HandlerSettings&)> on_change;
};

void SettingsWatch::State::look_at_names(Clock::time_point now) {
  if (now < next_resolution || std::ranges::all_of(settings.servers, is_numeric)) return;
  bool all = true;
  for (NamedServer& server : settings.resolved) {
    if (is_numeric(server.name)) continue;
    auto addresses = resolve_one(server.name, settings.transport);
    if (addresses) {
      if (are_the_same(server.addresses, *addresses)) continue;
      log_info("page server {} resolves to {}", server.name, fmt::join(*addresses, ", "));
      server.addresses = *std::move(addresses);
      changed = true;
      continue;
    }
    all = false;
    log_warning("page server {} does not resolve: {}; {} of its addresses are known", server.name,
                addresses.error().context(), server.addresses.size());
  }
  pause = all ? Nanoseconds(limits::kResolveFirst)
              : std::min<Nanoseconds>(pause * 2, limits::kResolveInterval);
  next_resolution = Clock::now() + (all ? Nanoseconds(limits::kResolveInterval) : pause);
}

void SettingsWatch::State::look_at_tls() {
  if (tls == nullptr) return;
  tls->look();
  TlsPem pem = tls->pem();
  if (pem == settings.pem) return;
  settings.pem = std::move(pem);
  changed = true;
}

void SettingsWatch::State::run() {
  do {
    look_at_tls();
    look_at_names(Clock::now());
    if (std::exchange(changed, false)) tell();
  } while (!stopped_within(limits::kResolveFirst));
}

void SettingsWatch::State::tell() {
  {
    const std::lock_guard lock(mutex);
    if (stopped) return;
    telling = true;
  }
  on_change(settings);
  const std::lock_guard lock(mutex);
  telling = false;
  wakeup.notify_all();
}

SettingsWatch::SettingsWatch(HandlerSettings settings, std::shared_ptr<TlsContext> tls,
                             std::function<void(const HandlerSettings&)> on_change)
    : state_(std::make_shared<State>(std::move(settings), std::move(tls), std::move(on_change))) {
  // On its own: a name server may take longer than this process.
  std::thread([state = state_] { state->run(); }).detach();
}

SettingsWatch::~SettingsWatch() {
  std::unique_lock lock(state_->mutex);
  state_->stopped = true;
  state_->wakeup.notify_all();
  state_->wakeup.wait(lock, [this] { return !state_->telling; });
}

}  // namespace thaw
