// A page server that serves a store which another one owns and writes to.

#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "format/page_client.h"
#include "tests/support/restore_fixture.h"
#include "tests/support/test_support.h"

namespace thaw::test {
namespace {

class ReplicaTest : public RestoreTest {
 protected:
  /// Waits until the replica knows of it.
  void wait_for_snapshot(const std::string& name) {
    const Deadline deadline = Deadline::after(kPatience);
    while (replica_.thaw({"show", name}).exit_code != 0) ASSERT_FALSE(deadline.passed());
  }

  PageServer replica_{path("store"), 0, Surroundings::with({{"THAW_REPLICA", "1"}})};
};

INSTANTIATE_TEST_SUITE_P(Loops, ReplicaTest, both_loops(), loop_name);

TEST_P(ReplicaTest, ServesWhatItsOwnerWritesAndCollects) {
  write_file(path("other"), make_image(3, kPages));
  ASSERT_EQ(push("newer", "other").exit_code, 0);
  wait_for_snapshot("newer");
  ASSERT_EQ(server_.thaw({"rm", "snapshot"}).exit_code, 0);
  ASSERT_EQ(server_.thaw({"gc"}).exit_code, 0);
  ASSERT_EQ(server_.thaw({"compact"}).exit_code, 0);
  ASSERT_EQ(replica_.thaw({"pull", "newer", "--memory", path("pulled")}).exit_code, 0);
  EXPECT_EQ(read_file(path("pulled")), read_file(path("other")));
  server_.kill();
  ASSERT_EQ(replica_.thaw({"pull", "newer", "--memory", path("again")}).exit_code, 0);
  EXPECT_EQ(read_file(path("again")), read_file(path("other")));
  EXPECT_EQ(replica_.stop().value(), 0);
}

TEST_P(ReplicaTest, RefusesWhatWouldWrite) {
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"push", "new", "--memory", path("image")},
        {"rm", "snapshot"},
        {"gc"},
        {"scrub"},
        {"tag", "snapshot", "web:live"},
        {"label", "snapshot", "key=value"},
        {"namespace", "--quota", "1G"},
        {"ws", "drop", "snapshot"}}) {
    const Outcome outcome = replica_.thaw(command);
    EXPECT_NE(outcome.exit_code, 0) << command[0];
    EXPECT_EQ(Json::parse(outcome.output)["error"]["code"], "unsupported")
        << command[0] << ": " << outcome.output;
  }
}

TEST_P(ReplicaTest, LeavesDamageToItsOwner) {
  PageClient client = PageClient::connect(*resolve_tcp(replica_.address()), "default").value();
  EXPECT_EQ(code_of(client.report_damage({.chunks = {ChunkId::of(1, 0, 1)}, .snapshot = {}})),
            ErrorCode::kUnsupported);
  EXPECT_EQ(code_of(client.report_damage({.chunks = {}, .snapshot = {}, .packs = {{{1}, 1, 0}}})),
            ErrorCode::kUnsupported);
}

TEST_P(ReplicaTest, StoreWithoutAnIdOrWithoutAnythingIsRefused) {
  for (const char* const id : {"STORE_ID", "CURRENT"}) {
    std::filesystem::remove_all(path("copy"));
    std::filesystem::copy(path("store"), path("copy"), std::filesystem::copy_options::recursive);
    std::filesystem::remove(path("copy/") + id);
    Program refused({program_path("thaw-pageserver"), "--store", path("copy"), "--replica",
                     "--insecure", "--listen", "127.0.0.1:0"});
    EXPECT_EQ(refused.wait().value(), 1) << id;
  }
}

TEST_P(ReplicaTest, EndsWhenAnotherStoreIsInTheDirectory) {
  replace_store("other", "aside");
  const Deadline deadline = Deadline::after(kPatience);
  while (replica_.thaw({"ls"}).exit_code == 0) ASSERT_FALSE(deadline.passed());
  EXPECT_EQ(replica_.stop().value(), 1);
  replica_.start();
  EXPECT_NE(replica_.thaw({"show", "snapshot"}).exit_code, 0) << "it was in the one before";
  std::filesystem::remove(path("store/STORE_ID"));
  while (replica_.thaw({"ls"}).exit_code == 0) ASSERT_FALSE(deadline.passed());
  EXPECT_EQ(replica_.stop().value(), 1) << "nor may one that hands out ids anew be followed";
}

TEST_P(ReplicaTest, RestoreGoesOnFromItWhenTheOwnerIsKilled) {
  start_handler(server_.address(), {"--server", replica_.address()});
  prepare();
  Program vmm = start_half();
  server_.kill();
  vmm.tell("go on");
  EXPECT_EQ(vmm.wait().value(), 0);
}

TEST_P(ReplicaTest, RecordingGoesToTheOwner) {
  start_handler(replica_.address(), {"--server", server_.address()});
  const std::uint64_t number = prepare();
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  const Json report = wait_for(number, [](const Json& session) {
    return session["recording"] == "failed" || session["recording"] == "stored";
  });
  EXPECT_EQ(report["recording"], "stored");
  EXPECT_EQ(server_.thaw({"ws", "show", "snapshot"}).exit_code, 0);
}

}  // namespace
}  // namespace thaw::test
