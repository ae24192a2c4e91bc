#include "bench/store_runs.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <thread>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "bench/backup_tools.h"
#include "bench/fleet.h"
#include "bench/sys/library_floors.h"

namespace thaw::bench {

namespace {

using Json = nlohmann::json;

/// Pages that stand for all when decompression is measured.
constexpr std::size_t kFloorPages = 4096;
/// Pages that filled stores are made of.
constexpr std::size_t kFillPages = 32768;
constexpr std::chrono::milliseconds kPollInterval{2};
/// Where stores, repositories and pulled images lie: how fast a disk takes them says nothing of
/// those who write them.
constexpr const char* kInMemory = "/dev/shm";

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A server whose messages go into a file, and whose jobs run as fast as they can.
test::Surroundings quiet(const test::ScratchDirectory& scratch) {
  return {.cpus = {},
          .messages = scratch.path("server.log"),
          .environment = {{"THAW_UPKEEP_MIB_S", "1048576"}}};
}

Result<void> compare(const ImageFile& pushed, const std::string& pulled) {
  const ImageFile image = TRY(ImageFile::open(pulled));
  if (std::ranges::equal(image.bytes(), pushed.bytes())) return {};
  return fail(ErrorCode::kCorrupt, "{} is not what was pushed", pulled);
}

/// Waits for programs that run at once and returns the most memory that one of them had.
Result<double> wait_for_all(std::vector<test::Program>& programs) {
  std::vector<std::size_t> peaks(programs.size());
  for (bool running = true; running;) {
    running = false;
    for (std::size_t i = 0; i < programs.size(); ++i) {
      const auto peak = test::peak_resident_bytes(programs[i].pid());
      if (!peak) continue;
      peaks[i] = *peak;
      running = true;
    }
    std::this_thread::sleep_for(kPollInterval);
  }
  for (test::Program& program : programs) {
    const int exit_code = TRY(program.wait());
    TRY(succeed({exit_code, program.rest_of_output()}, "thaw push"));
  }
  return static_cast<double>(std::ranges::max(peaks));
}

}  // namespace

StorePlan store_plan(Effort effort) {
  if (effort == Effort::kQuick) {
    return {.repetitions = 1,
            .few = 1'000,
            .many = 5'000,
            .most = 10'000,
            .warm_gets = 1'000,
            .cold_gets = 50};
  }
  return {.repetitions = 5,
          .few = 100'000,
          .many = 1'000'000,
          .most = 10'000'000,
          .warm_gets = 20'000,
          .cold_gets = 1'000};
}

Result<std::unique_ptr<StoreRuns>> StoreRuns::start(const BenchOptions& options, StorePlan plan,
                                                    Samples& samples) {
  std::unique_ptr<StoreRuns> runs(new StoreRuns(options, plan, samples));
  TRY(runs->load(options.guests));
  std::vector<IngestFloor::Source> sources;
  for (std::size_t i = 0; i < runs->guests_.size(); ++i) {
    sources.push_back(runs->source_of_push(i));
  }
  runs->one_by_one_ = std::make_unique<IngestFloor>(TRY(IngestFloor::of(sources)));
  sources.clear();
  for (std::size_t i = 0; i < kPushesAtOnce; ++i) sources.push_back(runs->source_of_push(i));
  runs->at_once_ = std::make_unique<IngestFloor>(TRY(IngestFloor::of(sources)));
  samples.add("frames", runs->one_by_one_->frame_bytes());
  return runs;
}

Result<void> StoreRuns::load(const std::string& directory) {
  std::error_code failed;
  std::vector<std::filesystem::path> places;
  for (const auto& entry : std::filesystem::directory_iterator(directory, failed)) {
    if (std::filesystem::exists(entry.path() / "memory")) places.push_back(entry.path());
  }
  std::ranges::sort(places);
  for (const std::filesystem::path& place : places) {
    const std::string path = place / "memory";
    ImageFile image = TRY(ImageFile::open(path));
    guests_.push_back({place.filename().string(), path, std::move(image)});
  }
  if (guests_.empty()) {
    return fail(ErrorCode::kInvalidArgument, "no saved guest in \"{}\"", directory);
  }
  return {};
}

Result<void> StoreRuns::repeat() {
  TRY(measure_floors());
  TRY(measure_one_by_one());
  TRY(measure_at_once());
  TRY(measure_tools());
  ++repetition_;
  return {};
}

Result<void> StoreRuns::measure_floors() {
  samples_.add("floor.ingest", one_by_one_->measure(IngestFloor::Store::kEmpty));
  samples_.add("floor.dup", one_by_one_->measure(IngestFloor::Store::kHasAll));
  samples_.add("floor.eight", at_once_->measure(IngestFloor::Store::kEmpty));
  const double hash_us = one_by_one_->hash_us();
  const FloorSample decompress = TRY(measure_decompression(one_by_one_->sample(kFloorPages)));
  samples_.add("floor.pull", static_cast<double>(one_by_one_->nonzero_pages()) *
                                 (hash_us + decompress.own_cpu_us) / 1e6 /
                                 std::thread::hardware_concurrency());
  return {};
}

Result<void> StoreRuns::measure_one_by_one() {
  const test::ScratchDirectory scratch(kInMemory);
  test::PageServer server(scratch.path("store"), 0, quiet(scratch));
  samples_.add("ingest", TRY(push_all(server, "first-")));
  samples_.add("dup", TRY(push_all(server, "again-")));
  samples_.add("pull", TRY(pull_all(server)));
  if (const auto peak = test::peak_resident_bytes(server.pid())) {
    samples_.add("server_peak", static_cast<double>(*peak));
  }
  TRY(measure_size(server, scratch.path("store")));
  return measure_collection(server, scratch.path("store"));
}

Result<double> StoreRuns::push_all(const test::PageServer& server, const std::string& prefix) {
  const Clock::time_point start = Clock::now();
  for (const Guest& guest : guests_) {
    TRY(succeed(server.thaw({"push", prefix + guest.name, "--memory", guest.path}), "thaw push"));
  }
  return seconds_since(start);
}

Result<double> StoreRuns::pull_all(const test::PageServer& server) {
  const test::ScratchDirectory scratch(kInMemory);
  const std::string pulled = scratch.path("pulled");
  double seconds = 0;
  for (const Guest& guest : guests_) {
    const Clock::time_point start = Clock::now();
    TRY(succeed(server.thaw({"pull", "first-" + guest.name, "--memory", pulled}), "thaw pull"));
    seconds += seconds_since(start);
    TRY(compare(guest.image, pulled));
    std::filesystem::remove(pulled);
  }
  return seconds;
}

/// What is in the log goes into tables when the server stops.
Result<double> StoreRuns::size_of(test::PageServer& server, const std::string& directory) {
  if (TRY(server.stop()) != 0) return fail(ErrorCode::kIo, "the page server did not stop well");
  const double bytes = directory_bytes(directory);
  server.start();
  return bytes;
}

Result<void> StoreRuns::measure_size(test::PageServer& server, const std::string& directory) {
  TRY(succeed(server.thaw({"compact"}), "thaw compact"));
  samples_.add("store", TRY(size_of(server, directory)));
  return {};
}

/// Deletes all guests but the first, or the only one: what it does not have is garbage.
Result<void> StoreRuns::measure_collection(test::PageServer& server, const std::string& directory) {
  for (std::size_t i = guests_.size() > 1 ? 1 : 0; i < guests_.size(); ++i) {
    for (const char* const prefix : {"first-", "again-"}) {
      TRY(succeed(server.thaw({"rm", prefix + guests_[i].name}), "thaw rm"));
    }
  }
  const double before = directory_bytes(directory);
  const Clock::time_point start = Clock::now();
  const test::Outcome collected = server.thaw({"gc"});
  samples_.add("gc", seconds_since(start));
  TRY(succeed(collected, "thaw gc"));
  samples_.add("gc_dead", Json::parse(collected.output)["counters"]["dead_bytes"]);
  samples_.add("gc_freed", before - TRY(size_of(server, directory)));
  return {};
}

Result<void> StoreRuns::measure_at_once() {
  const test::ScratchDirectory scratch(kInMemory);
  const test::PageServer server(scratch.path("store"), 0, quiet(scratch));
  std::vector<test::Program> pushes;
  const Clock::time_point start = Clock::now();
  for (std::size_t i = 0; i < kPushesAtOnce; ++i) {
    const Guest& guest = guest_of_push(i);
    pushes.emplace_back(std::vector<std::string>{
        test::program_path("thaw"), "--json", "--insecure", "--server", server.address(), "push",
        fmt::format("{}-{}", guest.name, i), "--memory", guest.path});
  }
  const double peak = TRY(wait_for_all(pushes));
  samples_.add("eight", seconds_since(start));
  samples_.add("push_peak", peak);
  return {};
}

/// What they take on the disk is the same every time.
Result<void> StoreRuns::measure_tools() {
  std::vector<std::string> files;
  for (const Guest& guest : guests_) files.push_back(guest.path);
  const test::ScratchDirectory restic(kInMemory);
  const Backup by_restic = TRY(back_up_with_restic(files, restic.path("")));
  samples_.add("restic", by_restic.seconds);
  if (repetition_ > 0) return {};
  samples_.add("restic_bytes", by_restic.bytes);
  for (const auto& [name, compression] :
       {std::pair{"borg_bytes", "lz4"}, std::pair{"borg_zstd_bytes", "zstd,1"}}) {
    const test::ScratchDirectory borg;
    samples_.add(name, TRY(back_up_with_borg(files, borg.path(""), compression)).bytes);
  }
  return {};
}

Result<std::vector<FilledStore>> StoreRuns::fill_stores(const std::string& directory) const {
  const std::vector<PageSpan> pages = one_by_one_->sample(kFillPages);
  std::vector<FilledStore> stores;
  for (const std::size_t chunks : {plan_.few, plan_.many, plan_.most}) {
    const std::string place = fmt::format("{}/store-{}", directory, chunks);
    stores.push_back(TRY(FilledStore::make(place, chunks, pages)));
  }
  return stores;
}

Result<void> StoreRuns::measure_gets() {
  constexpr std::array kNames{"get.few", "get.many", "get.most"};
  const test::ScratchDirectory scratch;
  std::vector<FilledStore> stores = TRY(fill_stores(kept_.empty() ? scratch.path("") : kept_));
  const auto measure = [&](std::size_t i, const std::string& name,
                           std::size_t count) -> Result<void> {
    const FilledStore::Gets gets = TRY(stores[i].get(generator_, count));
    samples_.add(name, gets.us);
    samples_.add(name + ".disk_bytes", gets.disk_bytes);
    return {};
  };
  for (std::size_t repetition = 0; repetition < plan_.repetitions; ++repetition) {
    for (std::size_t i = 0; i < stores.size(); ++i) {
      // The others may have taken its place in memory.
      TRY(stores[i].warm());
      TRY(measure(i, kNames[i], plan_.warm_gets));
    }
  }
  for (std::size_t repetition = 0; repetition < plan_.repetitions; ++repetition) {
    for (std::size_t i = 0; i < stores.size(); ++i) {
      TRY(stores[i].cool());
      TRY(measure(i, std::string(kNames[i]) + ".cold", plan_.cold_gets));
    }
  }
  return {};
}

double StoreRuns::bytes_of_pushes(std::size_t pushes) const {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < pushes; ++i) bytes += guest_of_push(i).image.bytes().size();
  return static_cast<double>(bytes);
}

double StoreRuns::largest_image() const {
  std::size_t bytes = 0;
  for (const Guest& guest : guests_) bytes = std::max(bytes, guest.image.bytes().size());
  return static_cast<double>(bytes);
}

IngestFloor::Source StoreRuns::source_of_push(std::size_t push) const {
  return {guest_of_push(push).path, guest_of_push(push).image};
}

}  // namespace thaw::bench
