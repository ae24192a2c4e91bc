#include "faulthandler/arrival.h"

#include <array>

#include "base/file.h"
#include "base/memory_file.h"
#include "format/limits.h"

namespace thaw {

namespace {

/// Number of the process, whether it has left, code of the refusal (0: none), bytes of the text
/// that follows: 8 bytes each.
constexpr std::size_t kHeadBytes = 32;

}  // namespace

Result<UniqueFd> Arrival::describe() const {
  const std::string& text = refusal ? refusal->context() : handoff;
  Bytes bytes(kHeadBytes);
  store_le(bytes.data(), static_cast<std::uint64_t>(vmm.pid));
  store_le(bytes.data() + 8, std::uint64_t{left ? 1u : 0u});
  store_le(bytes.data() + 16, std::uint64_t{refusal ? static_cast<unsigned>(refusal->code()) : 0u});
  store_le(bytes.data() + 24, std::uint64_t{text.size()});
  bytes.insert(bytes.end(), as_bytes(text).begin(), as_bytes(text).end());
  UniqueFd file = TRY(create_memory_file("thaw-arrival", {bytes.size()}));
  TRY(write_at(file, bytes, 0));
  return file;
}

Result<Arrival> Arrival::read(const UniqueFd& description) {
  const std::uint64_t size = TRY(file_size(description)).value;
  if (size < kHeadBytes || size > kHeadBytes + limits::kMaxHandoffBytes) {
    return fail(ErrorCode::kMalformed, "an arrival of {} bytes", size);
  }
  Bytes bytes(size);
  TRY(read_at(description, bytes, 0));
  const auto code = load_le<std::uint64_t>(bytes.data() + 16);
  const std::string text(as_text(ByteSpan(bytes).subspan(kHeadBytes)));
  if (load_le<std::uint64_t>(bytes.data() + 24) != text.size()) {
    return fail(ErrorCode::kMalformed, "an arrival that contradicts itself");
  }
  Arrival arrival;
  arrival.vmm.pid = static_cast<pid_t>(load_le<std::uint64_t>(bytes.data()));
  arrival.left = load_le<std::uint64_t>(bytes.data() + 8) != 0;
  if (code != 0) {
    arrival.refusal = Error(error_code_from_number(static_cast<std::uint16_t>(code)), text);
  } else {
    arrival.handoff = text;
  }
  return arrival;
}

}  // namespace thaw
