// hostile_vmm SOCKET BYTES LIE: a VMM that lies about its memory, or says it in an odd way.
//
// "no-remove-events" is how a Firecracker up to 1.11 opens its userfaultfd for a VM without a
// balloon. Told to go on a second time, it gives its first page back and prints its first byte
// again.
//
// Maps and registers BYTES, hands them over as the lie says, prints "handed over", and waits for a
// line. Then it touches its first page and prints the first byte of it.

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/socket.h"
#include "base/userfaultfd.h"
#include "format/farewell.h"
#include "format/handoff.h"
#include "format/limits.h"
#include "tests/support/programs.h"

namespace {

using thaw::HandoffRegion;
using thaw::kPageBytes;
using Regions = std::vector<HandoffRegion>;

/// What a lie makes of the true regions.
const std::map<std::string, std::function<void(Regions&)>> kRegionLies{
    {"truth", [](Regions&) {}},
    {"no-regions", [](Regions& all) { all.clear(); }},
    {"shorter", [](Regions& all) { all[0].size.value -= kPageBytes; }},
    {"longer", [](Regions& all) { all[0].size.value += kPageBytes; }},
    {"empty", [](Regions& all) { all[0].size.value = 0; }},
    {"odd-size", [](Regions& all) { all[0].size.value -= 1; }},
    {"odd-address", [](Regions& all) { all[0].base.value += 1; }},
    {"odd-offset", [](Regions& all) { all[0].offset.value = 1; }},
    {"offset-beyond", [](Regions& all) { all[0].offset.value = 1ull << 50; }},
    {"endless", [](Regions& all) { all[0].size.value = ~0ull - kPageBytes + 1; }},
    {"around-the-end", [](Regions& all) { all[0].base.value = 0 - kPageBytes; }},
    {"page-of-nothing", [](Regions& all) { all[0].page_size.value = 0; }},
    {"odd-pages", [](Regions& all) { all[0].page_size.value = 12345; }},
    {"twice-the-same", [](Regions& all) { all.push_back(all[0]); }},
    {"too-many", [](Regions& all) { all.resize(thaw::limits::kMaxRegions + 1, all[0]); }},
    {"of-the-kernel", [](Regions& all) { all[0].base.value = 0xffff'8000'0000'0000; }},
    {"of-nobody", [](Regions& all) { all[0].base.value = 1ull << 20; }},
    {"tracked", [](Regions& all) { all[0].tracking = thaw::WriteTracking::kOn; }},
};

const thaw::Deadline kDeadline = thaw::Deadline::after(thaw::test::kPatience);

thaw::Result<void> send(const thaw::UniqueFd& socket, std::string_view text,
                        const std::vector<int>& descriptors = {}) {
  return thaw::send_with_descriptors(socket, thaw::as_bytes(text), descriptors, kDeadline);
}

/// How a true handoff is said.
thaw::Result<void> say(const std::string& lie, const std::string& text, const std::string& path,
                       const thaw::UniqueFd& uffd, std::deque<thaw::UniqueFd>& kept) {
  thaw::UniqueFd& socket = kept.emplace_back(TRY(thaw::connect_unix(path, kDeadline)));
  if (lie == "trickled") {
    for (std::size_t i = 0; i < text.size(); ++i) {
      TRY(send(socket, text.substr(i, 1),
               i == 0 ? std::vector<int>{uffd.get()} : std::vector<int>{}));
    }
    return {};
  }
  if (lie == "many-connections") {
    for (int i = 0; i < 100; ++i) {
      auto more = thaw::connect_unix(path, kDeadline);
      if (more) kept.push_back(*std::move(more));
    }
  }
  if (lie == "text-beyond") return send(socket, text + text, {uffd.get()});
  if (lie == "garbage") return send(socket, std::string(1000, '\1'), {uffd.get()});
  if (lie == "too-large") {
    const std::string piece(1 << 14, '[');
    TRY(send(socket, piece, {uffd.get()}));
    // The handler may have had enough of it at any time.
    for (int i = 0; i < 64 && send(socket, piece); ++i) continue;
    return {};
  }
  if (lie == "two-userfaultfds") {
    const thaw::UniqueFd second = TRY(thaw::create_userfaultfd());
    return send(socket, text, {uffd.get(), second.get()});
  }
  if (lie == "descriptors") return send(socket, text, std::vector<int>(16, uffd.get()));
  TRY(send(socket, text, {uffd.get()}));
  if (lie == "chatter") TRY(send(socket, "and more", {uffd.get()}));
  if (lie == "closed") kept.clear();
  if (lie == "left") {
    const std::string farewell(1, static_cast<char>(thaw::kFarewell));
    TRY(send(socket, farewell));
  }
  return {};
}

thaw::Result<thaw::UniqueFd> create_without_remove_events() {
  thaw::UniqueFd uffd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  // SAFETY: api is live for the call.
  if (!uffd.valid() || ::ioctl(uffd.get(), UFFDIO_API, &api) != 0) {
    return thaw::fail_errno("userfaultfd");
  }
  return uffd;
}

void wait_for_line() {
  std::string line;
  std::getline(std::cin, line);
}

thaw::Result<void> run(const std::string& path, std::size_t bytes, const std::string& lie) {
  const bool old = lie == "no-remove-events";
  const thaw::UniqueFd uffd =
      old ? TRY(create_without_remove_events()) : TRY(thaw::create_userfaultfd());
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return thaw::fail_errno("mmap");
  const thaw::HostAddress base{reinterpret_cast<std::uintptr_t>(memory)};
  if (lie != "unregistered") TRY(thaw::register_missing(uffd, base, {bytes}));
  Regions regions{{base, {bytes}, {0}, {kPageBytes}}};
  const auto found = kRegionLies.find(lie);
  if (found != kRegionLies.end()) found->second(regions);
  std::deque<thaw::UniqueFd> kept;
  TRY(say(lie, thaw::encode_handoff(regions), path, uffd, kept));
  std::puts("handed over");
  std::fflush(stdout);
  wait_for_line();
  std::printf("read %d\n", *static_cast<volatile unsigned char*>(memory));
  std::fflush(stdout);
  if (!old) return {};
  wait_for_line();
  if (::madvise(memory, kPageBytes, MADV_DONTNEED) != 0) return thaw::fail_errno("madvise");
  std::printf("again %d\n", *static_cast<volatile unsigned char*>(memory));
  std::fflush(stdout);
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto done = run(argv[1], std::stoull(argv[2]), argv[3]);
  if (!done) return std::puts(done.error().message().c_str()), 1;
  return 0;
}
