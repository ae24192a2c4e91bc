#include <set>
#include <string>

#include <arpa/inet.h>

#include "base/log.h"
#include "faulthandler/demand_link.h"
#include "tests/fuzz/input.h"
#include "tests/support/scripted_loop.h"
#include "tests/support/store_of.h"

namespace thaw {
namespace {

/// Asks for pages in two requests, 1 and 2, and is pinned by request 3. Each page it was promised
/// must be told once.
class Sink final : public ChunkSink {
 public:
  explicit Sink(DemandLink& link) : link_(link) {}

  void ask() {
    for (const auto& [pages, riders] : {std::pair(2, 2), std::pair(1, 0)}) {
      std::vector<WantedPage> wanted;
      std::vector<Rider> riding;
      for (int i = 0; i < pages + riders; ++i, ++asked_) {
        const ChunkId chunk = ChunkId::of(1, 0, 7 + asked_);
        due_.insert(asked_);
        if (i < pages) wanted.push_back({.page = {asked_}, .chunk = chunk, .since = {}});
        if (i >= pages) riding.push_back({.page = {asked_}, .chunk = chunk});
      }
      CHECK(link_.has_room(*this));
      link_.request(*this, wanted, riding);
    }
  }

  Result<void> on_chunk(const WantedPage& wanted, ByteSpan chunk) override {
    take("chunk", wanted.page, chunk);
    return {};
  }
  Result<void> on_rider(const Rider& rider, ByteSpan chunk) override {
    take("rider", rider.page, chunk);
    return {};
  }
  void on_refused(const WantedPage& wanted, const Error& error, Refusal) override {
    take("refused", wanted.page, {});
    told_ += error_name(error.code());
  }
  void on_left_out(const Rider& rider) override { take("left out", rider.page, {}); }
  void on_batch_end() override { told_ += "end "; }
  void on_room() override {}

  const std::string& told() const { return told_; }

 private:
  void take(const char* what, PageIndex page, ByteSpan chunk) {
    CHECK(due_.erase(page.value) == 1);
    told_ += fmt::format("{} {} {} ", what, page.value, to_hex(chunk));
  }

  DemandLink& link_;
  std::uint64_t asked_ = 0;
  std::set<std::uint64_t> due_;
  std::string told_;
};

TcpAddress some_address() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  TcpAddress made;
  std::memcpy(&made.storage, &address, sizeof(address));
  made.length = sizeof(address);
  return made;
}

/// What the sink is told when the replies come in pieces of this size.
std::string told(ByteSpan replies, std::size_t piece_bytes) {
  const StoreId store = test::store_of(1);
  test::ScriptedLoop loop;
  DemandLink link(loop, {some_address()}, {store, "default"});
  Sink sink(link);
  link.add(sink, {5});
  sink.ask();
  loop.settle();
  Bytes welcome;
  encode_message(message::Welcome{.store = store}, 0, 0, welcome);
  CHECK(loop.feed(welcome) == welcome.size());
  while (!replies.empty() && loop.receives()) {
    replies = replies.subspan(loop.feed(replies.first(std::min(piece_bytes, replies.size()))));
  }
  const std::string result = sink.told() + (loop.receives() ? "" : "lost");
  link.forget(sink);
  link.close();
  loop.settle();
  CHECK(link.idle());
  return result;
}

/// An input is what a page server replies after its welcome.
void run(ByteSpan input) {
  start_logging("fuzz", LogLevel::kNone);
  const std::string whole = told(input, input.size());
  CHECK(told(input, 1) == whole);
  CHECK(told(input, 1000) == whole);
}

}  // namespace
}  // namespace thaw

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  thaw::run(thaw::fuzz::as_input(data, size));
  return 0;
}
