#include "format/manifest.h"

#include <algorithm>
#include <set>

#include <capnp/message.h>
#include <capnp/serialize.h>

#include "format/envelope.h"
#include "format/schema_codec.h"

namespace thaw {

namespace {

constexpr EnvelopeKind kManifest{.magic = 0x31'4e'4d'54,  // "TMN1"
                                 .version = 1,
                                 .most_plain_bytes = limits::kMaxHeaderBytes,
                                 .name = "manifest"};

Result<Manifest> decode_plain(ByteSpan plain) {
  capnp::FlatArrayMessageReader reader(TRY(as_words(plain)), reader_options(plain.size()));
  const auto from = reader.getRoot<schema::Manifest>();
  Manifest manifest;
  manifest.spec = TRY(read_spec(from));
  manifest.snapshot = {from.getSnapshot()};
  manifest.parent = {from.getParent()};
  manifest.created_unix_ms = from.getCreatedUnixMs();
  const auto hash = from.getContentHash();
  if (hash.size() != manifest.content_hash.size()) {
    return fail(ErrorCode::kMalformed, "a content hash of {} bytes", hash.size());
  }
  std::ranges::copy(to_bytes(hash), manifest.content_hash.begin());
  if (from.getContentForm() > static_cast<std::uint16_t>(ContentForm::kSegments)) {
    return fail(ErrorCode::kUnsupported, "a content hash of form {}", from.getContentForm());
  }
  manifest.content_form = static_cast<ContentForm>(from.getContentForm());
  manifest.statistics = {.zero_pages = from.getZeroPages(),
                         .duplicate_pages = from.getDuplicatePages(),
                         .new_pages = from.getNewPages(),
                         .new_chunk_bytes = from.getNewChunkBytes(),
                         .changed_pages = from.getChangedPages(),
                         .became_zero_pages = from.getBecameZeroPages(),
                         .cold_pages = from.getColdPages()};
  return manifest;
}

}  // namespace

namespace {

Result<void> check_label(const Label& label) {
  if (!label.key.empty() && label.key.size() <= limits::kMaxLabelBytes &&
      label.value.size() <= limits::kMaxLabelBytes) {
    return {};
  }
  return fail(ErrorCode::kInvalidArgument, "a label is KEY=VALUE of at most {} bytes each",
              limits::kMaxLabelBytes);
}

}  // namespace

Result<void> check_name(const std::string& name, const char* what) {
  if (name.empty() || name.size() > limits::kMaxNameBytes) {
    return fail(ErrorCode::kInvalidArgument, "a {} has 1 to {} characters, not {}", what,
                limits::kMaxNameBytes, name.size());
  }
  const bool printable =
      std::ranges::all_of(name, [](char c) { return c > ' ' && c < 0x7f && c != '/'; });
  if (!printable) {
    return fail(ErrorCode::kInvalidArgument,
                "a {} has no spaces, slashes or unprintable characters", what);
  }
  return {};
}

Result<void> check_tag(const std::string& tag) {
  TRY(check_name(tag, "tag"));
  const std::size_t colon = tag.find(':');
  if (colon == 0 || colon >= tag.size() - 1 || tag.find(':', colon + 1) != std::string::npos) {
    return fail(ErrorCode::kInvalidArgument, "a tag is NAME:TAG, which \"{}\" is not", tag);
  }
  return {};
}

Result<void> check_regions(const std::vector<RegionShape>& regions, ByteCount memory) {
  std::uint64_t covered = 0;
  for (const RegionShape& region : regions) {
    const std::uint64_t page = region.page_size.value;
    if (page != kPageBytes && page != kHugePageBytes) {
      return fail(ErrorCode::kRegionMismatch, "page size {} is neither 4096 nor 2097152", page);
    }
    if (region.size.value == 0 || region.size.value % page != 0 ||
        region.offset.value % page != 0) {
      return fail(ErrorCode::kRegionUnaligned, "region of {} bytes at offset {}, pages of {}",
                  region.size.value, region.offset.value, page);
    }
    if (region.offset.value < covered) {
      return fail(ErrorCode::kRegionOverlap, "offset {} is covered up to {} already",
                  region.offset.value, covered);
    }
    if (region.offset.value > covered || region.size.value > memory.value - covered) {
      return fail(ErrorCode::kRegionMismatch,
                  "region of {} bytes at offset {} where offset {} of {} comes next",
                  region.size.value, region.offset.value, covered, memory.value);
    }
    covered += region.size.value;
  }
  if (covered != memory.value) {
    return fail(ErrorCode::kRegionMismatch, "the regions cover {} of {} bytes", covered,
                memory.value);
  }
  return {};
}

Result<void> check_labels(const std::vector<Label>& labels) {
  std::set<std::string_view> keys;
  for (const Label& label : labels) {
    TRY(check_label(label));
    if (!keys.insert(label.key).second) {
      return fail(ErrorCode::kInvalidArgument, "the label \"{}\" is given twice", label.key);
    }
  }
  return {};
}

Result<void> check_spec(const SnapshotSpec& spec) {
  TRY(check_name(spec.name, "snapshot name"));
  if (spec.memory.value == 0 || spec.memory.value % kPageBytes != 0) {
    return fail(ErrorCode::kInvalidArgument,
                "guest memory of {} bytes is not one or more whole 4 KiB pages", spec.memory.value);
  }
  if (spec.memory_pages().value > limits::kMaxImagePages ||
      spec.state_pages().value > limits::kMaxStatePages) {
    return fail(ErrorCode::kTooLarge, "{} bytes of memory and {} of state", spec.memory.value,
                spec.state.value);
  }
  if (spec.regions.size() > limits::kMaxRegions || spec.labels.size() > limits::kMaxLabels ||
      spec.cpu_vendor.size() > limits::kMaxNameBytes) {
    return fail(ErrorCode::kTooLarge, "{} regions, {} labels, a CPU vendor of {} bytes",
                spec.regions.size(), spec.labels.size(), spec.cpu_vendor.size());
  }
  for (const Label& label : spec.labels) TRY(check_label(label));
  return spec.regions.empty() ? Result<void>() : check_regions(spec.regions, spec.memory);
}

Bytes encode_manifest(const Manifest& manifest) {
  capnp::MallocMessageBuilder builder;
  auto to = builder.initRoot<schema::Manifest>();
  write_spec(manifest.spec, to);
  to.setSnapshot(manifest.snapshot.value);
  to.setParent(manifest.parent.value);
  to.setCreatedUnixMs(manifest.created_unix_ms);
  to.setContentHash(to_data(manifest.content_hash));
  to.setContentForm(static_cast<std::uint16_t>(manifest.content_form));
  to.setZeroPages(manifest.statistics.zero_pages);
  to.setDuplicatePages(manifest.statistics.duplicate_pages);
  to.setNewPages(manifest.statistics.new_pages);
  to.setNewChunkBytes(manifest.statistics.new_chunk_bytes);
  to.setChangedPages(manifest.statistics.changed_pages);
  to.setBecameZeroPages(manifest.statistics.became_zero_pages);
  to.setColdPages(manifest.statistics.cold_pages);
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  return seal_envelope(kManifest, std::as_bytes(std::span(words.begin(), words.size())));
}

Result<Manifest> decode_manifest(ByteSpan sealed) {
  const Bytes plain = TRY(open_envelope(kManifest, sealed));
  return guard_schema("manifest", [&] { return decode_plain(plain); });
}

}  // namespace thaw
