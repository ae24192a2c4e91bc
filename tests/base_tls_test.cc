#include <atomic>
#include <cstdlib>
#include <cstring>

#include <openssl/ssl.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/tls.h"
#include "tests/support/authority.h"
#include "tests/support/test_support.h"

namespace thaw {
namespace {

using test::Authority;
using test::code_of;
using test::succeeded;
using Side = TlsContext::Side;

/// What OpenSSL has allocated so far.
struct Allocations {
  std::atomic<std::uint64_t> small = 0;  // at most 64 bytes
  std::atomic<std::uint64_t> large = 0;

  void note(std::size_t size) { ++(size <= 64 ? small : large); }
};
Allocations& allocations() {
  static Allocations count;
  return count;
}

/// Before OpenSSL allocates anything.
[[maybe_unused]] const int kCounted = CRYPTO_set_mem_functions(
    [](std::size_t size, const char*, int) {
      allocations().note(size);
      return std::malloc(size);
    },
    [](void* old, std::size_t size, const char*, int) {
      allocations().note(size);
      return std::realloc(old, size);
    },
    [](void* old, const char*, int) { std::free(old); });

/// Takes what one side has to send to the other, as far as its inbox has room at once.
void deliver(TlsSession& from, TlsSession& to) {
  Bytes& sealed = from.outbox();
  ASSERT_LE(sealed.size(), limits::kTlsInboxBytes);
  if (sealed.empty()) return;
  std::memcpy(to.inbox().data(), sealed.data(), sealed.size());
  to.received(sealed.size());
  sealed.clear();
}

/// The first failure of either side.
Result<void> shake_hands(TlsSession& client, TlsSession& server) {
  for (bool done = false; !done;) {
    const bool client_done = TRY(client.shake_hands());
    deliver(client, server);
    const auto server_done = server.shake_hands();
    deliver(server, client);
    if (!server_done) return std::unexpected(server_done.error());
    done = client_done && *server_done;
  }
  return {};
}

Result<std::string> read_text(TlsSession& session) {
  Bytes plain(64);
  plain.resize(TRY(session.read(plain)));
  return std::string(as_text(plain));
}

Result<void> write_text(TlsSession& session, std::string_view text) {
  const ByteSpan piece = as_bytes(text);
  return session.write(std::span(&piece, 1));
}

class Tls : public testing::Test {
 protected:
  /// A client and a server that trust each other.
  const Authority authority_;
  const std::shared_ptr<TlsContext> clients_ = authority_.context(Side::kClient, "client");
  const std::shared_ptr<TlsContext> servers_ = authority_.context(Side::kServer, "server");
};

TEST_F(Tls, BothSidesKnowEachOther) {
  auto client = clients_->begin("127.0.0.1").value();
  auto server = servers_->begin().value();

  ASSERT_TRUE(succeeded(shake_hands(client, server)));

  EXPECT_EQ(server.peer_identity(), "thaw://client");
  EXPECT_EQ(client.peer_identity(), "thaw://server");
  EXPECT_FALSE(client.resumed());
}

TEST_F(Tls, PlainBytesComeOutAsTheyWentIn) {
  auto client = clients_->begin("127.0.0.1").value();
  auto server = servers_->begin().value();
  ASSERT_TRUE(succeeded(shake_hands(client, server)));
  auto generator = test::seeded_generator();
  // Pieces around the size of a record, and none.
  std::vector<Bytes> pieces;
  for (const std::size_t size : {0u, 1u, 16383u, 16384u, 16385u, 40000u, 3u}) {
    pieces.push_back(test::random_bytes(generator, size));
  }
  const std::vector<ByteSpan> spans(pieces.begin(), pieces.end());
  Bytes expected;
  for (const Bytes& piece : pieces) expected.insert(expected.end(), piece.begin(), piece.end());

  ASSERT_TRUE(succeeded(server.write(spans)));
  Bytes came;
  Bytes plain(1000);
  ByteSpan sealed = server.outbox();
  while (came.size() < expected.size()) {
    const std::size_t n = client.read(plain).value();
    came.insert(came.end(), plain.begin(), plain.begin() + static_cast<std::ptrdiff_t>(n));
    if (n > 0) continue;
    ASSERT_FALSE(sealed.empty());
    const std::size_t some = std::min(sealed.size(), 1 + test::pick(generator, 5000));
    std::memcpy(client.inbox().data(), sealed.data(), some);
    client.received(some);
    sealed = sealed.subspan(some);
  }

  EXPECT_TRUE(came == expected);
}

TEST_F(Tls, TakesSessionsUpAgain) {
  for (int i = 0; i < 3; ++i) {
    auto client = clients_->begin("127.0.0.1").value();
    auto server = servers_->begin().value();
    ASSERT_TRUE(succeeded(shake_hands(client, server)));
    ASSERT_TRUE(succeeded(read_text(client)));  // the ticket

    EXPECT_EQ(client.resumed(), i > 0) << i;
    EXPECT_EQ(server.resumed(), i > 0) << i;
    EXPECT_EQ(server.peer_identity(), "thaw://client") << i;
  }
}

TEST_F(Tls, AnotherServersSessionIsNotTakenUp) {
  const auto others = authority_.context(Side::kServer, "other");
  auto client = clients_->begin("127.0.0.1").value();
  auto server = servers_->begin().value();
  ASSERT_TRUE(succeeded(shake_hands(client, server)));
  ASSERT_TRUE(succeeded(read_text(client)));

  auto again = clients_->begin("127.0.0.1").value();
  auto other = others->begin().value();
  ASSERT_TRUE(succeeded(shake_hands(again, other)));

  EXPECT_FALSE(again.resumed());
  EXPECT_EQ(again.peer_identity(), "thaw://other");
}

TEST_F(Tls, WrongPeersAreRefused) {
  const Authority stranger;
  const auto expired =
      TlsContext::load(authority_.issue("old", {"127.0.0.1"}, -std::chrono::hours(1)),
                       Side::kServer)
          .value();
  struct Case {
    std::string_view what;
    std::shared_ptr<TlsContext> clients, servers;
    std::string name;
    std::string_view says;
  };
  const Case cases[] = {
      {"a server of another authority", clients_, stranger.context(Side::kServer, "server"),
       "127.0.0.1", "unable to get local issuer"},
      {"a client of another authority", stranger.context(Side::kClient, "client"), servers_,
       "127.0.0.1", ""},
      {"an expired server", clients_, expired, "127.0.0.1", "expired"},
      {"a server under another address", clients_, servers_, "127.0.0.2", "IP address mismatch"},
      {"a server under another name", clients_, servers_, "pages", "hostname mismatch"},
  };
  for (const Case& test : cases) {
    auto client = test.clients->begin(test.name).value();
    auto server = test.servers->begin().value();
    const auto result = shake_hands(client, server);
    EXPECT_EQ(code_of(result), ErrorCode::kTls) << test.what;
    if (result) continue;
    EXPECT_NE(result.error().context().find(test.says), std::string::npos)
        << test.what << ": " << result.error().message();
  }
}

TEST_F(Tls, ClientsWhoseCertificateIsRefusedAreTold) {
  const auto clients =
      TlsContext::load(authority_.issue("old", {}, -std::chrono::hours(1)), Side::kClient).value();
  auto client = clients->begin("127.0.0.1").value();
  auto server = servers_->begin().value();

  const auto result = shake_hands(client, server);

  ASSERT_EQ(code_of(result), ErrorCode::kTls);
  EXPECT_NE(result.error().context().find("expired"), std::string::npos)
      << result.error().message();
  const auto told = read_text(client);
  ASSERT_EQ(code_of(told), ErrorCode::kTls);
  EXPECT_NE(told.error().context().find("certificate expired"), std::string::npos)
      << told.error().message();
}

/// A peer that is no Thaw: OpenSSL itself, without a certificate, up to a version.
Bytes hello_of(int version) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  SSL_CTX_free);
  SSL_CTX_set_max_proto_version(context.get(), version);
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
  BIO* const to = BIO_new(BIO_s_mem());
  SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), to);
  SSL_set_connect_state(ssl.get());
  SSL_do_handshake(ssl.get());
  char* data = nullptr;
  const auto size = static_cast<std::size_t>(BIO_get_mem_data(to, &data));
  const ByteSpan bytes = as_bytes({data, size});
  return {bytes.begin(), bytes.end()};
}

void receive(TlsSession& session, ByteSpan bytes) {
  std::memcpy(session.inbox().data(), bytes.data(), bytes.size());
  session.received(bytes.size());
}

TEST_F(Tls, OlderVersionsAreRefused) {
  auto server = servers_->begin().value();
  receive(server, hello_of(TLS1_2_VERSION));

  const auto result = server.shake_hands();

  ASSERT_EQ(code_of(result), ErrorCode::kTls);
  EXPECT_NE(result.error().context().find("unsupported protocol"), std::string::npos)
      << result.error().message();
  EXPECT_FALSE(server.outbox().empty()) << "an alert";
}

/// A client that goes through a handshake of TLS 1.3, but has no certificate.
TEST_F(Tls, ClientsWithoutACertificateAreRefused) {
  auto server = servers_->begin().value();
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  SSL_CTX_free);
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
  BIO* const from = BIO_new(BIO_s_mem());
  BIO* const to = BIO_new(BIO_s_mem());
  SSL_set_bio(ssl.get(), from, to);
  SSL_set_connect_state(ssl.get());

  Result<bool> result = false;
  for (int round = 0; round < 4 && result && !*result; ++round) {
    SSL_do_handshake(ssl.get());
    Bytes sent(limits::kTlsInboxBytes);
    const int n = BIO_read(to, sent.data(), static_cast<int>(sent.size()));
    if (n > 0) receive(server, ByteSpan(sent).first(static_cast<std::size_t>(n)));
    result = server.shake_hands();
    BIO_write(from, server.outbox().data(), static_cast<int>(server.outbox().size()));
    server.outbox().clear();
  }

  ASSERT_EQ(code_of(result), ErrorCode::kTls);
  EXPECT_NE(result.error().context().find("peer did not return a certificate"), std::string::npos)
      << result.error().message();
}

TEST_F(Tls, GarbageIsRefused) {
  for (const std::string_view text : {"GET / HTTP/1.1\r\n\r\n", "TWR1 and so on, and so on"}) {
    auto server = servers_->begin().value();
    receive(server, as_bytes(text));
    const auto result = server.shake_hands();
    ASSERT_EQ(code_of(result), ErrorCode::kTls) << text;
    EXPECT_NE(result.error().context().find("does not speak TLS"), std::string::npos)
        << result.error().message();
  }
  auto generator = test::seeded_generator();
  for (int i = 0; i < 200; ++i) {
    auto server = servers_->begin().value();
    Bytes hello = hello_of(TLS1_3_VERSION);
    hello[test::pick(generator, hello.size())] ^= std::byte{1};
    receive(server, ByteSpan(hello).first(1 + test::pick(generator, hello.size())));
    static_cast<void>(server.shake_hands());  // which ends, whatever it says
  }
}

TEST_F(Tls, ChangedRecordsAreRefused) {
  auto generator = test::seeded_generator();
  for (int i = 0; i < 50; ++i) {
    auto client = clients_->begin("127.0.0.1").value();
    auto server = servers_->begin().value();
    ASSERT_TRUE(succeeded(shake_hands(client, server)));
    ASSERT_TRUE(succeeded(write_text(client, "read me")));
    client.outbox()[5 + test::pick(generator, client.outbox().size() - 5)] ^= std::byte{0x10};
    deliver(client, server);

    EXPECT_EQ(code_of(read_text(server)), ErrorCode::kTls);
    ASSERT_TRUE(succeeded(write_text(client, "and me")));
    deliver(client, server);
    EXPECT_EQ(code_of(read_text(server)), ErrorCode::kTls) << "nothing comes after that";
  }
}

TEST_F(Tls, AnEndInTheMiddleIsNoEnd) {
  auto client = clients_->begin("127.0.0.1").value();
  auto server = servers_->begin().value();
  ASSERT_TRUE(succeeded(shake_hands(client, server)));
  ASSERT_TRUE(succeeded(write_text(client, "read me")));
  client.outbox().resize(client.outbox().size() - 1);
  deliver(client, server);

  EXPECT_EQ(read_text(server).value(), "");
  EXPECT_FALSE(server.closed());
  EXPECT_TRUE(server.starved());
}

TEST_F(Tls, AnEndIsTold) {
  auto client = clients_->begin("127.0.0.1").value();
  auto server = servers_->begin().value();
  ASSERT_TRUE(succeeded(shake_hands(client, server)));
  ASSERT_TRUE(succeeded(write_text(client, "last words")));
  client.close();
  deliver(client, server);

  EXPECT_EQ(read_text(server).value(), "last words");
  EXPECT_FALSE(server.closed());
  EXPECT_EQ(read_text(server).value(), "");
  EXPECT_TRUE(server.closed());
}

/// OpenSSL's writer of records makes a note of 40 bytes now and then, which it frees at once.
TEST_F(Tls, NothingButNotesIsAllocatedForARequestAndItsReply) {
  auto client = clients_->begin("127.0.0.1").value();
  auto server = servers_->begin().value();
  ASSERT_TRUE(succeeded(shake_hands(client, server)));
  ASSERT_TRUE(succeeded(read_text(client)));  // the ticket
  Bytes plain(limits::kTlsRecordBytes);
  const Bytes reply(6000);
  const ByteSpan piece = reply;
  const auto exchange = [&] {
    write_text(client, "give me a page").value();
    deliver(client, server);
    server.read(plain).value();
    server.write(std::span(&piece, 1)).value();
    deliver(server, client);
    EXPECT_EQ(client.read(plain).value(), reply.size());
  };
  exchange();

  const std::uint64_t small = allocations().small;
  const std::uint64_t large = allocations().large;
  EXPECT_GT(large, 0u);
  constexpr int kTimes = 100;
  for (int i = 0; i < kTimes; ++i) exchange();
  EXPECT_EQ(allocations().large, large);
  EXPECT_LE(allocations().small - small, 4u * 2u * kTimes) << "four for each record";
}

TEST_F(Tls, KeysOfOthersAndWrongFilesAreRefused) {
  const TlsFiles good = authority_.issue("files");
  TlsFiles other = authority_.issue("other");
  struct Case {
    TlsFiles files;
    ErrorCode code;
  };
  test::replace_file(authority_.path("garbage"), "no PEM");
  const Case cases[] = {
      {{good.certificate, other.key, good.authority}, ErrorCode::kTls},
      {{good.certificate, authority_.path("garbage"), good.authority}, ErrorCode::kTls},
      {{authority_.path("garbage"), good.key, good.authority}, ErrorCode::kTls},
      {{good.certificate, good.key, authority_.path("garbage")}, ErrorCode::kTls},
      {{good.certificate, authority_.path("nothing"), good.authority}, ErrorCode::kNotFound},
      {{good.certificate, good.key, good.authority, good.certificate}, ErrorCode::kTls},
      {{good.certificate, good.key, good.authority, authority_.path("none")}, ErrorCode::kNotFound},
  };
  for (const Case& test : cases) {
    EXPECT_EQ(code_of(TlsContext::load(test.files, Side::kServer)), test.code);
  }

  ASSERT_EQ(::chmod(good.key.c_str(), 0644), 0);
  EXPECT_EQ(code_of(TlsContext::load(good, Side::kServer)), ErrorCode::kPermission);
  ASSERT_EQ(::chmod(good.key.c_str(), 0640), 0);
  EXPECT_TRUE(succeeded(TlsContext::load(good, Side::kServer)));
  ASSERT_EQ(::chmod(good.key.c_str(), 0660), 0);
  EXPECT_EQ(code_of(TlsContext::load(good, Side::kServer)), ErrorCode::kPermission);
  ASSERT_EQ(::chmod(good.key.c_str(), 0600), 0);
  ASSERT_EQ(::chmod(good.authority.c_str(), 0666), 0);
  EXPECT_EQ(code_of(TlsContext::load(good, Side::kServer)), ErrorCode::kPermission);
}

/// What a client says of the server that a context gives now.
std::string identity_now(TlsContext& clients, TlsContext& servers) {
  auto client = clients.begin("127.0.0.1").value();
  auto server = servers.begin().value();
  if (const auto shaken = shake_hands(client, server); !shaken) return shaken.error().message();
  return client.peer_identity();
}

/// They are looked at once a second.
void wait_until_server_is(TlsContext& clients, TlsContext& servers, const std::string& identity) {
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  while (identity_now(clients, servers) != identity && Clock::now() < deadline) {
  }
  EXPECT_EQ(identity_now(clients, servers), identity);
}

TEST_F(Tls, ChangedFilesAreReadAgainAndBadOnesLeaveTheOldInForce) {
  const TlsFiles files = authority_.issue("first");
  const auto servers = TlsContext::load(files, Side::kServer).value();
  EXPECT_EQ(identity_now(*clients_, *servers), "thaw://first");

  const TlsFiles next = authority_.issue("second");
  test::replace_file(files.certificate, "broken");
  const auto deadline = Clock::now() + 2 * limits::kFileWatchInterval;
  while (Clock::now() < deadline) {
    ASSERT_EQ(identity_now(*clients_, *servers), "thaw://first");
  }
  const auto copy = [](const std::string& from, const std::string& to) {
    test::replace_file(to, read_text_file(from, limits::kMaxPemBytes).value());
  };
  copy(next.key, files.key);
  copy(next.certificate, files.certificate);

  wait_until_server_is(*clients_, *servers, "thaw://second");
}

/// Both ends of a connection.
struct Ends {
  TlsSession client;
  TlsSession server;
};
Ends connect(TlsContext& clients, TlsContext& servers) {
  Ends ends{clients.begin("127.0.0.1").value(), servers.begin().value()};
  EXPECT_TRUE(succeeded(shake_hands(ends.client, ends.server)));
  EXPECT_TRUE(succeeded(read_text(ends.client))) << "the ticket";
  return ends;
}
/// What arrives of a text.
Result<std::string> tell(TlsSession& from, TlsSession& to) {
  TRY(write_text(from, "text"));
  deliver(from, to);
  return read_text(to);
}

TEST_F(Tls, SessionsEndWhenThePeersCertificateIsRevoked) {
  authority_.revoke({});
  const auto load = [&](const TlsFiles& files, Side side) {
    return TlsContext::load(files, side).value();
  };
  const auto servers = load(authority_.with_list(authority_.issue("pages")), Side::kServer);
  const auto revoked = load(authority_.issue("revoked"), Side::kClient);  // looks at no list
  const auto others = load(authority_.with_list(authority_.issue("other")), Side::kClient);
  Ends gone = connect(*revoked, *servers);
  Ends stays = connect(*others, *servers);

  authority_.revoke("revoked");
  servers->reload();

  const auto heard = tell(gone.client, gone.server);
  ASSERT_EQ(code_of(heard), ErrorCode::kTls);
  EXPECT_NE(heard.error().context().find("revoked"), std::string::npos) << heard.error().message();
  EXPECT_EQ(code_of(write_text(gone.server, "text")), ErrorCode::kTls);
  EXPECT_EQ(code_of(servers->check(gone.server.peer())), ErrorCode::kTls);
  EXPECT_TRUE(succeeded(servers->check(stays.server.peer())));
  EXPECT_EQ(tell(stays.client, stays.server).value_or("nothing"), "text");
  EXPECT_EQ(tell(stays.server, stays.client).value_or("nothing"), "text");
  // The session that the client remembers is no way around it.
  auto client = revoked->begin("127.0.0.1").value();
  auto server = servers->begin().value();
  EXPECT_EQ(code_of(shake_hands(client, server)), ErrorCode::kTls);

  // Clients leave a server likewise.
  authority_.revoke("pages");
  others->reload();
  EXPECT_EQ(code_of(tell(stays.server, stays.client)), ErrorCode::kTls);
  EXPECT_EQ(code_of(write_text(stays.client, "text")), ErrorCode::kTls);
}

TEST_F(Tls, SessionsEndWithTheirAuthorityAndNotWithTheTimeOfAList) {
  authority_.revoke({});
  const TlsFiles files = authority_.with_list(authority_.issue("pages"));
  const auto servers = TlsContext::load(files, Side::kServer).value();
  Ends ends = connect(*clients_, *servers);
  const Authority another;
  const auto own = read_text_file(files.authority, limits::kMaxChainBytes).value();
  const auto theirs = read_text_file(another.path("ca.pem"), limits::kMaxChainBytes).value();

  authority_.revoke({}, -std::chrono::hours(1));
  servers->reload();
  EXPECT_NE(identity_now(*clients_, *servers), "thaw://pages") << "the list has run out";
  EXPECT_EQ(tell(ends.client, ends.server).value_or("nothing"), "text");

  test::replace_file(files.authority, own + theirs);
  servers->reload();
  EXPECT_EQ(tell(ends.client, ends.server).value_or("nothing"), "text");
  test::replace_file(files.authority, theirs);
  servers->reload();
  EXPECT_EQ(code_of(tell(ends.client, ends.server)), ErrorCode::kTls);
}

TEST(Certificates, ThoseThatHaveEndedAreLeftOut) {
  const auto until = [](int end) {
    return Validity{std::chrono::seconds(0), std::chrono::seconds(end)};
  };
  const auto authority = make_authority("test", until(1'000'000'000)).value();
  std::vector<std::string> issued;
  for (const int end : {1000, 2000, 3000}) {
    issued.push_back(issue_certificate(authority, "name", {}, until(end))->certificate);
  }
  const std::string all = issued[0] + issued[1] + issued[2];
  EXPECT_EQ(certificates_after(all, std::chrono::seconds(999)).value(), all);
  EXPECT_EQ(certificates_after(all, std::chrono::seconds(2000)).value(), issued[2]);
  for (const std::string& damaged : {std::string(), all.substr(0, all.size() / 2)}) {
    EXPECT_EQ(code_of(certificates_after(damaged, std::chrono::seconds(0))), ErrorCode::kTls);
    if (damaged.empty()) continue;
    EXPECT_EQ(code_of(revoke_certificates(authority, "", damaged, until(5000))), ErrorCode::kTls);
  }
}

TEST(Certificates, NamesAndHostsThatAreNoneAreRefused) {
  const Validity always{std::chrono::seconds(0), std::chrono::seconds(4'000'000'000)};
  const auto authority = make_authority("test", always).value();
  for (const std::string_view name : {"", "a b", "a/b", "a,DNS:evil"}) {
    EXPECT_EQ(code_of(issue_certificate(authority, std::string(name), {}, always)),
              ErrorCode::kInvalidArgument)
        << name;
  }
  for (const std::string_view host : {"", "a b", "a,URI:thaw://admin", "a\nb"}) {
    EXPECT_EQ(code_of(issue_certificate(authority, "name", {std::string(host)}, always)),
              ErrorCode::kInvalidArgument)
        << host;
  }
  EXPECT_TRUE(succeeded(issue_certificate(authority, "name", {"::1", "pages.example"}, always)));
  EXPECT_EQ(code_of(issue_certificate({authority.certificate, "no key"}, "name", {}, always)),
            ErrorCode::kTls);
}

}  // namespace
}  // namespace thaw
