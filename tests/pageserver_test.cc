// The real page server process under clients that stall, lie, race, die and fill the disk.

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/mount.h>
#include <sys/resource.h>

#include "base/socket.h"
#include "format/hash.h"
#include "format/page_client.h"
#include "tests/support/page_connection.h"
#include "tests/support/programs.h"
#include "tests/support/test_support.h"
#include "tests/support/wire_message.h"

namespace thaw::test {
namespace {

using Json = nlohmann::json;

class PageServerTest : public testing::Test {
 protected:
  PageServerTest() : server_(path("store")) {}

  std::string path(const std::string& name) const { return directory_.path(name); }
  std::string image_file(std::uint64_t seed, std::size_t pages) {
    const std::string name = path("image" + std::to_string(seed));
    write_file(name, make_image(seed, pages));
    return name;
  }
  Outcome push(const std::string& name, const std::string& image) {
    return server_.thaw({"push", name, "--memory", image});
  }
  void expect_identical(const std::string& name, const std::string& image) {
    const std::string out = path(name + ".out");
    EXPECT_EQ(server_.thaw({"pull", name, "--memory", out}).exit_code, 0);
    EXPECT_TRUE(read_file(out) == read_file(image)) << name;
  }
  std::string error_of(const Outcome& outcome) {
    const Json json = Json::parse(outcome.output, nullptr, false);
    return json.is_object() && json.contains("error") ? json["error"]["code"] : "none";
  }
  std::vector<std::string> names() {
    std::vector<std::string> found;
    const Json list = Json::parse(server_.thaw({"ls"}).output);
    for (const Json& snapshot : list["snapshots"]) found.push_back(snapshot["name"]);
    return found;
  }
  UniqueFd connect() {
    return connect_tcp(*resolve_tcp(server_.address()), Deadline::after(kPatience)).value();
  }

  ScratchDirectory directory_;
  PageServer server_;
};

TEST_F(PageServerTest, PulledFilesAreIdentical) {
  const std::string image = image_file(1, 2000);
  const Bytes state = make_image(2, 3);
  write_file(path("state"), ByteSpan(state).first(9001));
  ASSERT_EQ(server_.thaw({"push", "a", "--memory", image, "--state", path("state")}).exit_code, 0);
  const Outcome pulled = server_.thaw({"pull", "a", "--memory", path("m"), "--state", path("s")});
  EXPECT_EQ(pulled.exit_code, 0);
  Hasher hasher;
  EXPECT_EQ(hasher.hash(read_file(path("m"))), hasher.hash(read_file(image)));
  EXPECT_EQ(read_file(path("s")), read_file(path("state")));
}

TEST_F(PageServerTest, FileThatIsNoWholePagesIsRefused) {
  write_file(path("odd"), Bytes(kPageBytes + 1));
  EXPECT_EQ(error_of(push("a", path("odd"))), "invalid_argument");
  write_file(path("empty"), {});
  EXPECT_EQ(error_of(push("a", path("empty"))), "invalid_argument");
  EXPECT_EQ(error_of(push("a", path("nothing"))), "not_found");
  EXPECT_TRUE(names().empty());
}

TEST_F(PageServerTest, RegionsThatDoNotTileTheMemoryAreRefused) {
  const std::string image = image_file(1, 1024);
  const auto with_regions = [&](const std::vector<std::string>& regions) {
    std::vector<std::string> command{"push", "a", "--memory", image};
    for (const std::string& region : regions) command.insert(command.end(), {"--region", region});
    return error_of(server_.thaw(command));
  };
  EXPECT_EQ(with_regions({"2M"}), "region_mismatch");
  EXPECT_EQ(with_regions({"4M", "4K"}), "region_mismatch");
  EXPECT_EQ(with_regions({"4M:64K"}), "region_mismatch");
  EXPECT_EQ(with_regions({"3M:2M", "1M"}), "region_unaligned");
  EXPECT_EQ(with_regions({"huge"}), "invalid_argument");
  EXPECT_EQ(with_regions({"2M:2M", "2M"}), "none");
}

TEST_F(PageServerTest, OneOfTwoPushesOfANameWins) {
  const std::string first = image_file(1, 3000);
  const std::string second = image_file(2, 3000);
  std::vector<Program> pushes;
  for (const std::string& image : {first, second}) {
    pushes.emplace_back(std::vector<std::string>{program_path("thaw"), "--json", "--insecure",
                                                 "--server", server_.address(), "push", "a",
                                                 "--memory", image});
  }
  std::vector<int> exits;
  for (Program& program : pushes) {
    const std::string output = program.rest_of_output();
    exits.push_back(program.wait().value());
    if (exits.back() == 0) continue;
    EXPECT_EQ(error_of({exits.back(), output}), "already_exists");
  }
  ASSERT_EQ(std::ranges::count(exits, 0), 1);
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
  expect_identical("a", exits[0] == 0 ? first : second);
}

TEST_F(PageServerTest, GarbageIsAnsweredByNameAndHarmsNobody) {
  const std::string image = image_file(1, 100);
  const UniqueFd socket = connect();
  const Deadline deadline = Deadline::after(kPatience);
  ASSERT_TRUE(send_all(socket, as_bytes(std::string(64, 'x')), deadline));
  const auto reply = receive_message(socket, deadline);
  ASSERT_TRUE(succeeded(reply));
  EXPECT_EQ(std::get<message::ErrorReply>(reply->envelope.message).code, ErrorCode::kBadMagic);
  EXPECT_EQ(code_of(receive_message(socket, deadline)), ErrorCode::kUnavailable);
  EXPECT_EQ(push("a", image).exit_code, 0);
}

TEST_F(PageServerTest, StalledMessageIsCutOffWhileOthersWork) {
  const UniqueFd socket = connect();
  Bytes hello;
  encode_message(message::Hello{.name_space = "default"}, 1, 0, hello);
  ASSERT_TRUE(send_all(socket, ByteSpan(hello).first(20), Deadline::after(kPatience)));
  const std::string image = image_file(1, 100);
  EXPECT_EQ(push("a", image).exit_code, 0);
  expect_identical("a", image);
  std::array<std::byte, 1> byte;
  const auto end = receive_some(socket, byte, Deadline::after(kPatience));
  EXPECT_TRUE(!end || *end == 0 || byte[0] == std::byte{'T'});
}

class DemandTest : public PageServerTest {
 protected:
  PageConnection connect_demand() { return {server_.address(), message::Role::kDemand}; }
  ChunkId first_chunk() {
    EXPECT_EQ(push("a", image_file(1, 100)).exit_code, 0);
    auto client = PageClient::connect(*resolve_tcp(server_.address()), "default");
    const Manifest manifest = client->show("a").value();
    const PageMap map = client->page_map(manifest).value();
    std::uint64_t page = 0;
    while (map.find({page}).zero()) ++page;
    return map.chunk_of({page});
  }

  Deadline deadline_ = Deadline::after(kPatience);
};

TEST_F(DemandTest, RefusalsByName) {
  const ChunkId chunk = first_chunk();
  PageConnection good = connect_demand();
  good.send(message::GetChunks{.ids = {{chunk.value + 5000}}});
  EXPECT_EQ(good.receive_error(), ErrorCode::kNotFound);
  good.send(message::GetChunks{.ids = {ChunkId::of(77, 0, 1)}});
  EXPECT_EQ(good.receive_error(), ErrorCode::kWrongNamespace);
  good.send(message::ListSnapshots{});
  EXPECT_EQ(good.receive_error(), ErrorCode::kProtocol);
  good.send(message::GetPack{});
  EXPECT_EQ(good.receive_error(), ErrorCode::kProtocol);
  const auto served = good.ask(message::GetChunks{.ids = {chunk, chunk}});
  EXPECT_EQ(std::get<message::Chunks>(served.message).count, 2u) << "it is served on after all";
}

TEST_F(DemandTest, MessagesThatAreNoneEndTheConnectionWithTheirName) {
  PageConnection body = connect_demand();
  body.send(message::GetChunks{.ids = {{1}}}, Bytes(1));
  EXPECT_EQ(body.receive_error(), ErrorCode::kTooLarge);
  body.expect_closed();
  PageConnection garbage = connect_demand();
  ASSERT_TRUE(succeeded(send_all(garbage.socket(), as_bytes(std::string(64, 'x')), deadline_)));
  EXPECT_EQ(garbage.receive_error(), ErrorCode::kBadMagic);
  garbage.expect_closed();
}

/// A server of its own that may have few descriptors, or little else.
class FewConnectionsTest : public PageServerTest {
 protected:
  /// `limit` is what the shell sets first.
  void start(const std::string& limit, const std::string& options = {}) {
    few_ = std::make_unique<Program>(std::vector<std::string>{
        "/bin/sh", "-c",
        limit + "; exec " + program_path("thaw-pageserver") + " --store " + path("few") +
            " --insecure --listen 127.0.0.1:0 --min-free-mib 0 " + options});
    address_ = *resolve_tcp(few_->wait_for_line("listening on ").value());
  }
  /// Nothing where the server has refused it, which is kLimitExceeded.
  std::optional<UniqueFd> greeted(message::Role role = message::Role::kDemand) {
    UniqueFd socket = connect_tcp(address_, deadline_).value();
    Bytes hello;
    encode_message(message::Hello{.role = role, .name_space = "default"}, 1, 0, hello);
    if (!send_all(socket, hello, deadline_)) return std::nullopt;
    const auto reply = receive_message(socket, deadline_);
    if (!reply) return std::nullopt;
    const auto* const refusal = std::get_if<message::ErrorReply>(&reply->envelope.message);
    if (refusal == nullptr) return socket;
    EXPECT_EQ(refusal->code, ErrorCode::kLimitExceeded) << refusal->text;
    ++refusals_;
    return std::nullopt;
  }
  std::vector<UniqueFd> strangers(std::size_t count) {
    std::vector<UniqueFd> sockets;
    for (std::size_t i = 0; i < count; ++i) {
      sockets.push_back(connect_tcp(address_, deadline_).value());
    }
    return sockets;
  }
  int push_to_it(const std::string& name) {
    return run({program_path("thaw"), "--insecure", "--server", address_.text(), "push", name,
                "--memory", image_file(1, 300)})
        .exit_code;
  }
  bool has_room() {
    while (!deadline_.passed()) {
      if (greeted()) return true;
    }
    return false;
  }

  Deadline deadline_ = Deadline::after(kPatience);
  std::unique_ptr<Program> few_;
  TcpAddress address_;
  int refusals_ = 0;
};

TEST_F(FewConnectionsTest, OneTooManyIsToldSoAndThoseThatHaveEndedMakeRoom) {
  start("true", "--max-connections 2");
  auto first = greeted();
  auto second = greeted(message::Role::kControl);
  ASSERT_TRUE(first && second);
  EXPECT_FALSE(greeted());
  EXPECT_EQ(refusals_, 1) << "it can read why";
  first.reset();
  second.reset();
  EXPECT_TRUE(has_room());
}

TEST_F(FewConnectionsTest, StrangersTakeNobodysPlace) {
  int pushed = 0;
  for (const char* const limit : {"ulimit -n 64", "ulimit -n 256", "ulimit -Sn 256"}) {
    SCOPED_TRACE(limit);
    start(limit);
    const auto kept = greeted();
    ASSERT_TRUE(kept);
    const auto idle = strangers(300);
    EXPECT_EQ(push_to_it("beside-" + std::to_string(++pushed)), 0);
    EXPECT_TRUE(greeted());
    few_.reset();
  }
}

TEST_F(FewConnectionsTest, PeersLeaveDescriptorsForTheStore) {
  start("ulimit -n 256");
  std::vector<UniqueFd> peers;
  for (int i = 0; i < 250; ++i) {
    if (auto peer = greeted(message::Role::kControl)) peers.push_back(*std::move(peer));
  }
  EXPECT_GT(refusals_, 0);
  EXPECT_GT(peers.size(), 50u);
  EXPECT_LT(peers.size(), 128u);
  peers.pop_back();
  EXPECT_TRUE(has_room());
  EXPECT_EQ(push_to_it("b"), 0) << "the store can be written";
}

TEST_F(FewConnectionsTest, WhoSaysNoHelloIsLeft) {
  start("true");
  const auto idle = strangers(1);
  std::array<std::byte, 1> byte;
  const auto end = receive_some(idle[0], byte, deadline_);
  EXPECT_TRUE(end && *end == 0);
}

TEST_F(FewConnectionsTest, WithoutAThreadAConnectionIsRefusedByName) {
  start("true");
  std::ifstream statm("/proc/" + std::to_string(few_->pid()) + "/statm");
  std::size_t pages = 0;
  statm >> pages;
  // The stack of a thread takes more.
  const rlimit little{.rlim_cur = pages * kPageBytes + (4u << 20), .rlim_max = RLIM_INFINITY};
  ASSERT_EQ(::prlimit(few_->pid(), RLIMIT_AS, &little, nullptr), 0);
  EXPECT_FALSE(greeted());
  EXPECT_EQ(refusals_, 1);
  EXPECT_TRUE(greeted(message::Role::kControl));
  const rlimit enough{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  ASSERT_EQ(::prlimit(few_->pid(), RLIMIT_AS, &enough, nullptr), 0);
  EXPECT_TRUE(greeted());
}

TEST_F(FewConnectionsTest, RequestsForWhichThereIsNoMemoryAreRefusedByName) {
  start("true");
  std::vector<PageConnection> peers;
  for (int i = 0; i < 8; ++i) peers.emplace_back(address_.text(), message::Role::kControl);
  std::ifstream statm("/proc/" + std::to_string(few_->pid()) + "/statm");
  std::size_t pages = 0;
  statm >> pages;
  // Some requests find room that is free in the process.
  const rlimit little{.rlim_cur = pages * kPageBytes + (3u << 20), .rlim_max = RLIM_INFINITY};
  ASSERT_EQ(::prlimit(few_->pid(), RLIMIT_AS, &little, nullptr), 0);
  const Bytes body(limits::kMaxBodyBytes);
  Bytes head;
  encode_message(message::Upload{1}, 7, body.size(), head);
  for (PageConnection& peer : peers) {
    ASSERT_TRUE(succeeded(send_all(peer.socket(), head, deadline_)));
    ASSERT_TRUE(succeeded(send_all(peer.socket(), ByteSpan(body).subspan(1), deadline_)));
  }
  int refused = 0;
  for (PageConnection& peer : peers) {
    ASSERT_TRUE(succeeded(send_all(peer.socket(), ByteSpan(body).first(1), deadline_)));
    const ErrorCode code = peer.receive_error();
    EXPECT_TRUE(code == ErrorCode::kLimitExceeded || code == ErrorCode::kProtocol);
    if (code == ErrorCode::kLimitExceeded) ++refused;
  }
  EXPECT_GT(refused, 0);
  const rlimit enough{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  ASSERT_EQ(::prlimit(few_->pid(), RLIMIT_AS, &enough, nullptr), 0);
  for (PageConnection& peer : peers) {
    peer.send(message::Upload{1}, body);
    EXPECT_EQ(peer.receive_error(), ErrorCode::kProtocol) << "no push has begun";
  }
}

TEST_F(DemandTest, RequestInAnyPiecesIsAnswered) {
  const ChunkId chunk = first_chunk();
  PageConnection connection = connect_demand();
  Bytes bytes;
  for (std::uint64_t i = 1; i <= 3; ++i) {
    encode_get_chunks(std::array{chunk}, 0, i, bytes);
  }
  for (const std::byte& byte : bytes) {
    ASSERT_TRUE(succeeded(send_all(connection.socket(), ByteSpan(&byte, 1), deadline_)));
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(std::get<message::Chunks>(connection.receive().message).count, 1u);
  }
}

TEST_F(DemandTest, PeerThatTakesNoRepliesHoldsUpNobodyElse) {
  const ChunkId chunk = first_chunk();
  const PageConnection slow = connect_demand();
  Bytes bytes;
  encode_get_chunks(std::vector<ChunkId>(limits::kMaxChunksPerRequest, chunk), 0, 1, bytes);
  // Until neither side's buffers take any more.
  std::size_t sent = 0;
  for (std::size_t n = 1; n > 0; sent += n) n = send_at_once(slow.socket(), bytes);
  EXPECT_GT(sent, bytes.size());
  PageConnection other = connect_demand();
  const auto reply = other.ask(message::GetChunks{.ids = {chunk}});
  EXPECT_EQ(std::get<message::Chunks>(reply.message).count, 1u);
}

TEST_F(PageServerTest, ConnectionsLeakNothing) {
  ASSERT_EQ(push("a", image_file(1, 50)).exit_code, 0);
  const auto visit = [&](int times) {
    for (int i = 0; i < times; ++i) {
      auto client = PageClient::connect(*resolve_tcp(server_.address()), "default");
      ASSERT_TRUE(succeeded(client));
      ASSERT_TRUE(succeeded(client->show("a")));
    }
  };
  visit(5);
  const std::size_t before = open_descriptors(server_.pid()).size();
  visit(200);
  EXPECT_LE(open_descriptors_down_to(server_.pid(), before), before);
}

TEST_F(PageServerTest, SigtermEndsInSuccess) {
  const UniqueFd idle = connect();
  EXPECT_EQ(server_.stop().value(), 0);
}

TEST_F(PageServerTest, PlainTcpBeyondLoopbackNeedsAWord) {
  const Outcome outcome =
      run({program_path("thaw-pageserver"), "--store", path("other"), "--listen", "0.0.0.0:0"});
  EXPECT_EQ(outcome.exit_code, 2);
}

TEST_F(PageServerTest, ExitCodesTellWhatIsWrong) {
  EXPECT_EQ(server_.thaw({"frobnicate"}).exit_code, 2);
  EXPECT_EQ(server_.thaw({"show", "nothing"}).exit_code, 3);
  const std::string image = image_file(1, 10);
  EXPECT_EQ(push("a", image).exit_code, 0);
  EXPECT_EQ(push("a", image).exit_code, 5);
  server_.kill();
  EXPECT_EQ(server_.thaw({"ls"}).exit_code, 4);
}

TEST_F(PageServerTest, FlagGoesBeforeEnvironmentBeforeFile) {
  ASSERT_EQ(push("a", image_file(1, 10)).exit_code, 0);
  std::ofstream(path("thaw.toml"))
      << "server = \"" << server_.address() << "\"\nnamespace = \"file\"\n";
  const auto count = [&](const std::string& environment, const std::string& flags) {
    const std::string command = environment + " THAW_CONFIG=" + path("thaw.toml") + " " +
                                program_path("thaw") + " --json --insecure " + flags + " ls";
    return Json::parse(run({"/bin/sh", "-c", command}).output)["snapshots"].size();
  };
  EXPECT_EQ(count("", ""), 0u);
  EXPECT_EQ(count("THAW_NAMESPACE=default", ""), 1u);
  EXPECT_EQ(count("THAW_NAMESPACE=other", "--namespace default"), 1u);
  for (const char* const text :
       {"server = [\n", "[^x]\n", "namespace = 1.5\n", "namespace = 1979-05-27\n",
        "namespace = [1, 666666666666666666662.5]\n"}) {
    std::ofstream(path("thaw.toml")) << text;
    EXPECT_EQ(run({"/bin/sh", "-c",
                   "THAW_CONFIG=" + path("thaw.toml") + " " + program_path("thaw") + " ls"})
                  .exit_code,
              2)
        << text;
  }
}

/// With a reserve, and down to the last byte.
class FullDiskTest : public PageServerTest, public testing::WithParamInterface<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(MinFreeMib, FullDiskTest, testing::Values(4, 0));

TEST_P(FullDiskTest, FailsThePushAndNothingElse) {
  const std::string mount = path("small");
  std::filesystem::create_directory(mount);
  if (::mount("tmpfs", mount.c_str(), "tmpfs", 0, "size=48m") != 0) {
    GTEST_SKIP() << "may not mount a small file system";
  }
  {
    PageServer small(mount + "/store", GetParam());
    auto generator = seeded_generator();
    const std::string first = image_file(1, 500);
    write_file(path("large"), random_bytes(generator, 24000 * kPageBytes));
    write_file(path("second"), random_bytes(generator, 2000 * kPageBytes));
    write_file(mount + "/filler", Bytes(16u << 20));
    ASSERT_EQ(small.thaw({"push", "first", "--memory", first}).exit_code, 0);
    const Outcome full = small.thaw({"push", "large", "--memory", path("large")});
    EXPECT_EQ(error_of(full), "no_space") << full.output;
    EXPECT_EQ(small.thaw({"pull", "first", "--memory", path("first.out")}).exit_code, 0);
    EXPECT_EQ(read_file(path("first.out")), read_file(first));
    EXPECT_EQ(error_of(small.thaw({"show", "large"})), "not_found");
    std::filesystem::remove(mount + "/filler");
    const Outcome again = small.thaw({"push", "second", "--memory", path("second")});
    EXPECT_EQ(again.exit_code, 0) << again.output;
    EXPECT_EQ(small.thaw({"pull", "second", "--memory", path("second.out")}).exit_code, 0);
    EXPECT_EQ(read_file(path("second.out")), read_file(path("second")));
  }
  EXPECT_EQ(::umount2(mount.c_str(), MNT_DETACH), 0);
}

TEST_F(PageServerTest, KilledAtAnyTimeItKeepsEveryAcknowledgedSnapshot) {
  auto generator = seeded_generator();
  std::map<std::string, std::string> acknowledged;  // name to image file
  for (int round = 0; round < 15; ++round) {
    std::vector<std::pair<std::string, Program>> pushes;
    for (int client = 0; client < 2; ++client) {
      const auto seed = static_cast<std::uint64_t>(round) * 2 + static_cast<unsigned>(client);
      const std::string name = "s" + std::to_string(seed);
      pushes.emplace_back(
          name, Program({program_path("thaw"), "--json", "--insecure", "--server",
                         server_.address(), "push", name, "--memory", image_file(seed, 1500)}));
    }
    // The moment is random on purpose: the test holds for every one.
    std::this_thread::sleep_for(std::chrono::milliseconds(pick(generator, 120)));
    server_.kill();
    server_.start();
    for (auto& [name, program] : pushes) {
      program.rest_of_output();
      // A push whose connection broke goes on with the restarted server.
      if (program.wait().value() == 0) acknowledged[name] = path("image" + name.substr(1));
    }
  }
  EXPECT_GT(acknowledged.size(), 0u);
  server_.kill();
  server_.start();
  for (const std::string& name : names()) expect_identical(name, path("image" + name.substr(1)));
  for (const auto& [name, image] : acknowledged) expect_identical(name, image);
}

}  // namespace
}  // namespace thaw::test
