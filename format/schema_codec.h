#pragma once

#include <string>

#include <capnp/message.h>
#include <kj/exception.h>

#include "base/error.h"
#include "format/manifest.h"
#include "format/pack.h"
#include "format/wire.capnp.h"

namespace thaw {

/// Conversions shared by the codecs of this folder between Cap'n Proto readers and builders and
/// plain values. Readers may throw kj::Exception on hostile bytes; guard_schema() is the edge.

/// Runs `decode` and turns a kj::Exception into kMalformed. The library checks pointers lazily, so
/// everything that touches a reader runs inside.
template <typename Decode>
auto guard_schema(const char* what, Decode decode) -> decltype(decode()) {
  try {
    return decode();
  } catch (const kj::Exception& exception) {
    return fail(ErrorCode::kMalformed, "{}: {}", what, exception.getDescription().cStr());
  }
}

/// Limits for a reader over `bytes`: no message may make it visit more than twice its own size.
capnp::ReaderOptions reader_options(std::size_t bytes);

/// `bytes` as the words Cap'n Proto reads; kMalformed when they are not whole words.
/// REQUIRES: 8-byte alignment.
Result<kj::ArrayPtr<const capnp::word>> as_words(ByteSpan bytes);

std::string to_string(capnp::Text::Reader text);
/// All of `text`; Cap'n Proto's own conversion stops at the first zero byte.
capnp::Text::Reader to_text(const std::string& text);
Bytes to_bytes(capnp::Data::Reader data);
capnp::Data::Reader to_data(ByteSpan bytes);

void write_pack_id(const PackId& from, schema::PackKey::Builder to);
PackId read_pack_id(schema::PackKey::Reader from);

/// The part that BeginPush and Manifest have in common, under the same field names.
template <typename Builder>
void write_spec(const SnapshotSpec& spec, Builder to) {
  to.setName(to_text(spec.name));
  to.setMemoryBytes(spec.memory.value);
  to.setStateBytes(spec.state.value);
  to.setCpuVendor(to_text(spec.cpu_vendor));
  auto regions = to.initRegions(static_cast<unsigned>(spec.regions.size()));
  for (unsigned i = 0; i < regions.size(); ++i) {
    regions[i].setSizeBytes(spec.regions[i].size.value);
    regions[i].setOffset(spec.regions[i].offset.value);
    regions[i].setPageBytes(spec.regions[i].page_size.value);
  }
  auto labels = to.initLabels(static_cast<unsigned>(spec.labels.size()));
  for (unsigned i = 0; i < labels.size(); ++i) {
    labels[i].setKey(to_text(spec.labels[i].key));
    labels[i].setValue(to_text(spec.labels[i].value));
  }
}

template <typename Reader>
Result<SnapshotSpec> read_spec(Reader from) {
  SnapshotSpec spec;
  spec.name = to_string(from.getName());
  spec.memory = {from.getMemoryBytes()};
  spec.state = {from.getStateBytes()};
  spec.cpu_vendor = to_string(from.getCpuVendor());
  if (from.getRegions().size() > limits::kMaxRegions ||
      from.getLabels().size() > limits::kMaxLabels) {
    return fail(ErrorCode::kTooLarge, "{} regions and {} labels", from.getRegions().size(),
                from.getLabels().size());
  }
  for (const auto region : from.getRegions()) {
    spec.regions.push_back(
        {{region.getSizeBytes()}, {region.getOffset()}, {region.getPageBytes()}});
  }
  for (const auto label : from.getLabels()) {
    spec.labels.push_back({to_string(label.getKey()), to_string(label.getValue())});
  }
  TRY(check_spec(spec));
  return spec;
}

}  // namespace thaw
