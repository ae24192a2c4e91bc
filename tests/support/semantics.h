#pragma once

#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "faulthandler/sys/create_loop.h"
#include "faulthandler/sys/epoll_loop.h"
#include "tests/support/loop_kind.h"
#include "tests/support/programs.h"
#include "tests/support/served_guest.h"
#include "tests/support/test_support.h"

namespace thaw::test {

inline constexpr ChunkId kFirst = ChunkId::of(1, 0, 100);

/// Pages with content of neighbouring chunk ids.
inline PageMap content_pages(std::uint64_t count) {
  PageMap map;
  map.append_chunks(kFirst, {count});
  return map;
}
inline ChunkId chunk(std::uint64_t page) { return {kFirst.value + page}; }

/// A guest in this process, and a page server that answers when the test says so.
class SemanticsTest : public testing::TestWithParam<LoopKind> {
 protected:
  SemanticsTest() {
    loop_.run([this] {
      link_ = std::make_unique<DemandLink>(loop_.loop(),
                                           std::vector<ServerAddress>{server_.address()}, origin_);
    });
  }
  ~SemanticsTest() override {
    guest_.reset();
    loop_.run([this] { link_->close(); });
    for (bool idle = false; !idle;) loop_.run([&] { idle = link_->idle(); });
    loop_.run([this] { link_.reset(); });
  }
  ServedGuest& start(const GuestOptions& options) {
    guest_ = std::make_unique<ServedGuest>(loop_, *link_, options);
    guest_->attach();
    server_.accept();
    return *guest_;
  }
  ServedGuest& start(std::uint64_t pages) { return start({.map = content_pages(pages)}); }
  /// The same with neighbours riding along. Which page is left out of the first window is known.
  ServedGuest& start_around(std::uint64_t features = 0) {
    return start({.map = content_pages(64), .features = features, .around = 8});
  }

  /// Touches a page that is missing and answers its request.
  void serve(std::size_t page) {
    GuestThread vcpu([&] { EXPECT_TRUE(guest_->has_content(page)) << page; });
    const auto request = server_.next_request();
    EXPECT_EQ(request.required, std::vector<ChunkId>{chunk(page)});
    server_.reply(request, 0);
  }

  ScriptedServer server_;
  const Origin origin_{store_of(1), "n"};
  LoopThread loop_{GetParam() == LoopKind::kUring ? create_loop : create_epoll_loop};
  std::unique_ptr<DemandLink> link_;
  std::unique_ptr<ServedGuest> guest_;
};

}  // namespace thaw::test
