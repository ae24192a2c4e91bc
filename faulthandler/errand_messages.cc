#include "faulthandler/errand_messages.h"

#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "faulthandler/limits.h"

namespace thaw {

namespace {

/// Addresses follow it.
struct RequestHead {
  std::uint64_t number;
  std::uint64_t session;
  std::uint32_t kind;
  std::uint32_t addresses;
};

/// Ranges follow it, then the text.
struct AnswerHead {
  std::uint64_t number;
  std::uint32_t done;
  std::uint32_t vcpus;
  std::uint32_t has_backing;
  std::uint32_t has_exit;
  std::int32_t exit_code;
  std::int32_t exit_signal;
  std::uint32_t ranges;
  std::uint32_t text_bytes;
};

struct RangeWords {
  std::uint64_t start;
  std::uint64_t length;
  std::uint64_t offset;
};

template <typename T>
void append(Bytes& bytes, std::span<const T> values) {
  static_assert(std::has_unique_object_representations_v<T>);
  const ByteSpan raw = std::as_bytes(values);
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

/// Takes the next `count` values off the begin. REQUIRES: there are as many.
template <typename T>
std::vector<T> take(ByteSpan& bytes, std::size_t count) {
  std::vector<T> values(count);
  if (count > 0) std::memcpy(values.data(), bytes.data(), count * sizeof(T));
  bytes = bytes.subspan(count * sizeof(T));
  return values;
}

auto senseless() { return fail(ErrorCode::kProtocol, "a message that makes no sense"); }

}  // namespace

Bytes encode_errand(const ErrandRequest& request) {
  const Errand& errand = request.errand;
  const RequestHead head{request.number, request.session, static_cast<std::uint32_t>(errand.kind),
                         static_cast<std::uint32_t>(errand.at.size())};
  Bytes bytes;
  append(bytes, std::span(&head, 1));
  for (const HostAddress at : errand.at)
    append(bytes, std::span<const std::uint64_t>(&at.value, 1));
  return bytes;
}

Result<ErrandRequest> decode_errand(ByteSpan bytes) {
  if (bytes.size() < sizeof(RequestHead)) return senseless();
  const RequestHead head = take<RequestHead>(bytes, 1).front();
  const bool known = head.kind >= static_cast<std::uint32_t>(Errand::Kind::kMappings) &&
                     head.kind <= static_cast<std::uint32_t>(Errand::Kind::kTrace);
  if (!known || head.addresses > limits::kMaxErrandAddresses ||
      bytes.size() != head.addresses * sizeof(std::uint64_t)) {
    return senseless();
  }
  ErrandRequest request{head.number, head.session, {static_cast<Errand::Kind>(head.kind)}};
  for (const std::uint64_t at : take<std::uint64_t>(bytes, head.addresses)) {
    request.errand.at.push_back({at});
  }
  return request;
}

Bytes encode_answer(std::uint64_t number, const ErrandResult& result) {
  const std::string_view text = std::string_view(result.failure).substr(0, limits::kMaxErrandText);
  const ExitStatus exit = result.exit.value_or(ExitStatus());
  const AnswerHead head{number,
                        result.done() ? 1u : 0u,
                        static_cast<std::uint32_t>(result.vcpus),
                        result.backing.is_there ? 1u : 0u,
                        result.exit ? 1u : 0u,
                        exit.code,
                        exit.signal,
                        static_cast<std::uint32_t>(result.mappings.size()),
                        static_cast<std::uint32_t>(text.size())};
  Bytes bytes;
  append(bytes, std::span(&head, 1));
  for (const auto& [memory, offset] : result.mappings) {
    const RangeWords words{memory.start.value, memory.length.value, offset};
    append(bytes, std::span(&words, 1));
  }
  const ByteSpan raw = as_bytes(text);
  bytes.insert(bytes.end(), raw.begin(), raw.end());
  return bytes;
}

Result<ErrandAnswer> decode_answer(ByteSpan bytes) {
  if (bytes.size() < sizeof(AnswerHead)) return senseless();
  const AnswerHead head = take<AnswerHead>(bytes, 1).front();
  const bool failed = head.done == 0;
  if (head.done > 1 || head.has_backing > 1 || head.has_exit > 1 ||
      head.vcpus > static_cast<std::uint32_t>(VcpuActivity::kUnknown) ||
      head.ranges > limits::kMaxErrandRanges || head.text_bytes > limits::kMaxErrandText ||
      failed != (head.text_bytes > 0) ||
      bytes.size() != head.ranges * sizeof(RangeWords) + head.text_bytes) {
    return senseless();
  }
  ErrandAnswer answer{.number = head.number, .result = {}};
  ErrandResult& result = answer.result;
  for (const auto& [start, length, offset] : take<RangeWords>(bytes, head.ranges)) {
    // In order of address, and no range goes round: what checks them relies on that.
    const bool follows =
        result.mappings.empty() ||
        result.mappings.back().memory.start.value + result.mappings.back().memory.length.value <=
            start;
    if (!follows || start + length <= start) return senseless();
    result.mappings.push_back({{{start}, {length}}, offset});
  }
  result.vcpus = static_cast<VcpuActivity>(head.vcpus);
  result.backing.is_there = head.has_backing != 0;
  if (head.has_exit != 0) {
    result.exit = ExitStatus{.code = head.exit_code, .signal = head.exit_signal};
  }
  result.failure = std::string(as_text(bytes));
  return answer;
}

}  // namespace thaw
