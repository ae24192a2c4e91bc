#include "bench/restore_hosts.h"

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <thread>

#include "base/file.h"
#include "bench/fleet.h"
#include "format/control_channel.h"
#include "format/prepare_session.h"

namespace thaw::bench {

namespace {

constexpr const char* kNamespace = "default";
constexpr std::size_t kMostExportBytes = 256u << 20;
constexpr unsigned kFirstExportPort = 10810;
constexpr std::chrono::milliseconds kPollInterval{10};
constexpr const char* kAnswerScript = "bench/guests/answer.py";

/// Waits until something is so.
template <typename Predicate>
Result<void> wait_until(const std::string& what, Predicate predicate) {
  const Deadline deadline = Deadline::after(test::kPatience);
  while (!predicate()) {
    if (deadline.passed()) return fail(ErrorCode::kTimeout, "{}", what);
    std::this_thread::sleep_for(kPollInterval);
  }
  return {};
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Result<std::vector<SavedGuest>> load_guests(const std::string& directory) {
  std::error_code failed;
  std::vector<std::filesystem::path> places;
  for (const auto& entry : std::filesystem::directory_iterator(directory, failed)) {
    if (std::filesystem::exists(entry.path() / "recordings")) places.push_back(entry.path());
  }
  std::ranges::sort(places);
  std::vector<SavedGuest> guests;
  for (const std::filesystem::path& place : places) {
    const std::string path = place.string();
    SavedGuest guest{.name = place.filename().string(),
                     .directory = path,
                     .image = TRY(ImageFile::open(path + "/memory")),
                     .recordings = {}};
    const std::string exported = TRY(read_text_file(path + "/recordings", kMostExportBytes));
    guest.recordings = TRY(decode_recordings(as_bytes(exported)));
    if (guest.recordings.size() < 2) {
      return fail(ErrorCode::kInvalidArgument, "{} has {} recordings; 2 are needed", path,
                  guest.recordings.size());
    }
    guests.push_back(std::move(guest));
  }
  if (guests.empty()) return fail(ErrorCode::kInvalidArgument, "no saved guest in {}", directory);
  return guests;
}

Result<std::unique_ptr<RestoreHosts>> RestoreHosts::start(const std::vector<SavedGuest>& guests) {
  std::unique_ptr<RestoreHosts> hosts(new RestoreHosts());
  TRY(hosts->start_programs(guests));
  return hosts;
}

Result<void> RestoreHosts::start_programs(const std::vector<SavedGuest>& guests) {
  network_ = TRY(TwoHosts::create());
  TRY(network_->go_to_server());
  server_.emplace(
      scratch_.path("store"), 0,
      test::Surroundings{
          .cpus = {}, .messages = scratch_.path("server.log"), .host = TwoHosts::kServerAddress});
  for (const SavedGuest& guest : guests) {
    TRY(succeed(
        server_->thaw({"push", guest.name, "--memory", guest.memory(), "--state", guest.state()}),
        "thaw push"));
  }
  // Out of its log and into tables, then into memory.
  TRY(server_->stop());
  server_->start();
  unsigned port = kFirstExportPort;
  for (const SavedGuest& guest : guests) {
    const std::string pulled = memory_.path(guest.name);
    TRY(succeed(server_->thaw({"pull", guest.name, "--memory", pulled}), "thaw pull"));
    auto sender = std::make_unique<ImageSender>(TwoHosts::kServerAddress,
                                                compress_image(guest.image.bytes()));
    test::Program nbdkit(
        {"nbdkit", "--foreground", "--exit-with-parent", "--ipaddr", TwoHosts::kServerAddress,
         "--port", std::to_string(port), "file", guest.memory()},
        {.cpus = {}, .messages = scratch_.path("nbdkit.log"), .host = {}});
    const std::string address = fmt::format("{}:{}", TwoHosts::kServerAddress, port++);
    late_images_[guest.name] =
        TRY(DelayRelay::start(TwoHosts::kServerAddress, sender->address(), kDelay));
    late_exports_[guest.name] = TRY(DelayRelay::start(TwoHosts::kServerAddress, address, kDelay));
    images_.emplace(guest.name, std::move(sender));
    exports_.emplace(guest.name, Export{std::move(nbdkit), address});
  }
  late_server_ = TRY(DelayRelay::start(TwoHosts::kServerAddress, server_->address(), kDelay));
  TRY(network_->go_to_client());
  direct_ = TRY(start_handlers("direct", server_->address()));
  late_ = TRY(start_handlers("late", late_server_->address()));
  return {};
}

Result<RestoreHosts::Handlers> RestoreHosts::start_handlers(const std::string& name,
                                                            const std::string& server) {
  Handlers handlers;
  for (const auto& [around, window] :
       {std::pair{Around::kYes, "64"}, std::pair{Around::kNo, "1"}}) {
    const std::string base = scratch_.path(name + window);
    test::Program handler(
        {test::program_path("thaw-faulthandler"), "--insecure", "--control", base + ".control",
         "--server", server, "--around", window, "--record-every", "0"},
        {.cpus = {}, .messages = base + ".log", .host = {}});
    TRY(handler.wait_for_line("ready on "));
    handlers.emplace(around, Handler{base + ".control", std::move(handler)});
  }
  return handlers;
}

Result<void> RestoreHosts::use(const Link& link) {
  is_late_ = link.delay == Link::Delay::kRelay;
  return network_->set_rate(link.bits_per_s);
}

Result<WorkingSet> RestoreHosts::make_set(const SavedGuest& guest,
                                          const std::vector<Recording>& recordings) {
  const TcpAddress server = TRY(resolve_tcp(server_->address()));
  PageClient client = TRY(PageClient::connect(server, kNamespace));
  const Manifest manifest = TRY(client.show(guest.name));
  TRY(client.drop_working_set(manifest.snapshot));
  for (const Recording& recording : recordings) {
    TRY(client.put_recording(manifest.snapshot, recording));
  }
  return client.working_set(manifest.snapshot);
}

Result<test::Program> RestoreHosts::start_replay(const SavedGuest& guest,
                                                 std::span<const std::uint32_t> pages,
                                                 const std::vector<std::string>& source) {
  TRY(write_pages(pages_path(), pages));
  std::vector<std::string> command{test::program_path("thaw-bench-replay"), pages_path(),
                                   memory_.path(guest.name)};
  command.insert(command.end(), source.begin(), source.end());
  test::Program replay(command);
  TRY(replay.wait_for_line("ready"));
  return replay;
}

Result<Replayed> RestoreHosts::finish_replay(test::Program& replay, Clock::time_point start,
                                             std::uint64_t bytes_before) {
  const auto line = replay.wait_for_line("");
  Replayed replayed;
  replayed.wall_s = seconds_since(start);
  if (!line || !line->starts_with("done ")) {
    return fail(ErrorCode::kIo, "a replay said \"{}\"", line ? *line : line.error().message());
  }
  replayed.bytes = static_cast<double>(TRY(network_->bytes_received()) - bytes_before);
  std::istringstream words(line->substr(5));
  double total_ns = 0;
  double first_ns = 0;
  words >> total_ns >> first_ns;
  replayed.first_touch_us = first_ns / 1e3;
  replayed.touch_us = TRY(read_touch_times(pages_path()));
  return replayed;
}

Result<control::Prepared> RestoreHosts::prepare(const SavedGuest& guest, Brought brought,
                                                Around around, const std::string& socket,
                                                const std::string& state_out) {
  const control::Prepare request{.snapshot = guest.name,
                                 .socket = socket,
                                 .state_out = state_out,
                                 .name_space = {},
                                 .owner_uid = {},
                                 .owner_gid = {},
                                 .record = RecordMode::kNever,
                                 .prefetch = brought == Brought::kWorkingSet,
                                 .trace_out = {}};
  return prepare_session(handler(around).control, request);
}

Result<Replayed> RestoreHosts::replay_session(const SavedGuest& guest,
                                              std::span<const std::uint32_t> pages, Brought brought,
                                              Around around) {
  const std::string socket = scratch_.path(fmt::format("vm{}", ++names_));
  test::Program replay = TRY(start_replay(guest, pages, {"session", socket}));
  const std::uint64_t before = TRY(network_->bytes_received());
  const Clock::time_point start = Clock::now();
  const control::Prepared prepared = TRY(prepare(guest, brought, around, socket, ""));
  replay.tell("go");
  Replayed replayed = TRY(finish_replay(replay, start, before));
  const ControlReply reply = TRY(ask_fault_handler(handler(around).control, control::List{}));
  for (const SessionReport& report : std::get<HandlerReport>(reply).sessions) {
    if (report.session == prepared.session) replayed.session = report;
  }
  return replayed;
}

Result<Replayed> RestoreHosts::replay(const SavedGuest& guest, std::span<const std::uint32_t> pages,
                                      const std::vector<std::string>& source) {
  test::Program replay = TRY(start_replay(guest, pages, source));
  const std::uint64_t before = TRY(network_->bytes_received());
  const Clock::time_point start = Clock::now();
  replay.tell("go");
  return finish_replay(replay, start, before);
}

Result<Replayed> RestoreHosts::replay_local(const SavedGuest& guest,
                                            std::span<const std::uint32_t> pages) {
  return replay(guest, pages, {"file", memory_.path(guest.name)});
}

Result<Replayed> RestoreHosts::replay_download(const SavedGuest& guest,
                                               std::span<const std::uint32_t> pages) {
  const std::string path = memory_.path("downloaded");
  const std::string address =
      is_late_ ? late_images_.at(guest.name)->address() : images_.at(guest.name)->address();
  auto replayed = replay(guest, pages, {"download", address, path});
  remove_file(path);
  return replayed;
}

Result<Replayed> RestoreHosts::replay_nbd(const SavedGuest& guest,
                                          std::span<const std::uint32_t> pages) {
  const std::string mount = scratch_.path(fmt::format("nbd{}", ++names_));
  std::filesystem::create_directory(mount);
  const std::string address =
      is_late_ ? late_exports_.at(guest.name)->address() : exports_.at(guest.name).address;
  test::Program nbdfuse({"nbdfuse", mount + "/memory", "nbd://" + address},
                        {.cpus = {}, .messages = scratch_.path("nbdfuse.log"), .host = {}});
  TRY(wait_until("nbdfuse has mounted", [&] {
    std::error_code ignored;
    return std::filesystem::exists(mount + "/memory", ignored);
  }));
  auto replayed = replay(guest, pages, {"file", mount + "/memory"});
  TRY(succeed(test::run({"umount", mount}), "umount"));
  TRY(nbdfuse.wait());
  return replayed;
}

Result<double> RestoreHosts::first_output(const SavedGuest& guest, Brought brought) {
  const std::string base = scratch_.path(fmt::format("vm{}", ++names_));
  const Clock::time_point start = Clock::now();
  TRY(prepare(guest, brought, Around::kYes, base, base + ".state"));
  TRY(succeed(test::run({"env", "THAW_SOCKET=" + base, "THAW_STATE=" + base + ".state",
                         "THAW_RUN=1", "python3", kAnswerScript, guest.directory, "--preload",
                         test::program_path("thaw-qemu.so")}),
              kAnswerScript));
  return seconds_since(start);
}

Result<double> RestoreHosts::first_output_local(const SavedGuest& guest) {
  // The guest writes to it.
  const std::string copy = memory_.path("written");
  std::filesystem::copy_file(memory_.path(guest.name), copy);
  const Clock::time_point start = Clock::now();
  TRY(succeed(
      test::run({"env", "THAW_RUN=1", "python3", kAnswerScript, guest.directory, "--local", copy}),
      kAnswerScript));
  const double seconds = seconds_since(start);
  remove_file(copy);
  return seconds;
}

}  // namespace thaw::bench
