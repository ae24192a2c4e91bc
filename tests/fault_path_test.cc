// The path of a fault allocates nothing and takes no lock; an exception would allocate, and a line
// of the log would take a lock. Counted by standing in for the C library.

#include <cerrno>

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include "tests/support/semantics.h"

namespace {

/// Of this thread, while it is watched.
thread_local bool watched = false;
thread_local std::uint64_t allocations = 0;
thread_local std::uint64_t locks = 0;

void note_allocation() {
  if (watched) ++allocations;
}

}  // namespace

extern "C" {
// The C library's own, under the names that glibc keeps for them.
void* real_malloc(std::size_t size) __asm__("__libc_malloc");
void* real_calloc(std::size_t count, std::size_t size) __asm__("__libc_calloc");
void* real_realloc(void* at, std::size_t size) __asm__("__libc_realloc");
void* real_memalign(std::size_t alignment, std::size_t size) __asm__("__libc_memalign");

void* malloc(std::size_t size) {
  note_allocation();
  return real_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  note_allocation();
  return real_calloc(count, size);
}
void* realloc(void* at, std::size_t size) {
  note_allocation();
  return real_realloc(at, size);
}
int posix_memalign(void** at, std::size_t alignment, std::size_t size) {
  note_allocation();
  *at = real_memalign(alignment, size);
  return *at != nullptr ? 0 : ENOMEM;
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  note_allocation();
  return real_memalign(alignment, size);
}
int pthread_mutex_lock(pthread_mutex_t* mutex) {
  using Lock = int (*)(pthread_mutex_t*);
  // SAFETY: the C library's own function, of this very type.
  static const Lock lock = reinterpret_cast<Lock>(::dlsym(RTLD_NEXT, "pthread_mutex_lock"));
  if (watched) ++locks;
  return lock(mutex);
}
}

namespace thaw::test {
namespace {

class FaultPathTest : public SemanticsTest {
 protected:
  struct Counts {
    std::uint64_t allocations;
    std::uint64_t locks;
    friend bool operator==(const Counts&, const Counts&) = default;
    friend void PrintTo(const Counts& counts, std::ostream* to) {
      *to << counts.allocations << " allocations, " << counts.locks << " locks";
    }
  };
  /// What the loop's thread does while `act` runs, the two tasks at the ends excepted.
  template <typename Act>
  Counts count(Act act) {
    loop_.run([] { watched = true; });
    act();
    Counts counts{};
    loop_.run([&counts] {
      watched = false;
      counts = {std::exchange(allocations, 0), std::exchange(locks, 0)};
    });
    return counts;
  }
  /// That of a turn which does nothing but run a task.
  Counts idle() {
    return count([] {});
  }
};

INSTANTIATE_TEST_SUITE_P(Loops, FaultPathTest, both_loops(), loop_name);

TEST_P(FaultPathTest, CountsWhatIsThere) {
  EXPECT_GT(count([this] { loop_.run([] { delete new std::string(100, 'x'); }); }).allocations,
            idle().allocations);
  std::mutex mutex;
  EXPECT_GT(count([&] { loop_.run([&mutex] { const std::lock_guard lock(mutex); }); }).locks,
            idle().locks);
}

TEST_P(FaultPathTest, DemandedPagesAllocateNothingAndTakeNoLock) {
  start(512);
  for (std::size_t page = 0; page < 64; ++page) serve(page);
  const Counts nothing = idle();
  EXPECT_EQ(count([this] {
              for (std::size_t page = 64; page < 500; ++page) serve(page);
            }),
            nothing);
}

TEST_P(FaultPathTest, SecondPageServerCostsNoAllocationAndNoLock) {
  ScriptedServer spare;
  loop_.run([this] { link_->close(); });
  for (bool idle = false; !idle;) loop_.run([&] { idle = link_->idle(); });
  loop_.run([&] {
    link_ = std::make_unique<DemandLink>(
        loop_.loop(), std::vector<ServerAddress>{server_.address(), spare.address()}, origin_);
  });
  start(512);
  spare.accept();
  for (std::size_t page = 0; page < 64; ++page) serve(page);
  const Counts nothing = idle();
  EXPECT_EQ(count([this] {
              for (std::size_t page = 64; page < 500; ++page) serve(page);
            }),
            nothing);
}

TEST_P(FaultPathTest, FaultsAroundAllocateNothingAndTakeNoLock) {
  constexpr std::size_t kPages = 8192;
  ServedGuest& guest = start({.map = content_pages(kPages), .around = 64});
  const auto touch = [&](std::size_t from, std::size_t to) {
    GuestThread vcpu([&guest, from, to] {
      for (std::size_t page = from; page < to; ++page) {
        if (*guest.page(page) != std::byte{1}) ADD_FAILURE() << page;
      }
    });
    while (!vcpu.ended()) {
      if (server_.has_request()) server_.reply(server_.next_request());
    }
  };
  touch(0, kPages / 2);
  const Counts nothing = idle();
  EXPECT_EQ(count([&] { touch(kPages / 2, kPages); }), nothing);
  EXPECT_GT(guest.report().around_pages, kPages / 2);
}

TEST_P(FaultPathTest, ZerosAndRemovedPagesAllocateNothingAndTakeNoLock) {
  PageMap map;
  map.append_zero({4096});
  ServedGuest& guest = start({.map = map, .around = 64});
  const auto touch = [&guest](std::size_t from, std::size_t to, std::size_t step) {
    GuestThread vcpu([=, &guest] {
      for (std::size_t page = from; page < to; page += step) {
        if (*guest.page(page) != std::byte{0}) ADD_FAILURE() << page;
      }
    });
  };
  touch(0, 512, 3);
  const Counts nothing = idle();
  EXPECT_EQ(count([&] {
              touch(512, 2048, 3);
              touch(2048, 4096, 1);
              guest.give_back(1024, 512);
              touch(1024, 1536, 1);
            }),
            nothing);
}

}  // namespace
}  // namespace thaw::test
