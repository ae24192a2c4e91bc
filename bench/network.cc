#include "bench/network.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include <sched.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/support/programs.h"

namespace thaw::bench {

namespace {

constexpr const char* kClientAddress = "10.73.1.2";
constexpr const char* kDevice = "wire";
/// What tbf may send at once: a few milliseconds' worth, so that the rate is kept over short times.
constexpr std::uint64_t kLeastBurst = 64u << 10;
constexpr std::uint64_t kBurstsPerSecond = 2000;

Result<void> run(const std::vector<std::string>& command) {
  const test::Outcome outcome = test::run(command);
  if (outcome.exit_code == 0) return {};
  std::string text;
  for (const std::string& word : command) text += word + " ";
  return fail(ErrorCode::kUnsupported, "{}: exit code {}", text, outcome.exit_code);
}

}  // namespace

Result<std::unique_ptr<TwoHosts>> TwoHosts::create() {
  std::unique_ptr<TwoHosts> hosts(new TwoHosts());
  hosts->tag_ = std::to_string(::getpid());
  hosts->own_ = TRY(open_for_reading("/proc/thread-self/ns/net"));
  TRY(hosts->make());
  return hosts;
}

Result<void> TwoHosts::make() {
  const std::string server = "thaw-s-" + tag_;
  const std::string client = "thaw-c-" + tag_;
  for (const std::string& host : {server, client}) {
    TRY(run({"ip", "netns", "add", host}));
    TRY(run({"ip", "-n", host, "link", "set", "lo", "up"}));
  }
  TRY(run({"ip", "link", "add", "name", kDevice, "netns", server, "type", "veth", "peer", "name",
           kDevice, "netns", client}));
  for (const auto& [host, address] :
       {std::pair{server, kServerAddress}, std::pair{client, kClientAddress}}) {
    TRY(run({"ip", "-n", host, "address", "add", std::string(address) + "/30", "dev", kDevice}));
    TRY(run({"ip", "-n", host, "link", "set", kDevice, "up"}));
  }
  server_ = TRY(open_for_reading("/run/netns/" + server));
  client_ = TRY(open_for_reading("/run/netns/" + client));
  return {};
}

TwoHosts::~TwoHosts() {
  static_cast<void>(go_to(own_));
  for (const char* const host : {"thaw-s-", "thaw-c-"}) {
    static_cast<void>(run({"ip", "netns", "delete", host + tag_}));
  }
}

Result<void> TwoHosts::go_to(const UniqueFd& host) {
  if (::setns(host.get(), CLONE_NEWNET) != 0) return fail_errno("setns");
  return {};
}
Result<void> TwoHosts::go_to_server() { return go_to(server_); }
Result<void> TwoHosts::go_to_client() { return go_to(client_); }

Result<void> TwoHosts::set_rate(std::uint64_t bits_per_s) {
  for (const char* const name : {"thaw-s-", "thaw-c-"}) {
    const std::string host = name + tag_;
    if (shaped_) TRY(run({"tc", "-n", host, "qdisc", "delete", "dev", kDevice, "root"}));
    if (bits_per_s == 0) continue;
    const std::uint64_t burst = std::max(kLeastBurst, bits_per_s / 8 / kBurstsPerSecond);
    TRY(run({"tc", "-n", host, "qdisc", "add", "dev", kDevice, "root", "tbf", "rate",
             std::to_string(bits_per_s) + "bit", "burst", std::to_string(burst), "latency",
             "50ms"}));
  }
  shaped_ = bits_per_s != 0;
  return {};
}

Result<std::uint64_t> TwoHosts::bytes_received() const {
  constexpr std::size_t kMostBytes = 64u << 10;
  std::istringstream lines(TRY(read_text_file("/proc/thread-self/net/dev", kMostBytes)));
  for (std::string name; lines >> name;) {
    std::uint64_t bytes = 0;
    if (name == std::string(kDevice) + ":" && lines >> bytes) return bytes;
  }
  return fail(ErrorCode::kNotFound, "there is no link here");
}

}  // namespace thaw::bench
