// The real programs over TLS: page server, fault handler and `thaw`, and peers that are none.

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>

#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "base/certificates.h"
#include "base/descriptor_limit.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/stream.h"
#include "format/page_client.h"
#include "tests/support/authority.h"
#include "tests/support/restore_fixture.h"

namespace thaw::test {
namespace {

/// Those of a page server that shows these files; without a policy every certificate may do
/// everything.
Surroundings showing(const TlsFiles& files, const std::string& policy = {}) {
  Surroundings surroundings;
  surroundings.environment = {{"THAW_TLS_CERT", files.certificate},
                              {"THAW_TLS_KEY", files.key},
                              {"THAW_TLS_CA", files.authority}};
  if (!files.revoked.empty()) {
    surroundings.environment.push_back({"THAW_TLS_CRL", files.revoked});
  }
  surroundings.environment.push_back(policy.empty() ? EnvironmentVariable{"THAW_ALLOW_ALL", "1"}
                                                    : EnvironmentVariable{"THAW_POLICY", policy});
  return surroundings;
}

std::string error_of(const Outcome& outcome) {
  const Json json = Json::parse(outcome.output, nullptr, false);
  return json.is_object() && json.contains("error") ? json["error"]["code"] : "none";
}

class TlsTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path(name); }
  Outcome thaw_as(const TlsFiles& files, std::vector<std::string> arguments) const {
    const auto flags = tls_flags(files);
    arguments.insert(arguments.begin(), flags.begin(), flags.end());
    return server_.thaw(std::move(arguments));
  }
  ServerAddress server_for(const TlsFiles& files) const {
    return resolve_server(server_.address(), {files, false}).value();
  }
  UniqueFd connect_plainly() const {
    return connect_tcp(*resolve_tcp(server_.address()), Deadline::after(kPatience)).value();
  }

  const ScratchDirectory directory_;
  const Authority authority_;
  const TlsFiles client_ = authority_.issue("client");
  const TlsFiles server_files_ = authority_.issue("server");
  PageServer server_{path("store"), 0, showing(server_files_)};
};

TEST_F(TlsTest, SnapshotsComeBackAsTheyWent) {
  const Bytes image = make_image(1, 1000);
  write_file(path("image"), image);
  ASSERT_EQ(thaw_as(client_, {"push", "a", "--memory", path("image")}).exit_code, 0);
  const Outcome pulled = thaw_as(client_, {"pull", "a", "--memory", path("pulled")});
  EXPECT_EQ(pulled.exit_code, 0) << pulled.output;
  EXPECT_TRUE(read_file(path("pulled")) == image);
}

TEST_F(TlsTest, PeersThatAreNoneAreRefusedByName) {
  const Authority stranger;
  EXPECT_EQ(error_of(thaw_as(stranger.issue("client"), {"ls"})), "tls");
  EXPECT_EQ(error_of(thaw_as(authority_.issue("old", {}, -std::chrono::hours(1)), {"ls"})), "tls");
  EXPECT_EQ(error_of(server_.thaw({"ls"})), "unavailable") << "without TLS";
  TlsFiles half = client_;
  half.key.clear();
  EXPECT_EQ(error_of(thaw_as(half, {"ls"})), "invalid_argument");
  ASSERT_EQ(::chmod(client_.key.c_str(), 0644), 0);
  EXPECT_EQ(error_of(thaw_as(client_, {"ls"})), "permission");
}

TEST_F(TlsTest, ServersThatAreNoneAreRefusedByName) {
  PageServer plain(path("plain"));
  const auto flags = tls_flags(client_);
  std::vector<std::string> arguments(flags.begin(), flags.end());
  arguments.emplace_back("ls");
  EXPECT_EQ(error_of(plain.thaw(arguments)), "tls") << "one without TLS";
  PageServer other(path("other"), 0, showing(authority_.issue("other", {"192.0.2.1"})));
  EXPECT_EQ(error_of(other.thaw(arguments)), "tls") << "one of another address";
}

TEST(Transport, PlainTcpIsRefusedOnLoopbackTooUnlessItIsAllowed) {
  const ScratchDirectory directory;
  for (const std::string address : {"0.0.0.0:0", "127.0.0.1:0", "[::1]:0"}) {
    EXPECT_EQ(run({program_path("thaw-pageserver"), "--store", directory.path("store"), "--listen",
                   address})
                  .exit_code,
              2)
        << address;
  }
  for (const std::string address : {"192.0.2.1:7433", "127.0.0.1:7433", "localhost:7433"}) {
    EXPECT_EQ(run({program_path("thaw-faulthandler"), "--control", directory.path("control"),
                   "--server", address})
                  .exit_code,
              2)
        << address;
    EXPECT_EQ(error_of(run({program_path("thaw"), "--json", "--server", address, "ls"})),
              "invalid_argument")
        << address;
  }
}

TEST(Transport, TlsTakesAPolicyOrAWordThatThereIsNone) {
  const ScratchDirectory directory;
  const Authority authority;
  std::vector<std::string> server{program_path("thaw-pageserver"), "--store",
                                  directory.path("store"), "--listen", "127.0.0.1:0"};
  const auto flags = tls_flags(authority.issue("server"));
  server.insert(server.end(), flags.begin(), flags.end());
  EXPECT_EQ(run(server).exit_code, 2);
  server.insert(server.end(), {"--policy", directory.path("policy"), "--allow-all"});
  EXPECT_EQ(run(server).exit_code, 2);
}

/// A page server on a UNIX socket that other users find.
class UnixSocketTest : public testing::Test {
 protected:
  UnixSocketTest() {
    std::filesystem::permissions(path(""), std::filesystem::perms(0755));
    write_file(path("image"), make_image(1, 300));
  }
  std::string path(const std::string& name) const { return directory_.path(name); }
  PageServer start(std::vector<EnvironmentVariable> environment = {}) const {
    Surroundings surroundings = Surroundings::with(std::move(environment));
    surroundings.host = "unix:" + path("run/server.sock");
    return PageServer(path("store"), 0, surroundings);
  }
  std::string code_as_nobody(const std::vector<std::string>& words) const {
    std::vector<std::string> command{"setpriv",
                                     "--reuid=65534",
                                     "--regid=65534",
                                     "--clear-groups",
                                     program_path("thaw"),
                                     "--json",
                                     "--server",
                                     "unix:" + path("run/server.sock")};
    command.insert(command.end(), words.begin(), words.end());
    return error_of(run(command));
  }

  ScratchDirectory directory_;
};

TEST_F(UnixSocketTest, IsForTheServersUserAndRootAlone) {
  const PageServer server = start();
  EXPECT_EQ(std::filesystem::status(path("run/server.sock")).permissions(),
            std::filesystem::perms(0600));
  ASSERT_EQ(server.thaw({"push", "a", "--memory", path("image")}).exit_code, 0);
  ASSERT_EQ(server.thaw({"pull", "a", "--memory", path("pulled")}).exit_code, 0);
  EXPECT_TRUE(read_file(path("pulled")) == read_file(path("image")));
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes another user";

  EXPECT_EQ(code_as_nobody({"ls"}), "permission");
  // What the kernel says of a peer counts, not the mode of the file.
  std::filesystem::permissions(path("run/server.sock"), std::filesystem::perms(0666));
  EXPECT_EQ(code_as_nobody({"ls"}), "unauthorized");
}

TEST_F(UnixSocketTest, PolicyNamesUsers) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes another user";
  replace_file(path("policy"),
               "[[peer]]\nidentity = \"uid:65534\"\nnamespaces = [\"*\"]\nroles = [\"read\"]\n");
  const PageServer server = start({{"THAW_POLICY", path("policy")}});

  EXPECT_EQ(code_as_nobody({"ls"}), "none");
  EXPECT_EQ(code_as_nobody({"rm", "a"}), "unauthorized");
  EXPECT_EQ(error_of(server.thaw({"ls"})), "unauthorized") << "root is not named";
}

TEST_F(UnixSocketTest, IsTakenOverFromAServerThatDied) {
  PageServer server = start();
  server.kill();
  server.start();
  EXPECT_EQ(server.thaw({"ls"}).exit_code, 0);
  Program second(
      {program_path("thaw-pageserver"), "--store", path("second"), "--listen", server.address()});
  EXPECT_EQ(second.wait().value_or(0), 1) << "it is in use";
}

TEST(Transport, UnixAddressesThatMeanNothingAreRefused) {
  const ScratchDirectory directory;
  for (const std::string& address :
       {std::string("unix:"), std::string("unix:relative"), std::string("unix:/directory/"),
        "unix:/" + std::string(200, 'a')}) {
    EXPECT_EQ(error_of(run({program_path("thaw"), "--json", "--server", address, "ls"})),
              "invalid_argument")
        << address;
    EXPECT_EQ(run({program_path("thaw-pageserver"), "--store", directory.path("store"), "--listen",
                   address})
                  .exit_code,
              2)
        << address;
  }
}

TEST_F(TlsTest, ThawMakesCertificatesThatWork) {
  const std::string pki = path("pki");
  const auto thaw = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {program_path("thaw"), "--json"});
    return run(arguments);
  };
  ASSERT_EQ(thaw({"certs", "init", pki}).exit_code, 0);
  EXPECT_EQ(error_of(thaw({"certs", "init", pki})), "already_exists");
  EXPECT_EQ(error_of(thaw({"certs", "issue", pki, "ca"})), "invalid_argument");
  const auto issue = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"certs", "issue", pki, name};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Json issued = Json::parse(thaw(arguments).output);
    return TlsFiles{issued["certificate"], issued["key"], pki + "/ca.pem"};
  };
  issue("pages", {"--host", "127.0.0.1", "--host", "::1", "--host", "pages.example"});
  const TlsFiles served = issue("pages", {});  // for the same hosts
  const std::string renewed = read_text_file(served.certificate, limits::kMaxPemBytes).value();
  EXPECT_EQ(hosts_of_certificate(renewed).value(),
            (std::vector<std::string>{"127.0.0.1", "::1", "pages.example"}));
  struct stat status{};
  ASSERT_EQ(::stat(served.key.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);

  PageServer server(path("own"), 0, showing(served));
  std::vector<std::string> arguments = tls_flags(issue("ops", {}));
  arguments.emplace_back("ls");
  EXPECT_EQ(server.thaw(arguments).exit_code, 0);
}

/// Waits until the server closes it.
bool is_closed_within(const UniqueFd& socket, std::chrono::seconds patience) {
  const Deadline deadline = Deadline::after(patience);
  Bytes rest(4096);
  while (true) {
    const auto n = receive_some(socket, rest, deadline);
    if (!n) return n.error().code() != ErrorCode::kTimeout;
    if (*n == 0) return true;
  }
}

TEST_F(TlsTest, PeersThatStopInTheHandshakeAreLeftAndHoldUpNobody) {
  const UniqueFd silent = connect_plainly();
  const UniqueFd halfway = connect_plainly();
  // The head of a record with a ClientHello, and no more.
  ASSERT_TRUE(succeeded(send_all(halfway, as_bytes(std::string_view("\x16\x03\x01\x01\x00\x01", 6)),
                                 Deadline::after(kPatience))));
  EXPECT_EQ(thaw_as(client_, {"ls"}).exit_code, 0);
  const auto patience = 2 * limits::kHandshakeTimeout;
  EXPECT_TRUE(is_closed_within(silent, patience));
  EXPECT_TRUE(is_closed_within(halfway, patience));
}

TEST_F(TlsTest, RevokedCertificatesAreRefusedByBothSides) {
  const std::string pki = path("pki");
  const auto certs = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {program_path("thaw"), "--json", "certs"});
    return error_of(run(words));
  };
  const auto files_of = [&](const std::string& name) {
    return TlsFiles{pki + "/" + name + ".pem", pki + "/" + name + "-key.pem", pki + "/ca.pem",
                    pki + "/revoked.crl"};
  };
  ASSERT_EQ(certs({"init", pki}), "none");
  for (const std::string name : {"pages", "a", "b"}) {
    ASSERT_EQ(certs({"issue", pki, name, "--host", "127.0.0.1"}), "none");
  }
  PageServer server(path("own"), 0, showing(files_of("pages")));
  const auto ls_as = [&](const std::string& name) {
    auto words = tls_flags(files_of(name));
    words.emplace_back("ls");
    return error_of(server.thaw(words));
  };
  // A thief has copies of what was replaced since.
  for (const char* const suffix : {".pem", "-key.pem"}) {
    std::filesystem::copy(fmt::format("{}/a{}", pki, suffix), fmt::format("{}/old{}", pki, suffix));
  }
  ASSERT_EQ(certs({"issue", pki, "a"}), "none");
  for (const char* const name : {"old", "a", "b"}) EXPECT_EQ(ls_as(name), "none") << name;

  EXPECT_EQ(certs({"revoke", pki, "never-issued"}), "not_found");
  EXPECT_EQ(certs({"revoke", pki, "a"}), "none");
  EXPECT_EQ(certs({"revoke", pki, "a"}), "already_exists");
  EXPECT_EQ(certs({"revoke", pki, server_files_.certificate}), "invalid_argument")
      << "another authority's";
  const Deadline deadline = Deadline::after(kPatience);
  while (ls_as("a") == "none" && !deadline.passed()) {
  }
  EXPECT_EQ(ls_as("a"), "tls");
  EXPECT_EQ(ls_as("old"), "tls");
  EXPECT_EQ(ls_as("b"), "none");
  // The clients read the list, too.
  EXPECT_EQ(certs({"revoke", pki, "pages"}), "none");
  EXPECT_EQ(ls_as("b"), "tls");
}

TEST_F(TlsTest, ConnectionsOfARevokedCertificateAreClosed) {
  authority_.revoke({});
  Surroundings surroundings = showing(authority_.with_list(server_files_));
  surroundings.messages = path("log");
  PageServer server(path("own"), 0, surroundings);
  const auto connect = [&](const TlsFiles& files, message::Role role) {
    const ServerAddress address = resolve_server(server.address(), {files, false}).value();
    return PageClient::connect(address, "default", role).value();
  };
  const TlsFiles revoked = authority_.issue("revoked");
  PageClient commands = connect(revoked, message::Role::kControl);
  PageClient pages = connect(revoked, message::Role::kDemand);
  PageClient prefetch = connect(revoked, message::Role::kPrefetch);
  PageClient other_commands = connect(client_, message::Role::kControl);
  PageClient other_pages = connect(client_, message::Role::kDemand);

  authority_.revoke("revoked");

  // They ask for nothing.
  const auto log = [&] { return std::string(as_text(read_file(path("log")))); };
  const Deadline deadline = Deadline::after(kPatience);
  while (!log().contains("left thaw://") && !deadline.passed()) {
  }
  EXPECT_TRUE(log().contains("left thaw://revoked (connections: 3): tls: ")) << log();
  EXPECT_FALSE(log().contains("left thaw://client")) << log();
  EXPECT_FALSE(succeeded(commands.list()));
  for (PageClient* const client : {&pages, &prefetch}) {
    EXPECT_FALSE(client->request_chunks({ChunkId{1}}) && client->receive_chunks());
  }
  EXPECT_TRUE(succeeded(other_commands.list()));
  ASSERT_TRUE(succeeded(other_pages.request_chunks({ChunkId{1}})));
  EXPECT_EQ(code_of(other_pages.receive_chunks()), ErrorCode::kNotFound) << "it is answered";
}

TEST_F(TlsTest, RevocationsAtOneTimeAreAllInTheList) {
  constexpr int kHosts = 8;
  const std::string pki = path("pki");
  const auto certs = [&](const std::string& verb, const std::string& host) {
    return std::vector<std::string>{program_path("thaw"), "certs", verb, pki, host};
  };
  ASSERT_EQ(run({program_path("thaw"), "certs", "init", pki}).exit_code, 0);
  for (int i = 0; i < kHosts; ++i) {
    ASSERT_EQ(run(certs("issue", fmt::format("h{}", i))).exit_code, 0);
  }
  std::vector<Program> revocations;
  for (int i = 0; i < kHosts; ++i) revocations.emplace_back(certs("revoke", fmt::format("h{}", i)));
  for (Program& revocation : revocations) EXPECT_EQ(revocation.wait().value_or(-1), 0);

  for (int i = 0; i < kHosts; ++i) {
    EXPECT_EQ(run(certs("revoke", fmt::format("h{}", i))).exit_code, 5) << "is in the list";
  }
}

TEST_F(TlsTest, TheAuthoritysKeyLiesApartFromWhatIsCopied) {
  const std::string pki = path("pki");
  ASSERT_EQ(run({program_path("thaw"), "certs", "init", pki}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(pki + "/private/ca-key.pem"));
  EXPECT_FALSE(std::filesystem::exists(pki + "/ca-key.pem"));
  EXPECT_EQ(std::filesystem::status(pki + "/private").permissions(), std::filesystem::perms(0700));
}

TEST_F(TlsTest, FloodsLeaveNothingBehind) {
  ASSERT_EQ(thaw_as(client_, {"ls"}).exit_code, 0);
  const std::size_t before = open_descriptors(server_.pid()).size();
  auto generator = seeded_generator();
  for (int i = 0; i < 300; ++i) {
    const UniqueFd socket = connect_plainly();
    Bytes noise = random_bytes(generator, 1 + pick(generator, 2000));
    if (pick(generator, 2) == 0) noise.front() = std::byte{0x16};
    static_cast<void>(send_at_once(socket, noise));
  }
  EXPECT_EQ(thaw_as(client_, {"ls"}).exit_code, 0);
  EXPECT_LE(open_descriptors_down_to(server_.pid(), before), before);
}

/// More connections than the server takes, each of which sends this and no more.
class StrangersTest : public TlsTest, public testing::WithParamInterface<std::string_view> {
 protected:
  StrangersTest() {
    raise_descriptor_limit();
    Surroundings surroundings = showing(server_files_);
    surroundings.messages = path("log");
    server_ = PageServer(path("flooded"), 0, surroundings);
  }
};
INSTANTIATE_TEST_SUITE_P(FirstBytes, StrangersTest,
                         testing::Values(std::string_view(), std::string_view("\x16", 1),
                                         std::string_view("\x16\x03\x01\x40\x00\x01", 6)));

TEST_P(StrangersTest, TakeNoSlotNoMemoryAndNoLogFromPeersWithACertificate) {
  ASSERT_EQ(thaw_as(client_, {"ls"}).exit_code, 0);
  const std::size_t before = resident_bytes(server_.pid());
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 1030; ++i) {
    strangers.push_back(connect_plainly());
    static_cast<void>(send_at_once(strangers.back(), as_bytes(GetParam())));
  }
  EXPECT_EQ(thaw_as(client_, {"ls"}).exit_code, 0);
  EXPECT_LT(resident_bytes(server_.pid()), before + (16u << 20) + kSanitizerBytes);
  EXPECT_EQ(server_.stop().value(), 0);
  EXPECT_LT(std::ranges::count(read_file(path("log")), std::byte{'\n'}), 40);
}

TEST_F(TlsTest, SessionsAreTakenUpAgain) {
  const ServerAddress server = server_for(client_);
  // The ticket comes behind the handshake, with the first reply.
  ASSERT_TRUE(succeeded(PageClient::connect(server, "default")));
  TlsSession session = server.tls->begin(server.host).value();
  const UniqueFd socket = connect_plainly();
  const Deadline deadline = Deadline::after(kPatience);
  Result<bool> done = false;
  while (done && !*done) {
    done = session.shake_hands();
    ASSERT_TRUE(succeeded(send_all(socket, session.outbox(), deadline)));
    session.outbox().clear();
    if (!done || *done) break;
    session.received(receive_some(socket, session.inbox(), deadline).value());
  }
  ASSERT_TRUE(succeeded(done));
  EXPECT_TRUE(session.resumed());
}

/// Many connections while the server's certificate is replaced again and again, by good ones and
/// by broken ones: each finds one that is good.
TEST_F(TlsTest, ReloadUnderLoadBreaksNoConnection) {
  std::atomic<bool> stop = false;
  std::atomic<unsigned> visits = 0;
  const ServerAddress server = server_for(client_);
  std::vector<std::jthread> visitors;
  for (int i = 0; i < 2; ++i) {
    visitors.emplace_back([&] {
      while (!stop) {
        auto client = PageClient::connect(server, "default");
        ASSERT_TRUE(succeeded(client)) << "visit " << visits;
        ASSERT_TRUE(succeeded(client->list())) << "visit " << visits;
        ++visits;
      }
    });
  }
  auto standing = PageClient::connect(server, "default");
  ASSERT_TRUE(succeeded(standing));
  const Deadline deadline = Deadline::after(4 * limits::kFileWatchInterval);
  for (int i = 0; !deadline.passed(); ++i) {
    const TlsFiles next = authority_.issue("next" + std::to_string(i % 7));
    const auto copy = [](const std::string& from, const std::string& to) {
      replace_file(to, read_text_file(from, limits::kMaxPemBytes).value());
    };
    copy(next.key, server_files_.key);  // does not belong to the certificate for a moment
    replace_file(server_files_.certificate, "broken");
    copy(next.certificate, server_files_.certificate);
  }
  stop = true;
  visitors.clear();
  EXPECT_GT(visits, 10u);
  EXPECT_TRUE(succeeded(standing->list()));
}

std::string grant(const std::string& name, const std::string& role) {
  return "[[peer]]\nidentity = \"thaw://" + name + "\"\nnamespaces = [\"default\"]\nroles = [\"" +
         role + "\"]\n";
}

TEST_F(TlsTest, ThePolicySaysWhoMayDoWhat) {
  replace_file(path("policy"), grant("reader", "read") + grant("pusher", "push\", \"create"));
  const Surroundings surroundings = showing(server_files_, path("policy"));
  PageServer server(path("ruled"), 0, surroundings);
  write_file(path("image"), make_image(1, 100));
  const auto code_as = [&](const std::string& name, const std::vector<std::string>& what) {
    std::vector<std::string> arguments = tls_flags(authority_.issue(name));
    arguments.insert(arguments.end(), what.begin(), what.end());
    const Outcome outcome = server.thaw(arguments);
    return outcome.exit_code == 0 ? "ok" : error_of(outcome);
  };
  const std::vector<std::string> push{"push", "a", "--memory", path("image")};
  const std::vector<std::string> pull{"pull", "a", "--memory", path("pulled")};
  EXPECT_EQ(code_as("reader", push), "unauthorized");
  EXPECT_EQ(code_as("pusher", push), "ok");
  EXPECT_EQ(code_as("pusher", pull), "unauthorized");
  EXPECT_EQ(code_as("reader", pull), "ok");
  EXPECT_EQ(code_as("reader", {"rm", "a"}), "unauthorized");
  EXPECT_EQ(code_as("stranger", {"ls"}), "unauthorized");
  EXPECT_EQ(code_as("reader", {"--namespace", "other", "ls"}), "unauthorized");
}

TEST(Transport, PoliciesAreOfNoUseWithoutTls) {
  const ScratchDirectory directory;
  replace_file(directory.path("policy"), "");
  EXPECT_EQ(run({program_path("thaw-pageserver"), "--store", directory.path("store"), "--listen",
                 "127.0.0.1:0", "--policy", directory.path("policy")})
                .exit_code,
            2);
}

class TlsRestoreTest : public RestoreTest {
 protected:
  const Authority authority_;
};
INSTANTIATE_TEST_SUITE_P(Loops, TlsRestoreTest, both_loops(), loop_name);

TEST_P(TlsRestoreTest, GuestsAreRestoredAndOutliveTheirServer) {
  server_.kill();
  PageServer server(path("store"), 0, showing(authority_.issue("server")));
  start_handler(server.address(), tls_flags(authority_.issue("handler")));
  const std::uint64_t number = prepare({"--state-out", path("state.out")});
  EXPECT_EQ(read_file(path("state.out")), state_);
  Program vmm = start_vmm("verify");
  server.kill();
  server.start();
  EXPECT_EQ(vmm.wait().value(), 0);
  EXPECT_GT(wait_for_state(number, "ended")["faults"]["fetched"], 0);
}

TEST_P(TlsRestoreTest, GuestsOfAHandlerThatLosesItsRightsWaitUntilItHasThemAgain) {
  server_.kill();
  const Surroundings surroundings = showing(authority_.issue("server"), path("policy"));
  replace_file(path("policy"), grant("handler", "read"));
  PageServer server(path("store"), 0, surroundings);
  start_handler(server.address(), tls_flags(authority_.issue("handler")));
  const std::uint64_t number = prepare({"--no-record"});
  Program vmm = start_vmm("halves");
  ASSERT_TRUE(succeeded(vmm.wait_for_line("half")));

  replace_file(path("policy"), "");
  const ServerAddress as_handler =
      resolve_server(server.address(), {authority_.issue("handler"), false}).value();
  const Deadline deadline = Deadline::after(kPatience);
  while (PageClient::connect(as_handler, "default") && !deadline.passed()) {
  }
  vmm.tell("");
  EXPECT_EQ(session(number)["state"], "serving");
  replace_file(path("policy"), grant("handler", "read"));

  EXPECT_EQ(vmm.wait().value(), 0);
  EXPECT_GT(wait_for_state(number, "ended")["faults"]["fetched"], 0);
}

TEST_P(TlsRestoreTest, PagesComeOverAUnixSocketToo) {
  server_.kill();
  Surroundings surroundings;
  surroundings.host = "unix:" + path("server.sock");
  PageServer server(path("store"), 0, surroundings);
  start_handler(server.address());
  const std::uint64_t number = prepare({"--no-record"});

  EXPECT_EQ(start_vmm("verify").wait().value(), 0);

  EXPECT_GT(wait_for_state(number, "ended")["faults"]["fetched"], 0);
}

TEST_P(TlsRestoreTest, WorkingSetsComeOverTlsToo) {
  server_.kill();
  PageServer server(path("store"), 0, showing(authority_.issue("server")));
  start_handler(server.address(), tls_flags(authority_.issue("handler")));
  const std::uint64_t first = prepare({"--record"});
  EXPECT_EQ(start_vmm("verify").wait().value(), 0);
  wait_for(first, [](const Json& report) { return report["recording"] == "stored"; });

  const std::uint64_t second = prepare({"--hydrate-mib-s", "100000"}, "vm2");
  EXPECT_EQ(start_vmm("verify", "image", "vm2").wait().value(), 0);

  EXPECT_GT(wait_for_state(second, "ended")["prefetch"]["prefetched_pages"], 0);
}

}  // namespace
}  // namespace thaw::test
