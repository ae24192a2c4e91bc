#include "format/page_client.h"

#include <algorithm>

#include "base/check.h"
#include "base/file.h"
#include "base/limits.h"
#include "format/limits.h"
#include "format/listing.h"
#include "format/snapshot_name.h"

namespace thaw {

namespace {

/// Requests that fetch_pages() keeps outstanding, so that the server works while this side
/// decompresses.
constexpr std::size_t kFetchWindow = 8;

}  // namespace

Result<PageClient> PageClient::connect(const ServerAddress& server, const std::string& name_space,
                                       message::Role role) {
  PageClient client(TRY(Stream::connect(server, Deadline::after(limits::kConnectTimeout))));
  TRY(client.say_hello(server, name_space, role));
  return client;
}

Result<PageClient> PageClient::connect(const ServerAddress& server, const std::string& name_space,
                                       const std::stop_token& stop) {
  PageClient client(TRY(Stream::connect(server, Deadline::after(limits::kConnectTimeout))));
  TRY(client.end_on(stop));
  TRY(client.say_hello(server, name_space, message::Role::kControl));
  return client;
}

Result<void> PageClient::end_on(const std::stop_token& stop) {
  if (!stop.stop_possible()) return {};
  // A descriptor of its own, since a client moves.
  const auto socket = std::make_shared<const UniqueFd>(TRY(duplicate(stream_.socket())));
  on_stop_ = std::make_unique<OnStop>(stop, [socket] { shut_down(*socket); });
  return {};
}

Result<void> PageClient::say_hello(const ServerAddress& server, const std::string& name_space,
                                   message::Role role) {
  const auto reply = ask<message::Welcome>(
      message::Hello{.version = message::kVersion, .role = role, .name_space = name_space}, {},
      limits::kConnectTimeout);
  if (!reply && reply.error().code() == ErrorCode::kUnavailable && server.tls == nullptr) {
    return fail(ErrorCode::kUnavailable, "{}; it may want TLS", reply.error().context());
  }
  const message::Welcome welcome = TRY(reply);
  if (welcome.version != message::kVersion) {
    return fail(ErrorCode::kBadVersion, "the page server speaks version {}, this build {}",
                welcome.version, message::kVersion);
  }
  store_ = welcome.store;
  return {};
}

Result<void> PageClient::send(const Message& request, std::span<const ByteSpan> body,
                              Deadline deadline) {
  std::size_t body_bytes = 0;
  for (const ByteSpan piece : body) body_bytes += piece.size();
  Bytes head;
  encode_message(request, next_request_, body_bytes, head);
  std::vector<ByteSpan> pieces{head};
  pieces.insert(pieces.end(), body.begin(), body.end());
  outstanding_.push_back(next_request_++);
  return stream_.send(pieces, deadline);
}

Result<void> PageClient::fill(MutableByteSpan to, Deadline deadline) {
  const auto received = stream_.receive_all(to, deadline);
  // A server that goes away within a message is away all the same.
  if (!received && received.error().code() == ErrorCode::kTruncated) {
    return fail(ErrorCode::kUnavailable, "{}", received.error().context());
  }
  return received;
}

Result<Message> PageClient::receive(Deadline deadline) {
  CHECK(!outstanding_.empty());
  std::array<std::byte, kWireHeadBytes> prefix;
  TRY(fill(prefix, deadline));
  const WireHead head = TRY(decode_wire_head(prefix));
  head_.resize(head.header_bytes);
  TRY(fill(head_, deadline));
  Envelope envelope = TRY(decode_message(head_));
  body_.resize(head.body_bytes);
  TRY(fill(body_, deadline));
  bytes_received_ += kWireHeadBytes + head.header_bytes + head.body_bytes;
  if (envelope.request_id != outstanding_.front()) {
    return fail(ErrorCode::kProtocol, "a reply to request {} where {} was due", envelope.request_id,
                outstanding_.front());
  }
  outstanding_.pop_front();
  if (const auto* error = std::get_if<message::ErrorReply>(&envelope.message)) {
    return std::unexpected(from_reply(*error));
  }
  return std::move(envelope.message);
}

template <typename Reply>
Result<Reply> PageClient::receive_as(Deadline deadline) {
  Message reply = TRY(receive(deadline));
  if (Reply* const wanted = std::get_if<Reply>(&reply)) return std::move(*wanted);
  return fail(ErrorCode::kProtocol, "the page server answered with another kind of message");
}

template <typename Reply>
Result<Reply> PageClient::ask(const Message& request, ByteSpan body, Nanoseconds timeout) {
  const Deadline deadline = Deadline::after(timeout);
  TRY(send(request, std::span(&body, 1), deadline));
  return receive_as<Reply>(deadline);
}

Result<void> PageClient::begin_push(const SnapshotSpec& spec, const std::string& parent) {
  TRY(ask<message::Done>(message::BeginPush{spec, parent}));
  return {};
}

Result<void> PageClient::send_offer(const message::Offer& offer, std::span<const Sha256> hashes) {
  const ByteSpan body = std::as_bytes(hashes);
  return send(offer, std::span(&body, 1), Deadline::after(patience_));
}

Result<Bytes> PageClient::receive_needed(std::size_t hashes) {
  auto needed = TRY(receive_as<message::Needed>(Deadline::after(patience_)));
  if (needed.missing_bitmap.size() != empty_bitmap(hashes).size()) {
    return fail(ErrorCode::kProtocol, "a bitmap of {} bytes for {} hashes",
                needed.missing_bitmap.size(), hashes);
  }
  return std::move(needed.missing_bitmap);
}

Result<void> PageClient::send_upload(std::uint32_t count, ByteSpan chunks) {
  return send(message::Upload{count}, std::span(&chunks, 1), Deadline::after(patience_));
}

Result<void> PageClient::receive_uploaded() {
  TRY(receive_as<message::Done>(Deadline::after(patience_)));
  return {};
}

Result<Manifest> PageClient::commit(const ColdMap& cold) {
  const Bytes sealed = cold.empty() ? Bytes() : encode_cold_map(cold);
  TRY(ask<message::ManifestReply>(message::Commit{}, sealed,
                                  patience_ * (limits::kCommitTimeout / limits::kRequestTimeout)));
  return decode_manifest(body_);
}

Result<PageClient::SnapshotList> PageClient::list() {
  SnapshotList all;
  Listing listing;
  while (true) {
    const auto reply = TRY(ask<message::Snapshots>(message::ListSnapshots{listing.last()}));
    ByteSpan rest = body_;
    for (const std::uint32_t size : reply.manifest_bytes) {
      if (size > rest.size()) return fail(ErrorCode::kTruncated, "a listing ends in a manifest");
      const Manifest& one = all.snapshots.emplace_back(TRY(decode_manifest(rest.first(size))));
      TRY(listing.add(one.spec.name, sizeof(Manifest) + size));
      rest = rest.subspan(size);
    }
    for (const auto& each : reply.outdated) all.outdated[each.snapshot] = each.since_unix_ms;
    if (!TRY(listing.goes_on(reply.more))) return all;
  }
}

Result<Manifest> PageClient::show(const std::string& name) {
  const SnapshotName wanted = TRY(parse_snapshot_name(name));
  TRY(ask<message::ManifestReply>(message::ShowSnapshot{wanted.name}));
  Manifest manifest = TRY(decode_manifest(body_));
  const std::string content = to_hex(manifest.content_hash);
  if (!wanted.content.empty() && wanted.content != content) {
    return fail(ErrorCode::kHashMismatch, "{} has the content sha256:{}, and not the one wanted",
                wanted.name, content);
  }
  return manifest;
}

Result<void> PageClient::pin(SnapshotId snapshot) {
  TRY(ask<message::Done>(message::Pin{snapshot}));
  return {};
}

Result<void> PageClient::remove(const message::DeleteSnapshot& what) {
  TRY(ask<message::Done>(what));
  return {};
}

Result<std::vector<message::Tag>> PageClient::tags() {
  std::vector<message::Tag> all;
  Listing listing;
  while (true) {
    const auto reply = TRY(ask<message::Tags>(message::ListTags{listing.last()}));
    for (const message::Tag& tag : reply.tags) {
      TRY(listing.add(tag.tag, sizeof(tag) + tag.tag.size() + tag.name.size()));
      all.push_back(tag);
    }
    if (!TRY(listing.goes_on(reply.more))) return all;
  }
}

Result<void> PageClient::move_tag(const message::Tag& to) {
  TRY(ask<message::Done>(message::MoveTag{to}));
  return {};
}

Result<void> PageClient::remove_tag(const std::string& tag) {
  TRY(ask<message::Done>(message::RemoveTag{tag}));
  return {};
}

Result<Manifest> PageClient::change_labels(const message::ChangeLabels& change) {
  TRY(ask<message::ManifestReply>(change));
  return decode_manifest(body_);
}

Result<message::Usage> PageClient::usage(const std::string& name) {
  return ask<message::Usage>(message::GetUsage{name}, {}, limits::kCommitTimeout);
}

Result<message::NamespaceReport> PageClient::namespace_report() {
  return ask<message::NamespaceReport>(message::GetNamespace{});
}

Result<void> PageClient::remove_namespace() {
  TRY(ask<message::Done>(message::RemoveNamespace{}));
  return {};
}

Result<void> PageClient::set_namespace(const message::NamespaceSettings& settings) {
  TRY(ask<message::Done>(message::SetNamespace{settings}));
  return {};
}

Result<message::JobReport> PageClient::start_job(const message::StartJob& job) {
  return ask<message::JobReport>(job);
}

Result<message::JobReport> PageClient::job(std::uint64_t number) {
  return ask<message::JobReport>(message::GetJob{number});
}

Result<void> PageClient::stop_job(std::uint64_t number) {
  TRY(ask<message::Done>(message::StopJob{number}));
  return {};
}

Result<message::Statistics> PageClient::statistics() {
  return ask<message::Statistics>(message::GetStatistics{});
}

Result<PageMap> PageClient::page_map(const Manifest& manifest, const MapAdmission& admit) {
  const PageCount pages = manifest.spec.image_pages();
  PageMap map;
  for (std::uint32_t segment = 0; map.size() < pages; ++segment) {
    TRY(ask<message::PageMapSegment>(message::GetPageMap{manifest.snapshot, segment}));
    if (admit) TRY(admit(TRY(map.memory_with(body_))));
    TRY(map.append_segment(body_, pages - map.size()));
  }
  return map;
}

Result<std::span<const Sha256>> PageClient::page_hashes(SnapshotId snapshot, std::uint32_t segment,
                                                        PageCount pages) {
  TRY(ask<message::PageHashes>(message::GetPageHashes{snapshot, segment}, {},
                               limits::kCommitTimeout));
  if (body_.size() != pages.value * sizeof(Sha256)) {
    return fail(
        body_.size() < pages.value * sizeof(Sha256) ? ErrorCode::kTruncated : ErrorCode::kMalformed,
        "{} bytes of hashes for {} pages", body_.size(), pages.value);
  }
  // SAFETY: a Sha256 is an array of bytes, and the body has as many.
  return std::span(reinterpret_cast<const Sha256*>(body_.data()), pages.value);
}

Result<ColdMap> PageClient::cold_map(const Manifest& manifest) {
  TRY(ask<message::ColdMapReply>(message::GetColdMap{manifest.snapshot}));
  return decode_cold_map(body_, manifest.spec.memory_pages());
}

Result<WorkingSet> PageClient::working_set(SnapshotId snapshot) {
  TRY(ask<message::WorkingSetReply>(message::GetWorkingSet{snapshot}));
  return decode_working_set(body_);
}

Result<void> PageClient::put_recording(SnapshotId snapshot, const Recording& recording) {
  TRY(ask<message::Done>(message::PutRecording{snapshot}, encode_recording(recording)));
  return {};
}

Result<Recording> PageClient::recording(SnapshotId snapshot, std::uint64_t number) {
  TRY(ask<message::RecordingReply>(message::GetRecording{snapshot, number}));
  return decode_recording(body_);
}

Result<message::WorkingSetReport> PageClient::working_set_report(SnapshotId snapshot) {
  return ask<message::WorkingSetReport>(message::ShowWorkingSet{snapshot});
}

Result<void> PageClient::drop_working_set(SnapshotId snapshot) {
  TRY(ask<message::Done>(message::DropWorkingSet{snapshot}));
  return {};
}

Result<void> PageClient::put_prefetch_report(SnapshotId snapshot,
                                             const message::PrefetchCounters& counters) {
  TRY(ask<message::Done>(message::PutPrefetchReport{snapshot, counters}));
  return {};
}

Result<void> PageClient::report_damage(const message::ReportDamage& report) {
  TRY(ask<message::Done>(report));
  return {};
}

Result<void> PageClient::request_chunks(std::vector<ChunkId> ids) {
  return send(message::GetChunks{std::move(ids)}, {}, Deadline::after(patience_));
}

Result<ByteSpan> PageClient::receive_chunks() {
  TRY(receive_as<message::Chunks>(Deadline::after(patience_)));
  return ByteSpan(body_);
}

bool is_away(const Error& error) {
  return error.code() == ErrorCode::kUnavailable || error.code() == ErrorCode::kTimeout;
}

bool is_of_one_server(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kBadMagic:
    case ErrorCode::kBadVersion:
    case ErrorCode::kMalformed:
    case ErrorCode::kTruncated:
    case ErrorCode::kTooLarge:
    case ErrorCode::kChecksumMismatch:
    case ErrorCode::kNotFound:
    case ErrorCode::kProtocol:
    case ErrorCode::kUnsupported:
    case ErrorCode::kWrongStore:
    case ErrorCode::kCorrupt:
    case ErrorCode::kHashMismatch:
      return true;
    default:
      return is_away(error);
  }
}

namespace {

/// Up to limits::kMaxChunksPerRequest pages that are not zero, in page order.
struct Batch {
  std::vector<PageIndex> pages;
  std::vector<ChunkId> ids;
};

/// Takes the next batch from [next, end) and moves `next` behind it.
Batch take_batch(const PageMap& map, PageIndex& next, PageIndex end) {
  Batch batch;
  for (PageMap::Cursor cursor(map, next);
       next < end && batch.ids.size() < limits::kMaxChunksPerRequest;) {
    const PageMap::Run run = cursor.rest();
    const std::uint64_t length = std::min(run.length, end - next).value;
    const std::uint64_t room = limits::kMaxChunksPerRequest - batch.ids.size();
    const std::uint64_t taken = run.zero() ? length : std::min(length, room);
    for (std::uint64_t i = 0; i < taken && !run.zero(); ++i) {
      batch.pages.push_back(next + PageCount{i});
      batch.ids.push_back({run.chunk.value + i});
    }
    next += PageCount{taken};
    cursor.skip({taken});
  }
  return batch;
}

Result<void> deliver(const Batch& batch, ByteSpan chunks, ChunkCodec& codec, Bytes& plain,
                     const PageSink& sink) {
  plain.resize(batch.ids.size() * kPageBytes);
  for (std::size_t i = 0; i < batch.ids.size(); ++i) {
    const MutablePageSpan page(plain.data() + i * kPageBytes, kPageBytes);
    chunks = TRY(codec.decode_next(chunks, batch.ids[i], page));
  }
  if (!chunks.empty()) return fail(ErrorCode::kProtocol, "more chunks than were asked for");
  for (std::size_t i = 0; i < batch.pages.size();) {
    std::size_t end = i + 1;
    while (end < batch.pages.size() && batch.pages[end].value == batch.pages[end - 1].value + 1) {
      ++end;
    }
    TRY(sink(batch.pages[i], ByteSpan(plain).subspan(i * kPageBytes, (end - i) * kPageBytes)));
    i = end;
  }
  return {};
}

}  // namespace

Result<void> fetch_pages(PageClient& client, const PageMap& map, PageIndex first, PageCount count,
                         const PageSink& sink) {
  CHECK(within(first.value, count.value, map.size().value));
  const PageIndex end = first + count;
  ChunkCodec codec;
  Bytes plain;
  std::deque<Batch> window;
  while (true) {
    while (first < end && window.size() < kFetchWindow) {
      Batch batch = take_batch(map, first, end);
      if (batch.ids.empty()) continue;
      TRY(client.request_chunks(batch.ids));
      window.push_back(std::move(batch));
    }
    if (window.empty()) return {};
    const ByteSpan chunks = TRY(client.receive_chunks());
    TRY(deliver(window.front(), chunks, codec, plain, sink));
    window.pop_front();
  }
}

Result<void> write_state_pages(const UniqueFd& file, ByteCount state_size, PageCount first,
                               ByteSpan pages) {
  const std::uint64_t offset = bytes_of(first).value;
  const std::uint64_t length = std::min<std::uint64_t>(pages.size(), state_size.value - offset);
  return write_at(file, pages.first(length), offset);
}

Result<void> fetch_state(PageClient& client, const Manifest& manifest, const PageMap& map,
                         const UniqueFd& file, const PageSink& check) {
  const SnapshotSpec& spec = manifest.spec;
  const PageIndex start{spec.memory_pages().value};
  TRY(resize_file(file, spec.state));
  return fetch_pages(client, map, start, spec.state_pages(),
                     [&](PageIndex first, ByteSpan pages) -> Result<void> {
                       TRY(check(first, pages));
                       return write_state_pages(file, spec.state, first - start, pages);
                     });
}

}  // namespace thaw
