#include "tests/support/restore_fixture.h"

#include <algorithm>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/clock.h"

namespace thaw::test {

RestoreTest::RestoreTest()
    : image_(make_image(1, kPages)), state_(make_image(2, 3)), server_(path("store")) {
  state_.resize(9001);
  write_file(path("image"), image_);
  write_file(path("state"), state_);
  EXPECT_EQ(push("snapshot").exit_code, 0);
  start_handler();
}

Outcome RestoreTest::push(const std::string& name, const std::string& image) {
  return server_.thaw({"push", name, "--memory", path(image), "--state", path("state")});
}

void RestoreTest::replace_store(const std::string& other, const std::string& aside) {
  server_.kill();
  std::filesystem::rename(path("store"), path(aside));
  if (std::filesystem::exists(path(other))) std::filesystem::rename(path(other), path("store"));
  server_.start();
}

void RestoreTest::start_handler(const std::string& server, const std::vector<std::string>& more) {
  handler_.reset();
  std::vector<std::string> command{program_path("thaw-faulthandler"),
                                   "--control",
                                   path("control"),
                                   "--insecure",
                                   "--server",
                                   server};
  command.insert(command.end(), more.begin(), more.end());
  if (GetParam() == LoopKind::kEpoll) {
    command.insert(command.begin(), program_path("without_io_uring"));
  }
  handler_ = std::make_unique<Program>(command);
  ASSERT_TRUE(succeeded(handler_->wait_for_line("ready on ")));
}

Outcome RestoreTest::control(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(),
                   {program_path("thaw"), "--json", "--control", path("control")});
  return run(arguments);
}

std::uint64_t RestoreTest::prepare(std::vector<std::string> more, const std::string& socket,
                                   const std::string& snapshot) {
  const auto has = [&](const char* option) { return std::ranges::count(more, option) > 0; };
  if (has("--shared") && !has("--owner")) more.emplace_back("--allow-root-vmm");
  more.insert(more.begin(), {"prepare", snapshot, "--socket", path(socket)});
  const Outcome outcome = control(more);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  return outcome.exit_code == 0 ? Json::parse(outcome.output)["session"].get<std::uint64_t>() : 0;
}

Program RestoreTest::start_vmm(const std::string& mode, const std::string& image,
                               const std::string& socket) {
  Program vmm({program_path("vmm"), path(socket), path(image), mode});
  EXPECT_TRUE(succeeded(vmm.wait_for_line("handed over")));
  return vmm;
}

Program RestoreTest::start_half() {
  Program vmm = start_vmm("halves");
  EXPECT_TRUE(succeeded(vmm.wait_for_line("half")));
  return vmm;
}

Json RestoreTest::session(std::uint64_t number) {
  const Outcome outcome = control({"ps"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  const Json list = Json::parse(outcome.output);
  for (const Json& report : list["sessions"]) {
    if (report["session"] == number) return report;
  }
  return {};
}

Json RestoreTest::wait_for(std::uint64_t number,
                           const std::function<bool(const Json& report)>& done) {
  const Deadline deadline = Deadline::after(kPatience);
  Json report = session(number);
  while (!done(report) && !deadline.passed()) report = session(number);
  EXPECT_TRUE(done(report)) << report.dump(2);
  return report;
}

Json RestoreTest::wait_for_state(std::uint64_t number, const std::string& state) {
  return wait_for(number, [&](const Json& report) { return report["state"] == state; });
}

}  // namespace thaw::test
