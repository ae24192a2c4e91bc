// A VMM without a CPU: maps guest memory, hands it over, and touches it from several threads as
// vCPUs would, comparing every byte with the image file.
//
//   vmm SOCKET IMAGE verify        touches all pages in a random order
//   vmm SOCKET IMAGE halves        the same, but waits for a line on stdin after the first half
//   vmm SOCKET IMAGE remove        gives back the pages of the second quarter while others fault
//   vmm SOCKET IMAGE flood         faults and gives back pages from all threads until it is told
//   vmm SOCKET IMAGE slow-mm       verifies one half and floods the other, while other threads hold
//                                  the lock of its address space, until it is told
//   vmm SOCKET IMAGE hold          hands over and waits for a line
//   vmm SOCKET IMAGE verify-when-told  verifies after a line
//   vmm SOCKET IMAGE two-regions   verifies with the memory split in two
//   vmm SOCKET IMAGE unmap         with the memory split in two, unmaps the second half and the end
//                                  of the first, gives back a page, and waits for a line
//   vmm SOCKET IMAGE shreds        with the memory in as many regions as may be, unmaps the last
//   page
//                                  of each and maps 50,000 others, gives back a page, and waits for
//                                  a line
//   vmm SOCKET IMAGE scribble      writes into every page, gives back the second quarter, verifies
//   vmm SOCKET IMAGE shared-MODE   the same in the host's image
//   vmm SOCKET IMAGE shared-spoil  touches the host's image without handing it over
//
// With THAW_TEST_JAIL=DIRECTORY and THAW_TEST_UID=NUMBER in its environment it goes into that
// directory for good and becomes that user first, as under Firecracker's jailer: the socket is one
// in there.
//
// Prints "handed over", "half", "flooding", "storming" and "given back"; exits 0 when all was
// right, 1 with a line when not.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <grp.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/limits.h"
#include "tests/support/programs.h"
#include "vmm-client/guest_memory.h"

namespace {

using thaw::kPageBytes;

constexpr unsigned kThreads = 4;

class Vmm {
 public:
  Vmm(thaw::GuestMemory memory, thaw::Bytes image)
      : memory_(std::move(memory)), image_(std::move(image)) {}

  std::size_t pages() const { return image_.size() / kPageBytes; }

  std::byte* page(std::size_t index) {
    const Place place = place_of(index);
    return memory_.region(place.region).data() + place.offset;
  }

  void discard(std::size_t index) {
    const Place place = place_of(index);
    if (!memory_.discard(place.region, {place.offset}, {kPageBytes})) std::abort();
  }
  /// The same for several threads at once. REQUIRES: something was discarded before.
  void give_back(std::size_t index) {
    if (::madvise(page(index), kPageBytes, MADV_DONTNEED) != 0) std::abort();
  }

  /// What the image has.
  const std::byte* content(std::size_t index) const { return image_.data() + index * kPageBytes; }
  bool is_content(std::size_t index) {
    return std::memcmp(page(index), content(index), kPageBytes) == 0;
  }
  bool is_zero(std::size_t index) {
    return std::all_of(page(index), page(index) + kPageBytes,
                       [](std::byte b) { return b == std::byte{0}; });
  }

  /// Calls `right(page)` for all pages of `order`, spread over the threads.
  template <typename Right>
  bool check(const std::vector<std::size_t>& order, Right right) {
    std::atomic<std::size_t> next = 0;
    std::atomic<std::size_t> wrong = 0;
    {
      std::vector<std::jthread> threads;
      threads.reserve(kThreads);
      for (unsigned i = 0; i < kThreads; ++i) {
        threads.emplace_back([&] {
          for (std::size_t at; (at = next++) < order.size();) {
            if (!right(order[at])) ++wrong;
          }
        });
      }
    }
    if (wrong > 0) std::printf("%zu wrong pages\n", wrong.load());
    return wrong == 0;
  }

 private:
  struct Place {
    std::size_t region;
    std::size_t offset;  // bytes
  };

  Place place_of(std::size_t index) const {
    Place place{0, index * kPageBytes};
    while (place.offset >= memory_.region(place.region).size()) {
      place.offset -= memory_.region(place.region++).size();
    }
    return place;
  }

  thaw::GuestMemory memory_;
  thaw::Bytes image_;
};

void say(const char* line) {
  std::puts(line);
  std::fflush(stdout);
}

bool remove_while_faulting(Vmm& vmm, std::vector<std::size_t> order) {
  const std::size_t from = vmm.pages() / 4;
  const std::size_t to = vmm.pages() / 2;
  const auto removed = [&](std::size_t page) { return page >= from && page < to; };
  bool right = true;
  {
    // What is read of the range while it goes may be either; the rest must be the image.
    const std::jthread toucher([&] {
      right =
          vmm.check(order, [&](std::size_t page) { return removed(page) || vmm.is_content(page); });
    });
    for (std::size_t page = from; page < to; ++page) {
      vmm.discard(page);
    }
  }
  for (std::size_t page = from; page < to; ++page) {
    vmm.discard(page);
  }
  return right && vmm.check(order, [&](std::size_t page) {
    return removed(page) ? vmm.is_zero(page) : vmm.is_content(page);
  });
}

/// The content of a page that is given back and touched at once may be either.
bool flood(Vmm& vmm) {
  std::atomic<bool> stop = false;
  std::vector<std::jthread> threads;
  threads.reserve(std::size_t{2} * kThreads);
  vmm.discard(0);
  for (unsigned i = 0; i < 2 * kThreads; ++i) {
    threads.emplace_back([&vmm, &stop, i] {
      std::mt19937_64 generator(i);
      std::byte sum{0};
      while (!stop) {
        const std::size_t page = generator() % vmm.pages();
        if (i % 2 == 0) {
          vmm.give_back(page);
        } else {
          sum ^= std::atomic_ref(*vmm.page(page)).load();
        }
      }
      return sum;
    });
  }
  say("flooding");
  std::string line;
  std::getline(std::cin, line);
  stop = true;
  return true;
}

/// Pages of a mapping that is there to be looked at, each of them a mapping for the kernel.
constexpr std::size_t kMappings = 50'000;

bool map_shreds() {
  void* const mapped = ::mmap(nullptr, kMappings * kPageBytes, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return false;
  for (std::size_t i = 0; i < kMappings; i += 2) {
    std::byte* const page = static_cast<std::byte*>(mapped) + i * kPageBytes;
    if (::mprotect(page, kPageBytes, PROT_READ) != 0) return false;
  }
  return true;
}

/// Has the kernel hold the lock of this process's address space, guest memory among it, for as long
/// as it can.
void hold_lock(Vmm& vmm, unsigned which) {
  const std::size_t length = vmm.pages() * kPageBytes;
  if (which % 2 == 0) {
    ::mprotect(vmm.page(0), length, PROT_READ);
    ::mprotect(vmm.page(0), length, PROT_READ | PROT_WRITE);
    return;
  }
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  if (child > 0) ::waitpid(child, nullptr, 0);
}

bool storm(Vmm& vmm) {
  if (!map_shreds()) return false;
  vmm.discard(vmm.pages() - 1);
  std::atomic<bool> stop = false;
  std::atomic<bool> right = true;
  std::vector<std::jthread> threads;
  threads.reserve(2 * kThreads);
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&vmm, &stop, i] {
      while (!stop) hold_lock(vmm, i);
    });
    threads.emplace_back([&vmm, &stop, &right, i] {
      std::mt19937_64 generator(i);
      const std::size_t half = vmm.pages() / 2;
      while (!stop) {
        const std::size_t page = generator() % half;
        if (!vmm.is_content(page)) right = false;
        // Another thread may be giving this one back.
        const std::byte first = std::atomic_ref(*vmm.page(half + page)).load();
        if (first != std::byte{0} && first != vmm.content(half + page)[0]) right = false;
        vmm.give_back(half + page);
      }
    });
  }
  say("storming");
  std::string line;
  std::getline(std::cin, line);
  stop = true;
  threads.clear();
  if (!right) say("wrong pages");
  return right;
}

bool scribble(Vmm& vmm, const std::vector<std::size_t>& order) {
  const auto mark = [&](std::size_t page) { return static_cast<std::byte>(page % 255 + 1); };
  const auto write = [&](std::size_t page) {
    std::fill_n(vmm.page(page), kPageBytes, mark(page));
    return true;
  };
  if (!vmm.check(order, write)) return false;
  const auto removed = [&](std::size_t page) {
    return page >= vmm.pages() / 4 && page < vmm.pages() / 2;
  };
  for (std::size_t page = 0; page < vmm.pages(); ++page) {
    if (removed(page)) vmm.discard(page);
  }
  return vmm.check(order, [&](std::size_t page) {
    const std::byte expected = removed(page) ? std::byte{0} : mark(page);
    return std::all_of(vmm.page(page), vmm.page(page) + kPageBytes,
                       [&](std::byte b) { return b == expected; });
  });
}

/// Without a word to the handler, as by a VMM that knows nothing of this project's library.
bool unmap(Vmm& vmm) {
  const std::size_t half = vmm.pages() / 2;
  const std::size_t kept = half - half / 4;
  for (const auto& [first, end] : {std::pair{half, vmm.pages()}, std::pair{kept, half}}) {
    if (::munmap(vmm.page(first), (end - first) * kPageBytes) != 0) return false;
  }
  // The place is used for something else.
  std::byte* const other = vmm.page(kept + 1);
  if (::mmap(other, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) != other) {
    return false;
  }
  if (::madvise(vmm.page(7), kPageBytes, MADV_DONTNEED) != 0) return false;
  say("given back");
  std::string line;
  std::getline(std::cin, line);
  *other = std::byte{1};  // which is nobody's business
  std::vector<std::size_t> order(kept);
  std::iota(order.begin(), order.end(), std::size_t{0});
  return vmm.check(order, [&](std::size_t page) {
    return page == 7 ? vmm.is_zero(page) : vmm.is_content(page);
  });
}

/// Makes what the handler has to look at as much as a VMM can.
bool shred(Vmm& vmm) {
  const std::size_t each = vmm.pages() / thaw::limits::kMaxRegions;
  for (std::size_t page = each - 1; page < vmm.pages(); page += each) {
    if (::munmap(vmm.page(page), kPageBytes) != 0) return false;
  }
  if (!map_shreds()) return false;
  if (::madvise(vmm.page(0), kPageBytes, MADV_DONTNEED) != 0) return false;
  say("given back");
  std::string line;
  std::getline(std::cin, line);
  std::vector<std::size_t> order;
  for (std::size_t page = 0; page < vmm.pages(); ++page) {
    if (page % each != each - 1) order.push_back(page);
  }
  return vmm.check(order, [&](std::size_t page) {
    return page == 0 ? vmm.is_zero(page) : vmm.is_content(page);
  });
}

bool act(Vmm& vmm, const std::string& mode) {
  std::vector<std::size_t> order(vmm.pages());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937_64(7));
  const auto content = [&](std::size_t page) { return vmm.is_content(page); };
  if (mode == "flood") return flood(vmm);
  if (mode == "slow-mm") return storm(vmm);
  if (mode == "remove") return remove_while_faulting(vmm, order);
  if (mode == "unmap") return unmap(vmm);
  if (mode == "shreds") return shred(vmm);
  if (mode == "scribble") return scribble(vmm, order);
  std::string line;
  if (mode == "hold") return static_cast<bool>(std::getline(std::cin, line));
  if (mode == "verify-when-told") std::getline(std::cin, line);
  if (mode == "halves") {
    const auto middle = order.begin() + static_cast<std::ptrdiff_t>(order.size() / 2);
    if (!vmm.check({order.begin(), middle}, content)) return false;
    say("half");
    std::getline(std::cin, line);
  }
  return vmm.check(order, content);
}

thaw::Result<thaw::GuestMemory> restore(const std::vector<thaw::GuestRegion>& regions,
                                        const std::string& socket, bool shared) {
  const auto deadline = thaw::Deadline::after(thaw::test::kPatience);
  if (shared) return thaw::GuestMemory::share(regions, socket, deadline);
  thaw::GuestMemory memory = TRY(thaw::GuestMemory::create(regions));
  TRY(memory.hand_over(socket, deadline));
  return memory;
}

/// What no VMM may do: it makes the pages zero for all.
thaw::Result<void> spoil(const std::string& socket) {
  const auto deadline = thaw::Deadline::after(thaw::test::kPatience);
  const auto session = TRY(thaw::SharedSession::open(socket, deadline));
  auto mapping = TRY(thaw::Mapping::copy_on_write(session.image, {0}, session.size));
  TRY(mapping.allow_access());
  for (std::size_t at = 0; at < session.size.value; at += kPageBytes) {
    std::atomic_ref(mapping.bytes()[at]).load();
  }
  say("handed over");
  std::string line;
  std::getline(std::cin, line);
  return {};
}

/// Hands over the halves of the image in the wrong order, each of which it maps.
thaw::Result<void> swap_halves(const std::string& socket) {
  const auto deadline = thaw::Deadline::after(thaw::test::kPatience);
  auto session = TRY(thaw::SharedSession::open(socket, deadline));
  const thaw::ByteCount half{session.size.value / 2 / kPageBytes * kPageBytes};
  const auto second = TRY(thaw::Mapping::copy_on_write(session.image, half, session.size - half));
  const auto first = TRY(thaw::Mapping::copy_on_write(session.image, {0}, half));
  auto memory = TRY(thaw::MissingMemory::register_regions(
      std::array{thaw::MappedRegion{second.address(), second.size(), {kPageBytes}},
                 thaw::MappedRegion{first.address(), first.size(), {kPageBytes}}}));
  TRY(memory.hand_over(std::move(session), deadline));
  say("handed over");
  std::string line;
  std::getline(std::cin, line);
  return {};
}

bool enter_jail() {
  const char* const directory = std::getenv("THAW_TEST_JAIL");
  if (directory == nullptr) return true;
  const auto id = static_cast<uid_t>(std::stoul(std::getenv("THAW_TEST_UID")));
  return ::chroot(directory) == 0 && ::chdir("/") == 0 && ::setgroups(0, nullptr) == 0 &&
         ::setgid(id) == 0 && ::setuid(id) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  std::string mode = argv[3];
  const bool shared = mode.starts_with("shared-");
  if (shared) mode = mode.substr(std::string("shared-").size());
  thaw::Bytes image = thaw::test::read_file(argv[2]);
  if (!enter_jail()) return std::perror("entering the jail"), 1;
  if (mode == "spoil") return spoil(argv[1]) ? 0 : 1;
  if (shared && mode == "swapped") return swap_halves(argv[1]) ? 0 : 1;
  std::vector<thaw::GuestRegion> regions;
  const bool two = mode == "two-regions" || mode == "unmap";
  const std::size_t count = mode == "shreds" ? thaw::limits::kMaxRegions : two ? 2 : 1;
  const std::size_t each = image.size() / count / kPageBytes * kPageBytes;
  regions.assign(count, {{each}, {kPageBytes}});
  regions.back().size.value = image.size() - (count - 1) * each;
  auto memory = restore(regions, argv[1], shared);
  if (!memory) return std::puts(memory.error().message().c_str()), 1;
  say("handed over");
  Vmm vmm(*std::move(memory), std::move(image));
  return act(vmm, mode) ? 0 : 1;
}
