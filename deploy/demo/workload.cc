// The demo guest's main program. It fills a buffer from a seeded generator and from the files in
// the guest's file system, then prints one line every 100 ms:
//
//   tick N checksum XXXXXXXXXXXXXXXX
//
// N counts from 1 without gaps; the checksum is computed anew over the whole buffer for every line,
// so a page that comes back wrong after a restore changes it, and a page that does not come back
// stops the counter.
//
// Settings arrive in the environment (the kernel hands unknown `name=value` parameters to init):
// workload_seed, workload_mib.

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <system_error>
#include <vector>

#include <time.h>
#include <unistd.h>

namespace {

constexpr std::size_t kPageWords = 4096 / sizeof(std::uint64_t);
constexpr std::size_t kPagesPerMib = 256;
constexpr std::int64_t kPeriodNs = 100'000'000;
constexpr std::int64_t kSecondNs = 1'000'000'000;

// SplitMix64: one multiplication chain per word, good enough to be incompressible.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15U;
    std::uint64_t word = state_;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9U;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebU;
    return word ^ (word >> 31);
  }

 private:
  std::uint64_t state_;
};

// Yields the bytes of all regular files below a directory, one after the other, until they run out.
class FileContent {
 public:
  explicit FileContent(const std::filesystem::path& root) {
    std::error_code ignored;
    entries_ = std::filesystem::recursive_directory_iterator(root, ignored);
  }

  // Fills `page` and returns true, or returns false when no file has a whole page left.
  bool fill(std::span<std::uint64_t> page) {
    const auto bytes = static_cast<std::streamsize>(page.size_bytes());
    // SAFETY: any object may be written as bytes, and uint64_t has no invalid value.
    while (!file_.read(reinterpret_cast<char*>(page.data()), bytes)) {
      if (!open_next()) return false;
    }
    return true;
  }

 private:
  bool open_next() {
    std::error_code failed;
    while (entries_ != std::filesystem::recursive_directory_iterator()) {
      const std::filesystem::directory_entry entry = *entries_;
      entries_.increment(failed);
      if (failed) return false;
      if (!entry.is_regular_file(failed) || entry.is_symlink(failed)) continue;
      file_ = std::ifstream(entry.path(), std::ios::binary);
      if (file_) return true;
    }
    return false;
  }

  std::filesystem::recursive_directory_iterator entries_;
  std::ifstream file_;
};

std::uint64_t setting(const char* name, std::uint64_t fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 0);
}

// Three pages in four hold file content and one in four noise, about what does not compress in a
// real guest plus a margin: the demo must not look better than a guest would.
void fill(std::span<std::uint64_t> buffer, Generator& generator, FileContent& files) {
  for (std::size_t offset = 0; offset < buffer.size(); offset += kPageWords) {
    const auto page = buffer.subspan(offset, kPageWords);
    const bool noise = (offset / kPageWords) % 4 == 3 || !files.fill(page);
    for (std::uint64_t& word : page) {
      if (noise) word = generator.next();
    }
    // No two pages of the buffer are equal, so none of them is a duplicate of a page of the guest's
    // page cache.
    page.front() = generator.next();
  }
}

// Order-sensitive: two swapped pages change it.
std::uint64_t checksum(std::span<const std::uint64_t> buffer) {
  std::uint64_t sum = 0xcbf29ce484222325U;
  for (const std::uint64_t word : buffer) {
    sum = (sum ^ word) * 0x9fb21c651e98df25U;
    sum ^= sum >> 32;
  }
  return sum;
}

timespec later(timespec time, std::int64_t delay_ns) {
  const std::int64_t ns = time.tv_nsec + delay_ns;
  return {.tv_sec = time.tv_sec + ns / kSecondNs, .tv_nsec = ns % kSecondNs};
}

bool is_before(const timespec& left, const timespec& right) {
  return left.tv_sec != right.tv_sec ? left.tv_sec < right.tv_sec : left.tv_nsec < right.tv_nsec;
}

// Waits for the end of the period that began at `start`. A tick that comes late starts a new period
// instead of being followed by a burst that would hide it.
timespec wait_for_next_period(const timespec& start) {
  const timespec due = later(start, kPeriodNs);
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (is_before(due, now)) return now;
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, nullptr) == EINTR) {
  }
  return due;
}

}  // namespace

int main() {
  Generator generator(setting("workload_seed", 1));
  FileContent files("/lib/modules");
  std::vector<std::uint64_t> buffer(setting("workload_mib", 16) * kPagesPerMib * kPageWords);
  fill(buffer, generator, files);

  timespec start{};
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (std::uint64_t tick = 1;; ++tick) {
    const std::uint64_t sum = checksum(buffer);
    std::printf("tick %llu checksum %016llx\n", static_cast<unsigned long long>(tick),
                static_cast<unsigned long long>(sum));
    std::fflush(stdout);
    start = wait_for_next_period(start);
  }
}
