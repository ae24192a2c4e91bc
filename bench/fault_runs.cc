#include "bench/fault_runs.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/clock.h"
#include "bench/cpu.h"
#include "bench/floors.h"

namespace thaw::bench {

namespace {

constexpr std::size_t kFloorRepetitions = 1000;

std::string name_of(const std::string& kind, const Placement& placement) {
  return kind + "." + placement.name;
}

/// A VM and one that attacks the handler have a CPU each: who gets a CPU is the host's to say.
constexpr Placement kApart = kPlacements.back();
static_assert(kApart.guest_cpu != kApart.handler_cpu);

}  // namespace

FaultPlan fault_plan(Effort effort) {
  if (effort == Effort::kQuick) {
    return {.repetitions = 3,
            .touches = 400,
            .parallel_touches = 1600,
            .sequential_touches = 2000,
            .sessions = 8,
            .session_touches = 200,
            .idle = std::chrono::milliseconds(300)};
  }
  return {.repetitions = 5,
          .touches = 2000,
          .parallel_touches = 8000,
          .sequential_touches = 8000,
          .sessions = 64,
          .session_touches = 400,
          .idle = std::chrono::seconds(2)};
}

FaultRuns::FaultRuns(const BenchOptions& options, FaultPlan plan, Samples& samples, ImageFile image)
    : options_(options),
      plan_(plan),
      samples_(samples),
      generator_(options.seed),
      image_(std::move(image)),
      kinds_(sort_pages(image_)) {}

Result<std::unique_ptr<FaultRuns>> FaultRuns::start(const BenchOptions& options, FaultPlan plan,
                                                    Samples& samples) {
  if (std::thread::hardware_concurrency() < kPlacementCpus) {
    return fail(ErrorCode::kUnsupported, "the placements need {} CPUs", kPlacementCpus);
  }
  ImageFile image = TRY(ImageFile::open(options.image));
  std::unique_ptr<FaultRuns> runs(new FaultRuns(options, plan, samples, std::move(image)));
  const std::size_t most = std::max({plan.touches, plan.parallel_touches, plan.sequential_touches});
  if (runs->kinds_.content.size() < most || runs->kinds_.zero.size() < plan.touches) {
    return fail(ErrorCode::kInvalidArgument,
                "{} has {} zero and {} other pages; {} and {} are needed", options.image,
                runs->kinds_.zero.size(), runs->kinds_.content.size(), plan.touches, most);
  }
  TRY(runs->start_programs());
  return runs;
}

Result<void> FaultRuns::start_programs() {
  const unsigned server_cpu = kPlacements.front().server_cpu;
  const std::string pulled = scratch_.path("pulled");
  placed_server_.emplace(
      scratch_.path("placed"), 0,
      test::Surroundings{
          .cpus = {server_cpu}, .messages = scratch_.path("placed.log"), .host = "127.0.0.1"});
  TRY(push_image(*placed_server_, options_.image, pulled));
  free_server_.emplace(
      scratch_.path("free"), 0,
      test::Surroundings{.cpus = {}, .messages = scratch_.path("free.log"), .host = "127.0.0.1"});
  TRY(push_image(*free_server_, options_.image, pulled));
  for (const Placement& placement : kPlacements) {
    placed_.push_back(TRY(Handler::start(scratch_.path(placement.name), placed_server_->address(),
                                         handler_flags(placement))));
  }
  const TlsFiles files = authority_.issue("server");
  test::Surroundings over_tls{
      .cpus = {server_cpu}, .messages = scratch_.path("tls.log"), .host = "127.0.0.1"};
  over_tls.environment = {{"THAW_TLS_CERT", files.certificate},
                          {"THAW_TLS_KEY", files.key},
                          {"THAW_TLS_CA", files.authority},
                          {"THAW_ALLOW_ALL", "1"}};
  tls_server_.emplace(scratch_.path("tls_store"), 0, over_tls);
  const std::vector<std::string> tls = test::tls_flags(authority_.issue("client"));
  TRY(push_image(*tls_server_, options_.image, pulled, tls));
  std::vector<std::string> flags = handler_flags(kPlacements.front());
  flags.insert(flags.end(), tls.begin(), tls.end());
  tls_.emplace(TRY(Handler::start(scratch_.path("tls"), tls_server_->address(), flags)));
  plain_.emplace(
      TRY(Handler::start(scratch_.path("plain"), free_server_->address(), {"--around", "1"})));
  around_.emplace(TRY(Handler::start(scratch_.path("around"), free_server_->address(), {})));
  chunk_reads_.emplace(TRY(ChunkReads::open(scratch_.path("free"))));
  return {};
}

std::vector<std::uint32_t> FaultRuns::pick(const std::vector<std::uint32_t>& pages,
                                           std::size_t count) {
  std::vector<std::uint32_t> picked;
  picked.reserve(count);
  std::sample(pages.begin(), pages.end(), std::back_inserter(picked), count, generator_);
  std::shuffle(picked.begin(), picked.end(), generator_);
  return picked;
}

Result<void> FaultRuns::repeat() {
  TRY(measure_floors());
  TRY(measure_placements());
  TRY(measure_tls());
  TRY(measure_default());
  TRY(measure_parallel());
  TRY(measure_around());
  TRY(measure_sequential());
  TRY(measure_sessions());
  TRY(measure_idle());
  return measure_hostile();
}

Result<void> FaultRuns::measure_floors() {
  std::vector<PageSpan> pages;
  for (const std::uint32_t page : pick(kinds_.content, plan_.touches)) {
    pages.push_back(image_.page(page));
  }
  const FloorSample decompression = TRY(measure_decompression(pages));
  const FloorSample read = TRY(chunk_reads_->measure(generator_, kFloorRepetitions));
  samples_.add("decompression_floor", decompression.us);
  samples_.add("read_floor", read.us);
  for (const Placement& placement : kPlacements) {
    const FloorSample fault = TRY(measure_fault(placement, kFloorRepetitions));
    const FloorSample request = TRY(measure_request(placement, kFloorRepetitions));
    const double serving_cpu_us = fault.own_cpu_us + request.own_cpu_us + request.peer_cpu_us +
                                  decompression.own_cpu_us + read.own_cpu_us;
    samples_.add(name_of("fault_floor", placement), fault.us);
    samples_.add(name_of("request_floor", placement), request.us);
    samples_.add(name_of("floor", placement), fault.us + request.us + decompression.us + read.us);
    samples_.add(name_of("serving_cpu_floor", placement), serving_cpu_us);
    samples_.add(name_of("cpu_floor", placement), serving_cpu_us + fault.peer_cpu_us);
  }
  return {};
}

Result<void> FaultRuns::measure_placements() {
  for (std::size_t i = 0; i < kPlacements.size(); ++i) {
    const Placement& placement = kPlacements[i];
    Guest guest = TRY(Guest::start(placed_[i], options_.image, placement.guest_cpu));
    const Guest::Touched zeros = TRY(guest.touch(pick(kinds_.zero, plan_.touches)));
    const Guest::Touched content = TRY(guest.touch(pick(kinds_.content, plan_.touches)));
    TRY(guest.verify_and_end());
    samples_.add(name_of("fault.local", placement) + ".p50", median(zeros.us));
    samples_.add(name_of("fault.remote", placement) + ".p50", median(content.us));
    samples_.add(name_of("fault.remote", placement) + ".p99", quantile(content.us, 0.99));
  }
  return {};
}

Result<void> FaultRuns::measure_tls() {
  Guest guest = TRY(Guest::start(*tls_, options_.image, kPlacements.front().guest_cpu));
  const Guest::Touched content = TRY(guest.touch(pick(kinds_.content, plan_.touches)));
  TRY(guest.verify_and_end());
  samples_.add("fault.remote.tls.p50", median(content.us));
  samples_.add("fault.remote.tls.p99", quantile(content.us, 0.99));
  return {};
}

Result<void> FaultRuns::measure_default() {
  Guest guest = TRY(Guest::start(*plain_, options_.image));
  const Guest::Touched zeros = TRY(guest.touch(pick(kinds_.zero, plan_.touches)));
  const double before =
      TRY(process_cpu_us(plain_->pid())) + TRY(process_cpu_us(free_server_->pid()));
  const Guest::Touched content = TRY(guest.touch(pick(kinds_.content, plan_.touches)));
  const double after =
      TRY(process_cpu_us(plain_->pid())) + TRY(process_cpu_us(free_server_->pid()));
  TRY(guest.verify_and_end());
  samples_.add("fault.zero.p50", median(zeros.us));
  samples_.add("fault.remote.default.p50", median(content.us));
  samples_.add("fault.remote.default.p99", quantile(content.us, 0.99));
  samples_.add("fault.cpu_us_per_fault", (after - before) / static_cast<double>(plan_.touches));
  return {};
}

Result<void> FaultRuns::measure_parallel() {
  Guest guest = TRY(Guest::start(*plain_, options_.image));
  const auto pages = pick(kinds_.content, plan_.parallel_touches);
  const Guest::Touched touched = TRY(guest.touch(pages, kParallelThreads));
  TRY(guest.verify_and_end());
  samples_.add("fault.remote.faults_per_s", static_cast<double>(pages.size()) / touched.seconds);
  return {};
}

Result<void> FaultRuns::measure_around() {
  Guest guest = TRY(Guest::start(*around_, options_.image));
  const double wanted = kShareTouched * static_cast<double>(kinds_.content.size());
  const auto pages = pick(kinds_.content, static_cast<std::size_t>(wanted));
  const Guest::Touched touched = TRY(guest.probe(pages));
  const std::size_t present = TRY(guest.count_present());
  TRY(guest.verify_and_end());
  const std::size_t faulted = pages.size() - touched.present;
  const std::size_t brought = present - std::min(present, faulted);
  samples_.add("around.brought", static_cast<double>(brought));
  // Where nothing was brought, nothing was brought in vain.
  samples_.add(
      "fault.around.hit_rate",
      brought == 0 ? 1 : static_cast<double>(touched.present) / static_cast<double>(brought));
  return {};
}

Result<double> FaultRuns::sequential_rate(Handler& handler, std::span<const std::uint32_t> pages) {
  Guest guest = TRY(Guest::start(handler, options_.image));
  const Guest::Touched touched = TRY(guest.touch(pages));
  TRY(guest.verify_and_end());
  return static_cast<double>(pages.size()) / touched.seconds;
}

Result<void> FaultRuns::measure_sequential() {
  const std::size_t room = kinds_.content.size() - plan_.sequential_touches;
  const std::size_t first = std::uniform_int_distribution<std::size_t>(0, room)(generator_);
  const auto pages = std::span(kinds_.content).subspan(first, plan_.sequential_touches);
  const double single = TRY(sequential_rate(*plain_, pages));
  const double around = TRY(sequential_rate(*around_, pages));
  samples_.add("fault.around.sequential_speedup", around / single);
  return {};
}

Result<void> FaultRuns::measure_sessions() {
  std::vector<Guest> guests;
  guests.reserve(plan_.sessions);
  for (std::size_t i = 0; i < plan_.sessions; ++i) {
    guests.push_back(TRY(Guest::start(*plain_, options_.image)));
  }
  for (Guest& guest : guests) {
    TRY(guest.begin_touch(pick(kinds_.content, plan_.session_touches), kParallelThreads));
  }
  std::vector<double> all;
  std::vector<double> medians;
  for (Guest& guest : guests) {
    const Guest::Touched touched = TRY(guest.finish_touch());
    all.insert(all.end(), touched.us.begin(), touched.us.end());
    medians.push_back(median(touched.us));
  }
  for (Guest& guest : guests) TRY(guest.verify_and_end());
  const auto [fastest, slowest] = std::minmax_element(medians.begin(), medians.end());
  samples_.add("fault.sessions64.p99", quantile(all, 0.99));
  samples_.add("sessions.unfairness", *slowest / *fastest);
  return {};
}

Result<void> FaultRuns::measure_hostile() {
  Guest alone = TRY(Guest::start(*plain_, options_.image, kApart.guest_cpu));
  const Guest::Touched touched = TRY(alone.touch(pick(kinds_.content, plan_.touches)));
  TRY(alone.verify_and_end());
  samples_.add("hostile.alone", quantile(touched.us, 0.99));
  for (const Attack& attack : kAttacks) {
    samples_.add(fmt::format("fault.hostile.{}.p99", attack.name), TRY(touch_beside(attack)));
  }
  return {};
}

Result<double> FaultRuns::touch_beside(const Attack& attack) {
  Guest guest = TRY(Guest::start(*plain_, options_.image, kApart.guest_cpu));
  const std::string socket = TRY(plain_->prepare(attack.kind));
  test::Program attacker({test::program_path("vmm"), socket, options_.image, attack.mode},
                         test::Surroundings{.cpus = {kApart.handler_cpu}, .messages = {}});
  // What the attack begins with is part of it.
  std::atomic<bool> is_at_it = false;
  std::optional<Error> failed;
  std::jthread waiting([&] {
    if (const auto said = attacker.wait_for_line(attack.at_it); !said) failed = said.error();
    is_at_it = true;
  });
  const auto pages = pick(kinds_.content, kinds_.content.size());
  std::span<const std::uint32_t> left(pages);
  std::vector<double> us;
  while (left.size() >= plan_.touches && (us.empty() || !is_at_it)) {
    const Guest::Touched touched = TRY(guest.touch(left.first(plan_.touches)));
    us = touched.us;
    left = left.subspan(plan_.touches);
  }
  waiting.join();
  if (failed) return std::unexpected(*failed);
  if (left.size() >= plan_.touches) {
    const Guest::Touched touched = TRY(guest.touch(left.first(plan_.touches)));
    us.insert(us.end(), touched.us.begin(), touched.us.end());
  }
  TRY(guest.verify_and_end());
  return quantile(us, 0.99);
}

Result<void> FaultRuns::measure_idle() {
  Guest guest = TRY(Guest::start(*around_, options_.image));
  const double before = TRY(process_cpu_us(around_->pid()));
  const Clock::time_point start = Clock::now();
  std::this_thread::sleep_for(plan_.idle);
  const double elapsed = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  const double after = TRY(process_cpu_us(around_->pid()));
  TRY(guest.verify_and_end());
  samples_.add("fault.idle.cpu_percent", 100 * (after - before) / elapsed);
  return {};
}

}  // namespace thaw::bench
