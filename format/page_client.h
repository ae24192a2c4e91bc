#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/stream.h"
#include "format/cold_map.h"
#include "format/limits.h"
#include "format/page_map.h"
#include "format/recording.h"
#include "format/wire.h"
#include "format/working_set.h"

namespace thaw {

/// A page server as a blocking client sees it: every call sends a request and waits for its reply
/// until a deadline of its own (format/limits.h). For the CLI and for preparing sessions; demand
/// faults have their own connection. After kUnavailable, kTimeout or a decoding error the
/// connection is of no further use. One thread.
class PageClient {
 public:
  /// Connects and says hello. kUnavailable, kTimeout, kBadVersion, kUnauthorized, kTls.
  /// With another role than kControl only for chunks.
  static Result<PageClient> connect(const ServerAddress& server, const std::string& name_space,
                                    message::Role role = message::Role::kControl);
  /// The connection ends when a stop is requested, and so does the call that waits on it:
  /// kUnavailable.
  static Result<PageClient> connect(const ServerAddress& server, const std::string& name_space,
                                    const std::stop_token& stop);

  /// How long the reply to a request may take from now on; limits::kRequestTimeout unless set. A
  /// commit has as many times longer as limits::kCommitTimeout is.
  void set_patience(Nanoseconds patience) { patience_ = patience; }

  // Pushing: begin_push, then for all pages in order offer and uploads, then commit. Offers and
  // uploads are sent without waiting; each is answered in the order of all that were sent.
  /// `parent` names the snapshot that this one came from; empty: none.
  Result<void> begin_push(const SnapshotSpec& spec, const std::string& parent = {});
  /// REQUIRES: at most limits::kMaxOfferPages pages, and a hash for each that is not zero.
  Result<void> send_offer(const message::Offer& offer, std::span<const Sha256> hashes);
  /// Which of the `hashes` of the offer whose answer is due are missing, a bit each.
  Result<Bytes> receive_needed(std::size_t hashes);
  /// `chunks` are `count` concatenated chunks sealed for kNoChunk, at most
  /// limits::kMaxChunksPerRequest.
  Result<void> send_upload(std::uint32_t count, ByteSpan chunks);
  Result<void> receive_uploaded();
  /// `cold`: of the pages of memory; empty: not known.
  Result<Manifest> commit(const ColdMap& cold = {});

  struct SnapshotList {
    std::vector<Manifest> snapshots;  // in order of name
    /// Those that the settings do not keep, and since when, in milliseconds since 1970.
    std::map<SnapshotId, std::uint64_t> outdated;
  };
  Result<SnapshotList> list();
  /// `name` as parse_snapshot_name() says. kHashMismatch where the snapshot has another content.
  Result<Manifest> show(const std::string& name);
  Result<void> remove(const message::DeleteSnapshot& what);
  Result<message::Statistics> statistics();
  /// The snapshot's pages stay as long as this connection, whatever is deleted. kNotFound when it
  /// is not there any more.
  Result<void> pin(SnapshotId snapshot);
  /// `admit` may refuse it before it takes more memory.
  Result<PageMap> page_map(const Manifest& manifest, const MapAdmission& admit = {});
  /// The SHA-256 of the pages of a segment that are not zero, which are `pages`: kTruncated,
  /// kMalformed for another number. Valid until the next call.
  Result<std::span<const Sha256>> page_hashes(SnapshotId snapshot, std::uint32_t segment,
                                              PageCount pages);
  /// kNotFound when the snapshot was pushed without one.
  Result<ColdMap> cold_map(const Manifest& manifest);

  // Looking after what is stored.
  Result<std::vector<message::Tag>> tags();
  Result<void> move_tag(const message::Tag& to);
  Result<void> remove_tag(const std::string& tag);
  Result<Manifest> change_labels(const message::ChangeLabels& change);
  /// Of a snapshot, or with an empty name of the whole namespace.
  Result<message::Usage> usage(const std::string& name);
  Result<message::NamespaceReport> namespace_report();
  Result<void> remove_namespace();
  Result<void> set_namespace(const message::NamespaceSettings& settings);
  Result<message::JobReport> start_job(const message::StartJob& job);
  Result<message::JobReport> job(std::uint64_t number);
  /// It ends soon, as failed. kNotFound when it is over.
  Result<void> stop_job(std::uint64_t number);

  // Working sets. kNotFound when the snapshot, its set or the recording is not there.
  Result<WorkingSet> working_set(SnapshotId snapshot);
  Result<void> put_recording(SnapshotId snapshot, const Recording& recording);
  Result<Recording> recording(SnapshotId snapshot, std::uint64_t number);
  Result<message::WorkingSetReport> working_set_report(SnapshotId snapshot);
  Result<void> drop_working_set(SnapshotId snapshot);
  Result<void> put_prefetch_report(SnapshotId snapshot, const message::PrefetchCounters& counters);

  /// Tells what came damaged; kUnsupported where the server is not the one to look after it.
  Result<void> report_damage(const message::ReportDamage& report);

  /// Asks for chunks without waiting; receive_chunks() answers in the same order.
  Result<void> request_chunks(std::vector<ChunkId> ids);
  /// The body of the oldest outstanding reply, valid until the next call.
  Result<ByteSpan> receive_chunks();

  /// The server's; what it says of snapshots and chunks is of this store.
  const StoreId& store() const { return store_; }
  /// All bytes received so far, heads included.
  std::uint64_t bytes_received() const { return bytes_received_; }

 private:
  using OnStop = std::stop_callback<std::function<void()>>;
  explicit PageClient(Stream stream) : stream_(std::move(stream)) {}

  Result<void> end_on(const std::stop_token& stop);
  Result<void> say_hello(const ServerAddress& server, const std::string& name_space,
                         message::Role role);
  Result<void> send(const Message& request, std::span<const ByteSpan> body, Deadline deadline);
  Result<void> fill(MutableByteSpan to, Deadline deadline);
  /// Receives the reply to the oldest outstanding request; its body is in body_.
  Result<Message> receive(Deadline deadline);
  /// The same for a request whose reply has to be of type `Reply`.
  template <typename Reply>
  Result<Reply> receive_as(Deadline deadline);
  template <typename Reply>
  Result<Reply> ask(const Message& request, ByteSpan body, Nanoseconds timeout);
  template <typename Reply>
  Result<Reply> ask(const Message& request, ByteSpan body = {}) {
    return ask<Reply>(request, body, patience_);
  }

  Stream stream_;
  StoreId store_;
  Nanoseconds patience_ = limits::kRequestTimeout;
  std::uint64_t next_request_ = 1;
  std::deque<std::uint64_t> outstanding_;
  Bytes head_;
  Bytes body_;
  std::uint64_t bytes_received_ = 0;
  std::unique_ptr<OnStop> on_stop_;  // the last member: it has the connection ended
};

/// Whether the server cannot be reached, or went away.
bool is_away(const Error& error);
/// Whether another server of the same store may do what this one failed to do.
bool is_of_one_server(const Error& error);

/// Called with consecutive pages from `first` on, as plain bytes; whole pages.
using PageSink = std::function<Result<void>(PageIndex first, ByteSpan pages)>;
/// The sink that takes all pages.
inline Result<void> accept_pages(PageIndex, ByteSpan) { return {}; }

/// Fetches the pages [first, first + count) that are not zero, verifies each, and gives them to
/// `sink` in order. Requests are pipelined; memory use is bounded whatever the count.
Result<void> fetch_pages(PageClient& client, const PageMap& map, PageIndex first, PageCount count,
                         const PageSink& sink);

/// Writes pages of the state from page `first` of it on, without the padding of its last page.
Result<void> write_state_pages(const UniqueFd& file, ByteCount state_size, PageCount first,
                               ByteSpan pages);

/// Fetches a snapshot's VMM state file, which lies behind the memory in the image, into `file`.
/// `check` sees the pages first; an error of it ends the call.
Result<void> fetch_state(PageClient& client, const Manifest& manifest, const PageMap& map,
                         const UniqueFd& file, const PageSink& check = accept_pages);

}  // namespace thaw
