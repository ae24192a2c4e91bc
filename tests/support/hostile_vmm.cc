// hostile_vmm SOCKET BYTES LIE: a VMM that lies about its memory, or says it in an odd way.
//
// "no-remove-events" is how a Firecracker up to 1.11 opens its userfaultfd for a VM without a
// balloon. Told to go on a second time, it gives its first page back and prints its first byte
// again.
//
// "of-another" and "of-another-garbage" fork a process that hands over this one's memory and waits
// to be killed; "other NUMBER" says which that is. This one keeps no copy of the userfaultfd.
//
// "lingers", "lingers-after" and "lingers-unheard" send descriptors of TCP connections whose close
// lasts until their peer reads, which it does not: instead of a handoff, after it, and instead of
// one on connections of which too many are there to be heard.
//
// "holds-its-locks", told to go on, touches its first page. Once that waits, it has the kernel hold
// the locks of its address space until HangingFiles at files/, beside the socket, are released.
//
// Maps and registers BYTES, hands them over as the lie says, prints "handed over", and waits for a
// line. Then it touches its first page and prints the first byte of it.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/socket.h"
#include "base/userfaultfd.h"
#include "format/farewell.h"
#include "format/handoff.h"
#include "format/limits.h"
#include "tests/support/hanging_files.h"
#include "tests/support/loopback.h"
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

/// Sends the last descriptor of a connection that lingers. Its peer is kept.
thaw::Result<void> send_lingering(const thaw::UniqueFd& socket, std::deque<thaw::UniqueFd>& kept) {
  const thaw::test::TcpListener listener;
  thaw::UniqueFd lingering = TRY(thaw::connect_tcp(listener.address, kDeadline));
  kept.push_back(TRY(thaw::accept_connection(listener.socket, kDeadline)));
  const linger without_end{.l_onoff = 1, .l_linger = 1000};
  if (::setsockopt(lingering.get(), SOL_SOCKET, SO_LINGER, &without_end, sizeof(linger)) != 0) {
    return thaw::fail_errno("SO_LINGER");
  }
  const std::vector<std::byte> unread(1 << 20);
  while (thaw::send_at_once(lingering, unread) > 0) continue;
  const auto sent = send(socket, "x", {lingering.get()});
  if (!sent) kept.push_back(std::move(lingering));  // else this process would wait for its close
  return sent;
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
  if (lie == "half") return send(socket, text.substr(0, text.size() / 2), {uffd.get()});
  if (lie == "lingers") {
    TRY(send_lingering(socket, kept));
    kept.push_back(TRY(thaw::connect_unix(path, kDeadline)));  // so that the door looks around
    return {};
  }
  if (lie == "lingers-unheard") {
    for (std::size_t i = 0; i < 200; ++i) {
      const thaw::UniqueFd& more = kept.emplace_back(TRY(thaw::connect_unix(path, kDeadline)));
      if (i % 20 == 19) TRY(send_lingering(more, kept));
    }
    return {};
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
  if (lie == "of-another-garbage") return send(socket, "garbage", {uffd.get()});
  TRY(send(socket, text, {uffd.get()}));
  // Whether these are taken depends on how soon the connection refuses descriptors.
  if (lie == "chatter") static_cast<void>(send(socket, "and more", {uffd.get()}));
  if (lie == "lingers-after") static_cast<void>(send_lingering(socket, kept));
  if (lie == "closed") kept.clear();
  if (lie == "left") {
    const std::string farewell(1, static_cast<char>(thaw::kFarewell));
    TRY(send(socket, farewell));
  }
  return {};
}

thaw::Result<thaw::UniqueFd> create_userfaultfd_for(std::uint64_t features) {
  thaw::UniqueFd uffd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  uffdio_api api{.api = UFFD_API, .features = features, .ioctls = 0};
  // SAFETY: api is live for the call.
  if (!uffd.valid() || ::ioctl(uffd.get(), UFFDIO_API, &api) != 0) {
    return thaw::fail_errno("userfaultfd");
  }
  return uffd;
}

/// How many faults of its memory have no answer yet.
std::size_t faults_waiting(const thaw::UniqueFd& uffd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(uffd.get()));
  std::string name;
  std::size_t count = 0;
  while (info >> name && name != "total:") {
  }
  info >> count;
  return count;
}

void wait_for_line() {
  std::string line;
  std::getline(std::cin, line);
}

/// By a process that is forked for it, and waits to be killed.
thaw::Result<void> have_another_hand_over(const std::string& lie, const std::string& text,
                                          const std::string& path, const thaw::UniqueFd& uffd) {
  const pid_t other = ::fork();
  if (other < 0) return thaw::fail_errno("fork");
  if (other == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::deque<thaw::UniqueFd> kept;
    const auto said = say(lie, text, path, uffd, kept);
    if (!said) std::fprintf(stderr, "%s\n", said.error().message().c_str());
    while (true) ::pause();
  }
  std::printf("other %d\n", other);
  return {};
}

thaw::Result<void> run(const std::string& path, std::size_t bytes, const std::string& lie) {
  const bool old = lie == "no-remove-events";
  const bool forks = lie == "tells-of-forks";
  thaw::UniqueFd uffd =
      old     ? TRY(create_userfaultfd_for(0))
      : forks ? TRY(create_userfaultfd_for(UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_FORK))
              : TRY(thaw::create_userfaultfd());
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return thaw::fail_errno("mmap");
  const thaw::HostAddress base{reinterpret_cast<std::uintptr_t>(memory)};
  if (lie != "unregistered") TRY(thaw::register_missing(uffd, base, {bytes}));
  Regions regions{{base, {bytes}, {0}, {kPageBytes}}};
  const auto found = kRegionLies.find(lie);
  if (found != kRegionLies.end()) found->second(regions);
  std::deque<thaw::UniqueFd> kept;
  if (lie.starts_with("of-another")) {
    TRY(have_another_hand_over(lie, thaw::encode_handoff(regions), path, uffd));
    uffd.reset();
  } else {
    TRY(say(lie, thaw::encode_handoff(regions), path, uffd, kept));
    std::puts("handed over");
  }
  std::fflush(stdout);
  wait_for_line();
  if (lie == "holds-its-locks") {
    auto* const last = static_cast<std::byte*>(memory) + bytes - kPageBytes;
    const std::jthread touching(
        [&] { static_cast<void>(*static_cast<volatile std::byte*>(memory)); });
    while (faults_waiting(uffd) == 0) std::this_thread::yield();
    TRY(thaw::test::hold_own_locks(std::filesystem::path(path).parent_path() / "files/file", last));
  }
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
