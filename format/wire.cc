#include "format/wire.h"

#include <algorithm>

#include <capnp/message.h>
#include <capnp/serialize.h>

#include "base/check.h"
#include "format/limits.h"
#include "format/schema_codec.h"
#include "format/upkeep_codec.h"

namespace thaw {

namespace {

constexpr std::uint32_t kFrameMagic = 0x31'52'57'54;  // "TWR1"

using Builder = MessageBuilder;
using Reader = MessageReader;

// One overload a message: a new message does not compile without its encoder.

void write(const message::Hello& from, Builder to) {
  auto hello = to.initHello();
  hello.setVersion(from.version);
  hello.setRole(static_cast<schema::Role>(from.role));
  hello.setNamespace(to_text(from.name_space));
}
void write(const message::BeginPush& from, Builder to) {
  auto begin = to.initBeginPush();
  write_spec(from.spec, begin);
  begin.setParent(to_text(from.parent));
}
void write(const message::Offer& from, Builder to) {
  auto offer = to.initOffer();
  offer.setFirstPage(from.first.value);
  offer.setPageCount(static_cast<std::uint32_t>(from.count.value));
  offer.setZeroBitmap(to_data(from.zero_bitmap));
  offer.setKeptBitmap(to_data(from.kept_bitmap));
}
void write(const message::Upload& from, Builder to) { to.initUpload().setCount(from.count); }
void write(const message::Commit&, Builder to) { to.setCommit(); }
void write(const message::ListSnapshots& from, Builder to) {
  to.initListSnapshots().setAfter(to_text(from.after));
}
void write(const message::ShowSnapshot& from, Builder to) {
  to.setShowSnapshot(to_text(from.name));
}
void write(const message::DeleteSnapshot& from, Builder to) {
  to.setDeleteSnapshot(to_text(from.name));
  to.setWhenUnused(from.when_unused);
}
void write(const message::GetPageMap& from, Builder to) {
  auto get = to.initGetPageMap();
  get.setSnapshot(from.snapshot.value);
  get.setSegment(from.segment);
}
void write(const message::GetPageHashes& from, Builder to) {
  auto get = to.initGetPageHashes();
  get.setSnapshot(from.snapshot.value);
  get.setSegment(from.segment);
}
void write_get_chunks(std::span<const ChunkId> ids, std::uint16_t optional, Builder to) {
  to.setOptionalChunks(optional);
  auto list = to.initGetChunks(static_cast<unsigned>(ids.size()));
  for (unsigned i = 0; i < list.size(); ++i) list.set(i, ids[i].value);
}
void write(const message::GetChunks& from, Builder to) {
  write_get_chunks(from.ids, from.optional, to);
}
void write(const message::GetStatistics&, Builder to) { to.setGetStatistics(); }
void write(const message::PutRecording& from, Builder to) {
  to.setPutRecording(from.snapshot.value);
}
void write(const message::GetRecording& from, Builder to) {
  auto get = to.initGetRecording();
  get.setSnapshot(from.snapshot.value);
  get.setNumber(from.number);
}
void write(const message::GetWorkingSet& from, Builder to) {
  to.setGetWorkingSet(from.snapshot.value);
}
void write(const message::ShowWorkingSet& from, Builder to) {
  to.setShowWorkingSet(from.snapshot.value);
}
void write(const message::DropWorkingSet& from, Builder to) {
  to.setDropWorkingSet(from.snapshot.value);
}
void write(const message::GetPack& from, Builder to) {
  write_pack_id({from.snapshot, from.generation, from.number}, to.initGetPack());
}
void write_counters(const message::PrefetchCounters& from, schema::PrefetchCounters::Builder to) {
  to.setSessions(from.sessions);
  to.setSetPages(from.set_pages);
  to.setPrefetchedPages(from.prefetched_pages);
  to.setLatePages(from.late_pages);
  to.setFaults(from.faults);
  to.setBytes(from.bytes);
}
void write(const message::PutPrefetchReport& from, Builder to) {
  auto put = to.initPutPrefetchReport();
  put.setSnapshot(from.snapshot.value);
  write_counters(from.counters, put.initCounters());
}
void write(const message::ErrorReply& from, Builder to) { write_error(from, to.initError()); }
void write(const message::Welcome& from, Builder to) {
  auto welcome = to.initWelcome();
  welcome.setVersion(from.version);
  welcome.setStore(to_data(from.store.bytes));
}
void write(const message::Done&, Builder to) { to.setDone(); }
void write(const message::Needed& from, Builder to) {
  to.initNeeded().setMissingBitmap(to_data(from.missing_bitmap));
}
void write(const message::ManifestReply&, Builder to) { to.setManifest(); }
void write(const message::Snapshots& from, Builder to) {
  auto snapshots = to.initSnapshots();
  snapshots.setMore(from.more);
  auto sizes = snapshots.initManifestBytes(static_cast<unsigned>(from.manifest_bytes.size()));
  for (unsigned i = 0; i < sizes.size(); ++i) sizes.set(i, from.manifest_bytes[i]);
  auto outdated = snapshots.initOutdated(static_cast<unsigned>(from.outdated.size()));
  for (unsigned i = 0; i < outdated.size(); ++i) {
    outdated[i].setSnapshot(from.outdated[i].snapshot.value);
    outdated[i].setSinceUnixMs(from.outdated[i].since_unix_ms);
  }
}
void write(const message::PageMapSegment&, Builder to) { to.setPageMapSegment(); }
void write(const message::Chunks& from, Builder to) { to.setChunks(from.count); }
void write(const message::Statistics& from, Builder to) {
  auto statistics = to.initStatistics();
  statistics.setSnapshots(from.snapshots);
  statistics.setLogicalBytes(from.logical_bytes);
  statistics.setZeroBytes(from.zero_bytes);
  statistics.setChunks(from.chunks);
  statistics.setChunkBytes(from.chunk_bytes);
  statistics.setConnections(from.connections);
  statistics.setChunksServed(from.chunks_served);
  statistics.setUptimeSeconds(from.uptime_seconds);
  statistics.setPackBytes(from.pack_bytes);
  statistics.setPacksServed(from.packs_served);
  statistics.setDocumentBytes(from.document_bytes);
  statistics.setRecordingBytes(from.recording_bytes);
}
void write(const message::RecordingReply&, Builder to) { to.setRecording(); }
void write(const message::WorkingSetReply&, Builder to) { to.setWorkingSet(); }
void write(const message::PackReply&, Builder to) { to.setPack(); }
void write(const message::GetColdMap& from, Builder to) { to.setGetColdMap(from.snapshot.value); }
void write(const message::ColdMapReply&, Builder to) { to.setColdMap(); }
void write(const message::PageHashes&, Builder to) { to.setPageHashes(); }
void write(const message::WorkingSetReport& from, Builder to) {
  auto report = to.initWorkingSetReport();
  auto list = report.initRecordings(static_cast<unsigned>(from.recordings.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    const message::RecordingSummary& summary = from.recordings[i];
    list[i].setNumber(summary.number);
    list[i].setCreatedUnixMs(summary.created_unix_ms);
    list[i].setPages(summary.pages);
    list[i].setSetPages(summary.set_pages);
    list[i].setSetHits(summary.set_hits);
  }
  write_counters(from.totals, report.initTotals());
}

Result<Message> read_offer(schema::Offer::Reader from) {
  message::Offer offer{.first = {from.getFirstPage()},
                       .count = {from.getPageCount()},
                       .zero_bitmap = to_bytes(from.getZeroBitmap()),
                       .kept_bitmap = to_bytes(from.getKeptBitmap())};
  if (offer.count.value > limits::kMaxOfferPages) {
    return fail(ErrorCode::kTooLarge, "an offer of {} pages", offer.count.value);
  }
  if (offer.count.value == 0 || offer.zero_bitmap.size() != (offer.count.value + 7) / 8) {
    return fail(ErrorCode::kMalformed, "an offer of {} pages with a bitmap of {} bytes",
                offer.count.value, offer.zero_bitmap.size());
  }
  if (offer.kept_bitmap.empty()) return offer;
  if (offer.kept_bitmap.size() != offer.zero_bitmap.size()) {
    return fail(ErrorCode::kMalformed, "an offer with bitmaps of {} and {} bytes",
                offer.zero_bitmap.size(), offer.kept_bitmap.size());
  }
  for (std::size_t i = 0; i < offer.kept_bitmap.size(); ++i) {
    if ((offer.kept_bitmap[i] & offer.zero_bitmap[i]) != std::byte{0}) {
      return fail(ErrorCode::kMalformed, "an offer of pages that are zero and the parent's");
    }
  }
  return offer;
}

Result<Message> read_get_chunks(Reader from) {
  const auto ids = from.getGetChunks();
  if (ids.size() > limits::kMaxChunksPerRequest) {
    return fail(ErrorCode::kTooLarge, "a request for {} chunks", ids.size());
  }
  message::GetChunks get{.ids = {}, .optional = from.getOptionalChunks()};
  if (get.optional > ids.size()) {
    return fail(ErrorCode::kMalformed, "{} of {} chunks are optional", get.optional, ids.size());
  }
  get.ids.reserve(ids.size());
  for (const std::uint64_t id : ids) get.ids.push_back({id});
  return get;
}

Result<Message> read_snapshots(schema::Snapshots::Reader from) {
  const auto sizes = from.getManifestBytes();
  if (sizes.size() > limits::kMaxSnapshotsPerListing) {
    return fail(ErrorCode::kTooLarge, "a listing of {} snapshots", sizes.size());
  }
  if (from.getOutdated().size() > sizes.size()) {
    return fail(ErrorCode::kMalformed, "more outdated snapshots than snapshots");
  }
  message::Snapshots snapshots{.manifest_bytes = {}, .more = from.getMore()};
  for (const std::uint32_t size : sizes) snapshots.manifest_bytes.push_back(size);
  for (const auto each : from.getOutdated()) {
    snapshots.outdated.push_back({{each.getSnapshot()}, each.getSinceUnixMs()});
  }
  return snapshots;
}

message::Statistics read_statistics(schema::Statistics::Reader from) {
  return {.snapshots = from.getSnapshots(),
          .logical_bytes = from.getLogicalBytes(),
          .zero_bytes = from.getZeroBytes(),
          .chunks = from.getChunks(),
          .chunk_bytes = from.getChunkBytes(),
          .connections = from.getConnections(),
          .chunks_served = from.getChunksServed(),
          .uptime_seconds = from.getUptimeSeconds(),
          .pack_bytes = from.getPackBytes(),
          .packs_served = from.getPacksServed(),
          .document_bytes = from.getDocumentBytes(),
          .recording_bytes = from.getRecordingBytes()};
}

message::PrefetchCounters read_counters(schema::PrefetchCounters::Reader from) {
  return {.sessions = from.getSessions(),
          .set_pages = from.getSetPages(),
          .prefetched_pages = from.getPrefetchedPages(),
          .late_pages = from.getLatePages(),
          .faults = from.getFaults(),
          .bytes = from.getBytes()};
}

Result<Message> read_working_set_report(schema::WorkingSetReport::Reader from) {
  const auto recordings = from.getRecordings();
  if (recordings.size() > limits::kMaxRecordings) {
    return fail(ErrorCode::kTooLarge, "a report of {} recordings", recordings.size());
  }
  message::WorkingSetReport report;
  for (const auto summary : recordings) {
    report.recordings.push_back({.number = summary.getNumber(),
                                 .created_unix_ms = summary.getCreatedUnixMs(),
                                 .pages = summary.getPages(),
                                 .set_pages = summary.getSetPages(),
                                 .set_hits = summary.getSetHits()});
  }
  report.totals = read_counters(from.getTotals());
  return report;
}

/// A role that this build does not know is read as control.
message::Role read_role(schema::Role role) {
  switch (role) {
    case schema::Role::DEMAND:
      return message::Role::kDemand;
    case schema::Role::PREFETCH:
      return message::Role::kPrefetch;
    case schema::Role::CONTROL:
      break;
  }
  return message::Role::kControl;
}

Result<Message> read_welcome(schema::Welcome::Reader from) {
  message::Welcome welcome{.version = from.getVersion()};
  const Bytes store = to_bytes(from.getStore());
  if (store.size() != welcome.store.bytes.size()) {
    return fail(ErrorCode::kMalformed, "the id of a store in {} bytes", store.size());
  }
  std::ranges::copy(store, welcome.store.bytes.begin());
  if (!welcome.store.valid()) return fail(ErrorCode::kMalformed, "a welcome without a store");
  return welcome;
}

Result<Message> read(Reader from) {
  switch (from.which()) {
    case schema::Message::HELLO: {
      const auto hello = from.getHello();
      return message::Hello{hello.getVersion(), read_role(hello.getRole()),
                            to_string(hello.getNamespace())};
    }
    case schema::Message::BEGIN_PUSH:
      return message::BeginPush{TRY(read_spec(from.getBeginPush())),
                                to_string(from.getBeginPush().getParent())};
    case schema::Message::OFFER:
      return read_offer(from.getOffer());
    case schema::Message::UPLOAD:
      return message::Upload{from.getUpload().getCount()};
    case schema::Message::COMMIT:
      return message::Commit{};
    case schema::Message::LIST_SNAPSHOTS:
      return message::ListSnapshots{to_string(from.getListSnapshots().getAfter())};
    case schema::Message::SHOW_SNAPSHOT:
      return message::ShowSnapshot{to_string(from.getShowSnapshot())};
    case schema::Message::DELETE_SNAPSHOT:
      return message::DeleteSnapshot{to_string(from.getDeleteSnapshot()), from.getWhenUnused()};
    case schema::Message::GET_PAGE_MAP:
      return message::GetPageMap{{from.getGetPageMap().getSnapshot()},
                                 from.getGetPageMap().getSegment()};
    case schema::Message::GET_CHUNKS:
      return read_get_chunks(from);
    case schema::Message::GET_STATISTICS:
      return message::GetStatistics{};
    case schema::Message::PUT_RECORDING:
      return message::PutRecording{{from.getPutRecording()}};
    case schema::Message::GET_RECORDING:
      return message::GetRecording{{from.getGetRecording().getSnapshot()},
                                   from.getGetRecording().getNumber()};
    case schema::Message::GET_WORKING_SET:
      return message::GetWorkingSet{{from.getGetWorkingSet()}};
    case schema::Message::SHOW_WORKING_SET:
      return message::ShowWorkingSet{{from.getShowWorkingSet()}};
    case schema::Message::DROP_WORKING_SET:
      return message::DropWorkingSet{{from.getDropWorkingSet()}};
    case schema::Message::GET_PACK: {
      const PackId id = read_pack_id(from.getGetPack());
      return message::GetPack{id.snapshot, id.generation, id.number};
    }
    case schema::Message::PUT_PREFETCH_REPORT:
      return message::PutPrefetchReport{{from.getPutPrefetchReport().getSnapshot()},
                                        read_counters(from.getPutPrefetchReport().getCounters())};
    case schema::Message::ERROR:
      return TRY(read_error(from.getError()));
    case schema::Message::WELCOME:
      return read_welcome(from.getWelcome());
    case schema::Message::DONE:
      return message::Done{};
    case schema::Message::NEEDED:
      return message::Needed{to_bytes(from.getNeeded().getMissingBitmap())};
    case schema::Message::MANIFEST:
      return message::ManifestReply{};
    case schema::Message::SNAPSHOTS:
      return read_snapshots(from.getSnapshots());
    case schema::Message::PAGE_MAP_SEGMENT:
      return message::PageMapSegment{};
    case schema::Message::CHUNKS:
      return message::Chunks{from.getChunks()};
    case schema::Message::STATISTICS:
      return read_statistics(from.getStatistics());
    case schema::Message::RECORDING:
      return message::RecordingReply{};
    case schema::Message::WORKING_SET:
      return message::WorkingSetReply{};
    case schema::Message::PACK:
      return message::PackReply{};
    case schema::Message::WORKING_SET_REPORT:
      return read_working_set_report(from.getWorkingSetReport());
    case schema::Message::MOVE_TAG:
      return message::MoveTag{read_tag(from.getMoveTag())};
    case schema::Message::REMOVE_TAG:
      return message::RemoveTag{to_string(from.getRemoveTag())};
    case schema::Message::LIST_TAGS:
      return message::ListTags{to_string(from.getListTags())};
    case schema::Message::CHANGE_LABELS:
      return TRY(read_change_labels(from.getChangeLabels()));
    case schema::Message::GET_USAGE:
      return message::GetUsage{to_string(from.getGetUsage())};
    case schema::Message::GET_NAMESPACE:
      return message::GetNamespace{};
    case schema::Message::REMOVE_NAMESPACE:
      return message::RemoveNamespace{};
    case schema::Message::SET_NAMESPACE:
      return message::SetNamespace{read_settings(from.getSetNamespace())};
    case schema::Message::START_JOB:
      return TRY(read_start_job(from.getStartJob()));
    case schema::Message::GET_JOB:
      return message::GetJob{from.getGetJob()};
    case schema::Message::STOP_JOB:
      return message::StopJob{from.getStopJob()};
    case schema::Message::PIN:
      return message::Pin{{from.getPin()}};
    case schema::Message::UNPIN:
      return message::Unpin{{from.getUnpin()}};
    case schema::Message::GET_COLD_MAP:
      return message::GetColdMap{{from.getGetColdMap()}};
    case schema::Message::GET_PAGE_HASHES:
      return message::GetPageHashes{{from.getGetPageHashes().getSnapshot()},
                                    from.getGetPageHashes().getSegment()};
    case schema::Message::PAGE_HASHES:
      return message::PageHashes{};
    case schema::Message::REPORT_DAMAGE:
      return TRY(read_damage(from.getReportDamage()));
    case schema::Message::COLD_MAP:
      return message::ColdMapReply{};
    case schema::Message::TAGS:
      return TRY(read_tags(from.getTags()));
    case schema::Message::USAGE:
      return read_usage(from.getUsage());
    case schema::Message::NAMESPACE:
      return read_namespace_report(from.getNamespace());
    case schema::Message::JOB:
      return TRY(read_job_report(from.getJob()));
  }
  return fail(ErrorCode::kUnsupported, "a message of unknown kind {}",
              static_cast<unsigned>(from.which()));
}

template <typename Write>
void encode(std::uint64_t request_id, std::size_t body_bytes, Bytes& to, Write write_root) {
  // Enough for every message of the fault path, so that those do not allocate here.
  capnp::word scratch[256] = {};
  capnp::MallocMessageBuilder builder(kj::arrayPtr(scratch, std::size(scratch)));
  auto root = builder.initRoot<schema::Message>();
  root.setRequestId(request_id);
  write_root(root);

  const std::size_t header_bytes = capnp::computeSerializedSizeInWords(builder) * 8;
  CHECK(header_bytes <= limits::kMaxHeaderBytes && body_bytes <= limits::kMaxBodyBytes);
  const std::size_t start = to.size();
  to.resize(start + kWireHeadBytes + header_bytes);
  std::byte* const head = to.data() + start;
  store_le(head, kFrameMagic);
  store_le(head + 4, static_cast<std::uint32_t>(header_bytes));
  store_le(head + 8, static_cast<std::uint32_t>(body_bytes));
  store_le(head + 12, std::uint32_t{0});
  // SAFETY: unsigned char may alias any object, and the span has the computed size.
  kj::ArrayOutputStream stream(
      kj::arrayPtr(reinterpret_cast<unsigned char*>(head) + kWireHeadBytes, header_bytes));
  capnp::writeMessage(stream, builder);
}

Result<Envelope> decode(ByteSpan bytes) {
  capnp::FlatArrayMessageReader reader(TRY(as_words(bytes)), reader_options(bytes.size()));
  const auto from = reader.getRoot<schema::Message>();
  return Envelope{from.getRequestId(), TRY(read(from))};
}

}  // namespace

Result<WireHead> decode_wire_head(std::span<const std::byte, kWireHeadBytes> bytes) {
  if (load_le<std::uint32_t>(bytes.data()) != kFrameMagic) {
    return fail(ErrorCode::kBadMagic, "the peer does not speak Thaw's protocol");
  }
  const WireHead head{.header_bytes = load_le<std::uint32_t>(bytes.data() + 4),
                      .body_bytes = load_le<std::uint32_t>(bytes.data() + 8)};
  if (head.header_bytes > limits::kMaxHeaderBytes || head.body_bytes > limits::kMaxBodyBytes) {
    return fail(ErrorCode::kTooLarge, "a message of {} + {} bytes", head.header_bytes,
                head.body_bytes);
  }
  if (head.header_bytes == 0 || head.header_bytes % 8 != 0 ||
      load_le<std::uint32_t>(bytes.data() + 12) != 0) {
    return fail(ErrorCode::kMalformed, "a message head with {} header bytes", head.header_bytes);
  }
  return head;
}

void encode_message(const Message& message, std::uint64_t request_id, std::size_t body_bytes,
                    Bytes& to) {
  encode(request_id, body_bytes, to, [&](Builder root) {
    std::visit([&](const auto& value) { write(value, root); }, message);
  });
}

void encode_get_chunks(std::span<const ChunkId> ids, std::uint16_t optional,
                       std::uint64_t request_id, Bytes& to) {
  encode(request_id, 0, to, [&](Builder root) { write_get_chunks(ids, optional, root); });
}

Result<Envelope> decode_message(ByteSpan bytes) {
  return guard_schema("message", [&] { return decode(bytes); });
}

message::ErrorReply to_reply(const Error& error) {
  std::string text = error.context();
  if (error.error_number() != 0) text += fmt::format(" ({})", std::strerror(error.error_number()));
  if (text.size() > limits::kMaxErrorTextBytes) text.resize(limits::kMaxErrorTextBytes);
  return {error.code(), std::move(text)};
}

Error from_reply(const message::ErrorReply& reply) { return {reply.code, reply.text}; }

}  // namespace thaw
