#include "bench/hostile_tenant.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <thread>

#include <fmt/core.h>

#include "base/clock.h"
#include "base/cpu.h"
#include "bench/figures.h"
#include "format/page_client.h"
#include "tests/support/authority.h"
#include "tests/support/programs.h"
#include "tests/support/scratch_directory.h"
#include "tests/support/test_support.h"

namespace thaw::bench {

namespace {

constexpr std::size_t kPages = 4096;
constexpr std::size_t kOfferPages = 4096;
constexpr std::size_t kOffers = 8;
/// Connections of the flood of each kind.
constexpr int kFloodOfEach = 4;
constexpr double kPercentile = 0.99;

double microseconds_of(const std::function<Result<void>()>& act, Result<void>& done) {
  const Clock::time_point begun = Clock::now();
  done = act();
  return std::chrono::duration<double, std::micro>(Clock::now() - begun).count();
}

Result<double> percentile(std::size_t times, const std::function<Result<void>()>& act) {
  std::vector<double> all;
  for (std::size_t i = 0; i < times; ++i) {
    Result<void> done;
    all.push_back(microseconds_of(act, done));
    TRY(std::move(done));
  }
  return quantile(all, kPercentile);
}

/// A page server with two tenants.
class Tenants {
 public:
  Tenants() {
    test::write_file(scratch_.path("image"), test::make_image(1, kPages));
    for (const char* const name : {"quiet", "loud"}) {
      std::vector<std::string> push = test::tls_flags(authority_.issue(name));
      for (const std::string& word :
           {std::string("--namespace"), std::string(name), std::string("push"),
            std::string("there"), std::string("--memory"), scratch_.path("image")}) {
        push.push_back(word);
      }
      pushed_ = pushed_ && server_.thaw(push).exit_code == 0;
    }
  }
  bool pushed() const { return pushed_; }

  Result<PageClient> connect(const std::string& tenant,
                             message::Role role = message::Role::kControl) const {
    const TlsFiles files{.certificate = authority_.path(tenant + ".pem"),
                         .key = authority_.path(tenant + "-key.pem"),
                         .authority = authority_.path("ca.pem")};
    return PageClient::connect(TRY(resolve_server(server_.address(), {files, false})), tenant,
                               role);
  }
  /// A chunk of the tenant's snapshot.
  Result<ChunkId> chunk(const std::string& tenant) const {
    PageClient client = TRY(connect(tenant));
    const PageMap map = TRY(client.page_map(TRY(client.show("there"))));
    for (PageMap::Cursor cursor(map); !cursor.at_end(); cursor.next()) {
      if (!cursor.run().zero()) return cursor.run().chunk;
    }
    return fail(ErrorCode::kCorrupt, "an image of zeros");
  }

 private:
  static test::Surroundings surroundings(const test::ScratchDirectory& scratch,
                                         const TlsFiles& files) {
    return {.cpus = {},
            .messages = scratch.path("log"),
            .environment = {{"THAW_TLS_CERT", files.certificate},
                            {"THAW_TLS_KEY", files.key},
                            {"THAW_TLS_CA", files.authority},
                            {"THAW_ALLOW_ALL", "1"}}};
  }

  const test::ScratchDirectory scratch_{"/dev/shm"};
  const test::Authority authority_;
  test::PageServer server_{scratch_.path("store"), 0,
                           surroundings(scratch_, authority_.issue("server"))};
  bool pushed_ = true;
};

/// Offers of pages that are nowhere, which cost the server a look-up each.
Result<void> offer(PageClient& client, std::mt19937_64& generator) {
  TRY(client.begin_push({.name = "never",
                         .memory = {kOffers * kOfferPages * kPageBytes},
                         .state = {},
                         .regions = {},
                         .labels = {},
                         .cpu_vendor = {}}));
  std::vector<Sha256> hashes(kOfferPages);
  for (std::size_t i = 0; i < kOffers; ++i) {
    for (Sha256& hash : hashes) {
      for (auto& byte : hash)
        byte = static_cast<std::remove_reference_t<decltype(byte)>>(generator());
    }
    TRY(client.send_offer({{i * kOfferPages}, {kOfferPages}, empty_bitmap(kOfferPages)}, hashes));
    TRY(client.receive_needed(kOfferPages));
  }
  return {};
}

/// Everything that one certificate can ask for at once, until this goes.
class Flood {
 public:
  Flood(const Tenants& tenants, ChunkId chunk) {
    for (int i = 0; i < kFloodOfEach; ++i) {
      add(tenants, message::Role::kControl,
          [generator = std::mt19937_64(static_cast<unsigned>(i))](PageClient& client) mutable {
            return offer(client, generator);
          });
      add(tenants, message::Role::kControl, [](PageClient& client) -> Result<void> {
        TRY(client.usage(""));
        TRY(client.list());
        TRY(client.statistics());
        return {};
      });
      add(tenants, message::Role::kDemand, [chunk](PageClient& client) -> Result<void> {
        TRY(client.request_chunks({chunk}));
        TRY(client.receive_chunks());
        return {};
      });
    }
  }

  /// How many times one of these was done so far.
  std::uint64_t asked() const { return asked_; }

 private:
  template <typename Ask>
  void add(const Tenants& tenants, message::Role role, Ask ask) {
    threads_.emplace_back([this, &tenants, role, ask](const std::stop_token& stop) mutable {
      // The flood comes from elsewhere: its own work is not to cost the server a CPU.
      static_cast<void>(set_scheduling_class(0, SchedulingClass::kBackground));
      auto client = tenants.connect("loud", role);
      while (client && !stop.stop_requested() && ask(*client)) ++asked_;
    });
  }

  std::atomic<std::uint64_t> asked_ = 0;
  std::vector<std::jthread> threads_;  // the last member: they use the other
};

}  // namespace

Result<std::vector<Figure>> run_hostile_tenant(const HostileTenantPlan& plan) {
  const Tenants tenants;
  if (!tenants.pushed()) return fail(ErrorCode::kIo, "the tenants' snapshots were not stored");
  // The quiet peer, too, is another host: it does not wait for a CPU of the server's.
  take_precedence();
  const ChunkId chunk = TRY(tenants.chunk("quiet"));
  const ChunkId loud_chunk = TRY(tenants.chunk("loud"));
  PageClient demand = TRY(tenants.connect("quiet", message::Role::kDemand));
  const auto list = [&]() -> Result<void> {
    PageClient client = TRY(tenants.connect("quiet"));
    TRY(client.list());
    return {};
  };
  const auto fault = [&]() -> Result<void> {
    TRY(demand.request_chunks({chunk}));
    TRY(demand.receive_chunks());
    return {};
  };
  const double list_alone = TRY(percentile(plan.lists, list));
  const double fault_alone = TRY(percentile(plan.demands, fault));
  const Flood flood(tenants, loud_chunk);
  const double list_beside = TRY(percentile(plan.lists, list));
  const double fault_beside = TRY(percentile(plan.demands, fault));
  const std::string note = fmt::format(
      "p99 beside a tenant that floods, {} times meanwhile; floor: alone", flood.asked());
  return std::vector<Figure>{{.name = "pageserver.hostile.ls",
                              .unit = "us",
                              .value = list_beside,
                              .floor = list_alone,
                              .n = plan.lists,
                              .note = "connection and listing, " + note},
                             {.name = "pageserver.hostile.demand",
                              .unit = "us",
                              .value = fault_beside,
                              .floor = fault_alone,
                              .n = plan.demands,
                              .note = "one page, " + note}};
}

}  // namespace thaw::bench
