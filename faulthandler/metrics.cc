#include "faulthandler/metrics.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <prometheus/text_serializer.h>

namespace thaw {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

/// Metrics of one name.
class Family {
 public:
  Family(std::string name, std::string help, MetricType type) {
    family_.name = "thaw_handler_" + std::move(name);
    family_.help = std::move(help);
    family_.type = type;
  }
  Family& add(double value, std::vector<ClientMetric::Label> labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    metric.counter.value = value;  // whichever of the two the type says
    metric.gauge.value = value;
    family_.metric.push_back(std::move(metric));
    return *this;
  }
  operator MetricFamily() const { return family_; }  // NOLINT(google-explicit-constructor)

 private:
  MetricFamily family_;
};

Family counter(std::string name, std::string help) {
  return {std::move(name) + "_total", std::move(help), MetricType::Counter};
}
Family gauge(std::string name, std::string help) {
  return {std::move(name), std::move(help), MetricType::Gauge};
}

std::uint64_t waiting_pages(const HandlerReport& handler) {
  std::uint64_t pages = 0;
  for (const SessionReport& session : handler.sessions) pages += session.waiting_pages;
  return pages;
}

Family sessions_by_state(const HandlerReport& handler) {
  Family family = gauge("sessions", "Sessions that there are, by state.");
  for (const SessionState state : {SessionState::kPrepared, SessionState::kServing,
                                   SessionState::kDetached, SessionState::kRefused}) {
    const auto count = std::ranges::count(handler.sessions, state, &SessionReport::state);
    family.add(static_cast<double>(count), {{"state", std::string(session_state_name(state))}});
  }
  return family;
}

/// Sessions for which there is too little memory, by what has to wait for it.
Family sessions_short_of_memory(const HandlerReport& handler) {
  std::uint64_t prefetch = 0;
  std::uint64_t demand = 0;
  for (const SessionReport& session : handler.sessions) {
    if (session.state == SessionState::kEnded) continue;
    if (session.prefetch.state == PrefetchState::kShortOfMemory) ++prefetch;
    if (session.memory_waiting_pages > 0) ++demand;
  }
  return gauge("sessions_short_of_memory", "Sessions for which there is too little memory.")
      .add(static_cast<double>(prefetch), {{"waits", "prefetch"}})
      .add(static_cast<double>(demand), {{"waits", "demand"}});
}

Family faults_by_kind(const FaultCounters& faults) {
  Family family = counter("faults", "Page faults of guests, by what resolved them.");
  for (const auto& [kind, count] : {std::pair{"fetched", faults.fetched},
                                    {"coalesced", faults.coalesced},
                                    {"zero", faults.zero},
                                    {"removed", faults.removed},
                                    {"present", faults.present}}) {
    family.add(static_cast<double>(count), {{"kind", kind}});
  }
  return family;
}

std::vector<MetricFamily> metrics(const HandlerReport& handler) {
  Family up = gauge("page_server_up", "0 while a page server that is needed is away.");
  Family away = gauge("page_server_away_seconds", "For how long a page server has been away.");
  Family requests = counter("page_server_requests", "Requests for pages that somebody waits for.");
  for (const ServerReport& server : handler.servers) {
    const std::vector<ClientMetric::Label> label{{"server", server.address}};
    up.add(server.state == ServerState::kAway ? 0 : 1, label);
    away.add(static_cast<double>(server.away_ms) / 1e3, label);
    requests.add(static_cast<double>(server.requests), label);
  }
  const SessionTotals& totals = handler.totals;
  return {
      sessions_by_state(handler),
      counter("sessions_begun",
              "Sessions since this process serves, those it took over among them.")
          .add(static_cast<double>(totals.sessions)),
      faults_by_kind(totals.faults),
      gauge("waiting_pages", "Pages that vCPUs wait for now.")
          .add(static_cast<double>(waiting_pages(handler))),
      sessions_short_of_memory(handler),
      counter("vmms_killed", "VMMs that a signal has ended, from any sender.")
          .add(static_cast<double>(totals.vmms_killed)),
      counter("poisoned_pages", "Pages that could not be had and that guests must not touch.")
          .add(static_cast<double>(totals.poisoned_pages)),
      counter("damaged", "Chunks and packs refused by their checksum.")
          .add(static_cast<double>(handler.damaged)),
      counter("unserved_seconds", "Time without a process that serves, before this one did.")
          .add(static_cast<double>(handler.unserved_us) / 1e6),
      gauge("index_bytes", "Memory that page maps of snapshots take.")
          .add(static_cast<double>(handler.index_bytes)),
      gauge("index_bytes_most", "Memory that page maps may take (--index-mib).")
          .add(static_cast<double>(handler.index_bytes_most)),
      counter("hedges", "Requests that went to a second page server, the first being slow.")
          .add(static_cast<double>(handler.hedges)),
      up,
      away,
      requests,
  };
}

}  // namespace

HttpPage metrics_page(const ControlReply& report) {
  if (const auto* error = std::get_if<Error>(&report)) return {503, error->message() + "\n"};
  const auto* const handler = std::get_if<HandlerReport>(&report);
  if (handler == nullptr) return {};
  return {200, prometheus::TextSerializer().Serialize(metrics(*handler))};
}

}  // namespace thaw
