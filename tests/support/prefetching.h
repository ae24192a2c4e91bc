#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include <poll.h>

#include "tests/support/semantics.h"

namespace thaw::test {

/// A guest in this process whose working set is streamed from a page server that answers when the
/// test says so; demands go to another.
class PrefetchingTest : public SemanticsTest {
 protected:
  static constexpr std::size_t kPackPages = 4;

  PrefetchingTest() {
    loop_.run([this] {
      prefetch_link_ = std::make_unique<PrefetchLink>(
          loop_.loop(), std::vector<ServerAddress>{packs_.address()}, origin_, *link_);
      watch_.emplace([this](int result) {
        if (result < 0) return;
        workers_->finish_done();
        loop_.loop().poll(workers_->wakeup(), POLLIN, *watch_);
      });
      loop_.loop().poll(workers_->wakeup(), POLLIN, *watch_);
    });
  }
  ~PrefetchingTest() override {
    guest_.reset();
    loop_.run([this] { prefetch_link_->close(); });
    for (bool idle = false; !idle;) loop_.run([&] { idle = prefetch_link_->idle(); });
    loop_.run([this] {
      loop_.loop().cancel(*watch_);
      prefetch_link_.reset();
    });
    for (bool active = true; active;) loop_.run([&] { active = watch_->active(); });
  }

  /// The set of these pages, of `map`, in packs of kPackPages.
  static std::shared_ptr<const PrefetchSet> set_of(const std::vector<std::uint64_t>& pages,
                                                   const PageMap& map) {
    WorkingSet set{.snapshot = {5}, .generation = 7, .recordings = 1, .pages = {}, .packs = {}};
    std::size_t content = 0;
    for (const std::uint64_t page : pages) {
      set.pages.push_back({.page = {page}, .seen = 1});
      if (map.chunk_of({page}).valid()) ++content;
    }
    for (; content > 0; content -= std::min(content, kPackPages)) {
      set.packs.push_back({static_cast<std::uint16_t>(std::min(content, kPackPages)), 1000});
    }
    auto ready = PrefetchSet::create(set, map, map.size());
    EXPECT_TRUE(succeeded(ready));
    return std::make_shared<const PrefetchSet>(*std::move(ready));
  }

  /// Prepares a guest. It is attached, unless the test does that later.
  enum class Attach { kNow, kLater };
  ServedGuest& start_with(const std::vector<std::uint64_t>& pages, GuestOptions options,
                          Attach attach = Attach::kNow) {
    if (!pages.empty()) set_ = options.plan.set = set_of(pages, options.map);
    options.prefetch.emplace(*prefetch_link_, *workers_, buffers_);
    guest_ = std::make_unique<ServedGuest>(loop_, *link_, options);
    server_.accept();
    const bool prefetches = options.plan.set != nullptr || options.plan.hydrate_bytes_per_s > 0;
    if (prefetches) packs_.accept(message::Role::kPrefetch);
    if (attach == Attach::kNow) guest_->attach();
    return *guest_;
  }

  /// Answers the next request for a pack, and returns its number.
  std::uint32_t serve_pack() {
    const auto request = packs_.next_pack_request();
    packs_.reply(request, set_->packs().at(request.pack.number).pages);
    return request.pack.number;
  }
  /// Waits until it is so.
  template <typename Predicate>
  void wait_until(Predicate predicate) {
    const Deadline deadline = Deadline::after(kPatience);
    while (!predicate()) {
      ASSERT_FALSE(deadline.passed());
      std::this_thread::yield();
    }
  }
  void wait_for_present(const std::vector<std::uint64_t>& pages) {
    wait_until([&] {
      return std::ranges::all_of(pages, [&](auto page) { return guest_->is_present(page); });
    });
  }
  void wait_for_state(PrefetchState state) {
    wait_until([&] { return guest_->report().prefetch.state == state; });
  }

  ScriptedServer packs_;
  std::unique_ptr<WorkerPool> workers_ = WorkerPool::create(2).value();
  PlainBuffers buffers_;  // of the loop's thread
  std::unique_ptr<PrefetchLink> prefetch_link_;
  std::shared_ptr<const PrefetchSet> set_;
  std::optional<Operation> watch_;
};

}  // namespace thaw::test
