#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"

namespace thaw {

/// TLS 1.3 between peers that both show certificates of one private authority, with OpenSSL behind
/// it and without sockets: bytes in, bytes out. Every failure of it is kTls.

/// PEM files: the own certificate with those between it and the authority, its key, the authority
/// that the peers' certificates must be of, and lists of those that were revoked.
struct TlsFiles {
  std::string certificate;
  std::string key;  // readable by its owner, and at most by its group
  std::string authority;
  std::string revoked{};  // one list for each authority that issues; empty: none is looked at
};

/// What stands in such files.
struct TlsPem {
  std::string certificate;
  std::string key;
  std::string authority;
  std::string revoked{};
  friend bool operator==(const TlsPem&, const TlsPem&) = default;
};

/// The certificate that a peer has shown, and those that it sent along. A value; any thread.
class TlsPeer {
 public:
  struct State;
  explicit TlsPeer(std::shared_ptr<const State> state) : state_(std::move(state)) {}

  /// Who the peer is: the first URI among the certificate's alternative names, else the first DNS
  /// name. Empty when it has neither, or one with other than printable characters.
  std::string identity() const;

 private:
  friend class TlsContext;
  std::shared_ptr<const State> state_;
};

/// One connection's TLS. What is received goes into inbox(), what is to be sent comes out of
/// outbox(); in between are the handshake and plain bytes. Once the handshake is done, a record
/// costs four allocations of 40 bytes inside OpenSSL, and no others but those of outbox(). After an
/// error nothing more can be done with it than to send its outbox(), which says why. A peer whose
/// certificate its context would refuse by now is neither heard nor answered: read() and write()
/// fail. One thread at a time.
class TlsSession {
 public:
  struct State;
  explicit TlsSession(std::unique_ptr<State> state);
  TlsSession(TlsSession&&) noexcept;
  TlsSession& operator=(TlsSession&&) noexcept;
  ~TlsSession();

  /// Where to receive to; never empty. Small until the handshake is done, and then stays where it
  /// is. REQUIRES: starved().
  MutableByteSpan inbox();
  /// So many bytes have come into the inbox.
  void received(std::size_t bytes);
  /// Whether all that was received has been used.
  bool starved() const;

  /// Goes on with the handshake; false while it needs more from the peer.
  Result<bool> shake_hands();
  /// The next plain bytes, in the order in which they came; 0 when there are none yet, or no more.
  /// REQUIRES: shake_hands() said true, and `to` is not empty.
  Result<std::size_t> read(MutableByteSpan to);
  /// Seals all of it. REQUIRES: shake_hands() said true.
  Result<void> write(std::span<const ByteSpan> pieces);
  /// Whether the peer has said that nothing more comes.
  bool closed() const;
  /// Says that nothing more comes.
  void close();

  /// What has to be sent, for the caller to take away.
  Bytes& outbox();

  /// REQUIRES: shake_hands() said true.
  TlsPeer peer() const;
  std::string peer_identity() const { return peer().identity(); }
  /// Whether an earlier session was taken up again.
  bool resumed() const;

 private:
  std::unique_ptr<State> state_;
};

/// A program's side of TLS: its certificate and whom it trusts, read from files that are looked at
/// again when a session begins, at most once a second. Files that have become bad are told of, and
/// what was read before stays in force. Sessions that have begun keep the keys that they began
/// with. Whom they trust changes for them, too: they end when the peer's certificate is revoked, or
/// its authority gone. A client's contexts remember a session for each server, to be taken up
/// again; a changed file ends that. Locks itself.
class TlsContext {
 public:
  enum class Side { kClient, kServer };

  /// kPermission when others can read the key or write one of the others, kTls when the files are
  /// not what they should be.
  static Result<std::shared_ptr<TlsContext>> load(TlsFiles files, Side side);
  /// For a program that follows another one. If the files are no good now, what was in force
  /// before stays in force, which the log says; fails only if that is no good either.
  static Result<std::shared_ptr<TlsContext>> load(TlsFiles files, Side side, const TlsPem& before);
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  ~TlsContext();

  /// Reads the files now, whether they have changed or not, and logs what came of it.
  void reload();

  /// A client names the server, as it was told to connect to it: the server's certificate must have
  /// that DNS name or IP address.
  Result<TlsSession> begin(const std::string& server_name = {});
  /// Looks at the files now, as begin() does.
  void look();
  /// What is in force.
  TlsPem pem() const;
  /// Grows when other authorities or lists of revoked certificates come into force.
  std::uint64_t trust_generation() const;
  /// kTls when the peer's certificate is revoked by now, or of no authority any more. Its end and
  /// that of lists count for new sessions alone.
  Result<void> check(const TlsPeer& peer) const;

  struct InForce;

 private:
  struct Keys;
  struct State;
  explicit TlsContext(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace thaw
