#include "tests/support/lossy_server.h"

#include <algorithm>

#include "tests/support/test_support.h"

namespace thaw::test {

std::optional<LossyServer> LossyServer::start(const LossyDisk& disk, const LossyDisk::Fate& fate) {
  auto program = std::make_unique<Program>(
      std::vector<std::string>{program_path("thaw-pageserver"), "--store", disk.directory(),
                               "--insecure", "--listen", "127.0.0.1:0", "--min-free-mib", "0",
                               "--upkeep-mib-s", "4096", "--upkeep-interval-s", "1", "--gc-percent",
                               "0"},
      disk.surroundings(fate));
  const auto address = program->wait_for_line("listening on ");
  if (address) return LossyServer{std::move(program), resolve_tcp(*address).value()};
  EXPECT_FALSE(fate.kill_at.empty()) << address.error().message() << "\n" << last_messages(disk);
  EXPECT_EQ(program->wait().value_or(-1), kKilled) << last_messages(disk);
  return std::nullopt;
}

void LossyServer::kill(const LossyDisk& disk) {
  program->signal(SIGKILL);
  EXPECT_EQ(program->wait().value_or(-1), kKilled) << last_messages(disk);
}

std::string last_messages(const LossyDisk& disk) {
  const Bytes all = read_file(disk.messages());
  const std::size_t kept = std::min<std::size_t>(all.size(), 2000);
  return std::string(as_text(ByteSpan(all).last(kept)));
}

}  // namespace thaw::test
