// A restored guest of the bench that touches the pages of a recording in their order, and compares
// each with the image.
//
//   thaw-bench-replay PAGES IMAGE session SOCKET          memory served by a fault handler
//   thaw-bench-replay PAGES IMAGE file PATH               a file mapped MAP_PRIVATE
//   thaw-bench-replay PAGES IMAGE download ADDRESS PATH   the same, brought there first
//
// PAGES has page numbers of 32 bits. Says "ready", waits for a line on stdin, gets its memory,
// touches, and says "done NANOSECONDS FIRST": from that line to the last page, and from having the
// memory to the first page. The nanoseconds of each touch go to PAGES.ns (64 bits each). After the
// next line on stdin it ends. Ends with a line that says why and exit code 1 when it cannot, or
// when a byte is wrong.

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <optional>

#include <fcntl.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/output.h"
#include "base/program.h"
#include "bench/image.h"
#include "bench/sys/image_stream.h"
#include "vmm-client/guest_memory.h"

namespace thaw::bench {
namespace {

constexpr std::chrono::seconds kPatience{10};

void say(const std::string& line) {
  print_out("{}\n", line);
  std::fflush(stdout);
}

/// Guest memory from one of the sources, until the end of the process.
Result<ByteSpan> map_file(const std::string& path, ByteCount size) {
  const UniqueFd file = TRY(open_for_reading(path));
  if (TRY(file_size(file)) != size) return fail(ErrorCode::kInvalidArgument, "{}: its size", path);
  void* const at = ::mmap(nullptr, size.value, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0);
  if (at == MAP_FAILED) return fail_errno("mmap " + path);
  return ByteSpan(static_cast<const std::byte*>(at), size.value);
}

class Replay {
 public:
  explicit Replay(ImageFile image) : image_(std::move(image)) {}

  Result<void> run(const std::string& pages_path, std::span<char*> source) {
    const UniqueFd file = TRY(open_for_reading(pages_path));
    std::vector<std::uint32_t> pages(TRY(file_size(file)).value / sizeof(std::uint32_t));
    TRY(read_at(file, std::as_writable_bytes(std::span(pages)), 0));
    for (const std::uint32_t page : pages) {
      if (page >= image_.pages()) return fail(ErrorCode::kInvalidArgument, "page {}", page);
      warmed_ = warmed_ + std::to_integer<unsigned>(image_.page(page)[0]);
    }
    std::vector<std::int64_t> latencies(pages.size());
    say("ready");
    std::string line;
    std::getline(std::cin, line);

    const Clock::time_point start = Clock::now();
    const ByteSpan memory = TRY(get_memory(source));
    const Clock::time_point resumed = Clock::now();
    Clock::time_point before = resumed;
    for (std::size_t i = 0; i < pages.size(); ++i) {
      if (std::memcmp(memory.data() + std::size_t{pages[i]} * kPageBytes,
                      image_.page(pages[i]).data(), kPageBytes) != 0) {
        return fail(ErrorCode::kCorrupt, "wrong page {}", pages[i]);
      }
      const Clock::time_point now = Clock::now();
      latencies[i] = std::chrono::duration_cast<Nanoseconds>(now - before).count();
      before = now;
    }
    const auto total = std::chrono::duration_cast<Nanoseconds>(before - start).count();
    std::ofstream output(pages_path + ".ns", std::ios::binary);
    output << as_text(std::as_bytes(std::span(latencies)));
    if (!output.flush()) return fail(ErrorCode::kIo, "writing {}.ns", pages_path);
    say(fmt::format("done {} {}", total, latencies.empty() ? 0 : latencies.front()));
    std::getline(std::cin, line);
    return {};
  }

 private:
  Result<ByteSpan> get_memory(std::span<char*> source) {
    const std::string kind = source[0];
    const ByteCount size = bytes_of(PageCount{image_.pages()});
    if (kind == "file") return map_file(source[1], size);
    if (kind == "download") {
      TRY(download_image(source[1], source[2]));
      return map_file(source[2], size);
    }
    const std::vector<GuestRegion> regions{{size, {kPageBytes}}};
    memory_.emplace(TRY(GuestMemory::create(regions)));
    TRY(memory_->hand_over(source[1], Deadline::after(kPatience)));
    return ByteSpan(memory_->region(0));
  }

  ImageFile image_;
  std::optional<GuestMemory> memory_;
  /// Of the image's pages that were read before: what they cost is not of interest.
  volatile unsigned warmed_ = 0;
};

}  // namespace
}  // namespace thaw::bench

int main(int argc, char** argv) {
  thaw::begin_program(thaw::ProgramKind::kCommand);
  const std::string_view kind = argc > 3 ? argv[3] : "";
  const int wanted = kind == "download" ? 6 : kind == "file" || kind == "session" ? 5 : -1;
  if (argc != wanted) {
    thaw::print_problem("usage: thaw-bench-replay PAGES IMAGE (session|file|download) SOURCE...\n");
    return 2;
  }
  auto image = thaw::bench::ImageFile::open(argv[2]);
  const auto result =
      image ? thaw::bench::Replay(*std::move(image)).run(argv[1], std::span(argv + 3, argv + argc))
            : thaw::Result<void>(std::unexpected(image.error()));
  if (!result) {
    thaw::bench::say(result.error().message());
    return 1;
  }
  return 0;
}
