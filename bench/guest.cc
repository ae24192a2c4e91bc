// A guest of the bench: has guest memory and touches the pages it is told to, measuring each touch.
// Never the bench itself: a fault handler may kill its guest.
//
//   thaw-bench-guest MEMORY SOCKET IMAGE [CPU]     CPU: where all its threads run; without:
//   anywhere
//
// MEMORY is where its pages come from:
//
//   own       memory of its own, handed over on SOCKET
//   shared    the host's image, handed over on SOCKET
//   file      the file IMAGE, mapped privately
//   present   a memory file with the content of IMAGE, mapped privately
//
// Prints "ready", then obeys lines on stdin, each with a line of reply, until stdin ends:
//
//   touch FILE THREADS   touches the pages whose numbers (32 bits each) are in FILE, in their order
//                        spread over the threads; the nanoseconds of each go to FILE.ns (64 bits
//                        each, those of one thread after those of another). "touched NANOSECONDS"
//   probe FILE           the same on one thread, and counts pages that are present before their
//                        touch. "touched NANOSECONDS PRESENT"
//   count                "present PAGES": how many pages are present
//   verify               "verified PAGES": all bytes of the pages present are those of the image
//
// Ends with a line that says why and exit code 1 when it cannot, or when a byte is wrong.

#include <charconv>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <latch>
#include <optional>
#include <sstream>
#include <thread>

#include <sys/mman.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mapping.h"
#include "base/memory_file.h"
#include "base/output.h"
#include "base/program.h"
#include "bench/cpu.h"
#include "bench/image.h"
#include "vmm-client/guest_memory.h"

namespace thaw::bench {
namespace {

constexpr std::chrono::seconds kPatience{10};

using Pages = std::vector<std::uint32_t>;

std::int64_t nanoseconds_since(Clock::time_point start) {
  return std::chrono::duration_cast<Nanoseconds>(Clock::now() - start).count();
}

Result<Pages> read_pages(const std::string& path) {
  const UniqueFd file = TRY(open_for_reading(path));
  Pages pages(TRY(file_size(file)).value / sizeof(std::uint32_t));
  TRY(read_at(file, std::as_writable_bytes(std::span(pages)), 0));
  return pages;
}

/// Guest memory in one piece, and what keeps it.
struct Memory {
  std::byte* start;
  std::optional<GuestMemory> served;
  Mapping mapped;  // when it is not served
};

Result<Memory> memory_of(GuestMemory served) {
  std::byte* const start = served.region(0).data();
  return Memory{start, std::move(served), {}};
}

Result<Memory> memory_of_file(const UniqueFd& file, ByteCount size) {
  Mapping mapped = TRY(Mapping::private_file(file, size));
  std::byte* const start = mapped.bytes().data();
  return Memory{start, std::nullopt, std::move(mapped)};
}

Result<Memory> make_memory(std::string_view kind, const std::string& socket,
                           const std::string& path, const ImageFile& image) {
  const ByteCount size{image.bytes().size()};
  const std::vector<GuestRegion> regions{{size, {kPageBytes}}};
  const Deadline deadline = Deadline::after(kPatience);
  if (kind == "own") {
    GuestMemory memory = TRY(GuestMemory::create(regions));
    TRY(memory.hand_over(socket, deadline));
    return memory_of(std::move(memory));
  }
  if (kind == "shared") return memory_of(TRY(GuestMemory::share(regions, socket, deadline)));
  if (kind == "file") return memory_of_file(TRY(open_for_reading(path)), size);
  if (kind != "present") return fail(ErrorCode::kInvalidArgument, "no memory \"{}\"", kind);
  const UniqueFd file = TRY(create_memory_file("present", size));
  TRY(write_at(file, image.bytes(), 0));
  return memory_of_file(file, size);
}

class Guest {
 public:
  Guest(Memory memory, ImageFile image) : memory_(std::move(memory)), image_(std::move(image)) {}

  Result<std::string> obey(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    std::string file;
    unsigned threads = 1;
    words >> command >> file >> threads;
    if (command == "touch") return touch(file, threads, Probing::kNo);
    if (command == "probe") return touch(file, 1, Probing::kYes);
    if (command == "count") return fmt::format("present {}", count_present());
    if (command == "verify") return verify();
    return fail(ErrorCode::kInvalidArgument, "no command \"{}\"", line);
  }

 private:
  enum class Probing { kNo, kYes };

  std::byte* page(std::size_t index) const { return memory_.start + index * kPageBytes; }
  bool is_present(std::size_t index) const {
    unsigned char state = 0;
    CHECK(::mincore(page(index), kPageBytes, &state) == 0);
    return (state & 1) != 0;
  }

  Result<std::string> touch(const std::string& file, unsigned threads, Probing probing) {
    const Pages pages = TRY(read_pages(file));
    for (const std::uint32_t number : pages) {
      if (number >= image_.pages()) return fail(ErrorCode::kInvalidArgument, "page {}", number);
    }
    touched_.insert(touched_.end(), pages.begin(), pages.end());
    std::vector<std::int64_t> latencies(pages.size());
    std::size_t present = 0;
    const auto touch_one = [&](std::size_t i) {
      if (probing == Probing::kYes && is_present(pages[i])) ++present;
      const volatile std::byte* const at = page(pages[i]);
      const Clock::time_point start = Clock::now();
      (void)*at;
      latencies[i] = nanoseconds_since(start);
    };
    const std::int64_t total = threads == 1 ? touch_in_order(pages.size(), touch_one)
                                            : touch_at_once(pages.size(), threads, touch_one);
    std::ofstream output(file + ".ns", std::ios::binary);
    output << as_text(std::as_bytes(std::span(latencies)));
    if (!output.flush()) return fail(ErrorCode::kIo, "writing {}.ns", file);
    return fmt::format("touched {} {}", total, present);
  }

  template <typename Touch>
  static std::int64_t touch_in_order(std::size_t count, Touch touch_one) {
    const Clock::time_point start = Clock::now();
    for (std::size_t i = 0; i < count; ++i) touch_one(i);
    return nanoseconds_since(start);
  }

  template <typename Touch>
  static std::int64_t touch_at_once(std::size_t count, unsigned threads, Touch touch_one) {
    std::latch ready(threads + 1);
    std::vector<std::jthread> touchers;
    touchers.reserve(threads);
    for (unsigned t = 0; t < threads; ++t) {
      touchers.emplace_back([&, t] {
        ready.arrive_and_wait();
        for (std::size_t i = count * t / threads; i < count * (t + 1) / threads; ++i) touch_one(i);
      });
    }
    ready.arrive_and_wait();
    const Clock::time_point start = Clock::now();
    touchers.clear();
    return nanoseconds_since(start);
  }

  /// A number for each page whose lowest bit says whether it is present.
  std::vector<unsigned char> presence() const {
    std::vector<unsigned char> states(image_.pages());
    CHECK(::mincore(page(0), image_.pages() * kPageBytes, states.data()) == 0);
    return states;
  }
  std::size_t count_present() const {
    std::size_t present = 0;
    for (const unsigned char state : presence()) present += state & 1;
    return present;
  }

  Result<std::string> verify() const {
    std::vector<unsigned char> states = presence();
    for (const std::uint32_t number : touched_) {
      if ((states[number] & 1) == 0) return fail(ErrorCode::kCorrupt, "page {} is gone", number);
    }
    std::size_t verified = 0;
    for (std::size_t i = 0; i < states.size(); ++i) {
      if ((states[i] & 1) == 0) continue;
      if (std::memcmp(page(i), image_.page(i).data(), kPageBytes) != 0) {
        return fail(ErrorCode::kCorrupt, "wrong page {}", i);
      }
      ++verified;
    }
    return fmt::format("verified {}", verified);
  }

  Memory memory_;
  ImageFile image_;
  Pages touched_;
};

void say(const std::string& line) {
  print_out("{}\n", line);
  std::fflush(stdout);
}

Result<void> run(int argc, char** argv) {
  if (argc == 5) {
    const std::string_view text = argv[4];
    unsigned cpu = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), cpu);
    if (parsed.ec != std::errc{}) return fail(ErrorCode::kInvalidArgument, "CPU \"{}\"", text);
    TRY(pin_this_thread(cpu));
  }
  ImageFile image = TRY(ImageFile::open(argv[3]));
  Memory memory = TRY(make_memory(argv[1], argv[2], argv[3], image));
  say("ready");
  Guest guest(std::move(memory), std::move(image));
  for (std::string line; std::getline(std::cin, line);) say(TRY(guest.obey(line)));
  return {};
}

}  // namespace
}  // namespace thaw::bench

int main(int argc, char** argv) {
  thaw::begin_program(thaw::ProgramKind::kCommand);
  if (argc != 4 && argc != 5) {
    thaw::print_problem("usage: thaw-bench-guest MEMORY SOCKET IMAGE [CPU]\n");
    return 2;
  }
  if (const auto result = thaw::bench::run(argc, argv); !result) {
    thaw::bench::say(result.error().message());
    return 1;
  }
  return 0;
}
