#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/core.h>

namespace thaw {

/// Why an operation failed. The numbers travel in the wire protocol (format/wire.capnp), so they
/// are never reused; new ones go to the end. error_name() gives the spelling that users and tests
/// see.
enum class ErrorCode : std::uint16_t {
  // What a decoder says of bytes.
  kBadMagic = 1,          // these bytes are something else
  kBadVersion = 2,        // ours, but of a version this build does not read
  kMalformed = 3,         // contradicts the format
  kTruncated = 4,         // ends too early
  kTooLarge = 5,          // larger than a limit in a limits.h
  kChecksumMismatch = 6,  // decodes, but is not what was stored

  // What a handoff is refused for.
  kNoDescriptor = 10,       // no file descriptor came with the handoff
  kSurplusDescriptor = 11,  // more descriptors, or userfaultfds, than one VM has
  kNotUserfaultfd = 12,     // the descriptor is something else
  kNoRemoveEvents = 13,     // a VMM of a shared session opened its userfaultfd without them
  kRegionMismatch = 14,     // the regions are not those of the snapshot
  kRegionOverlap = 15,
  kRegionUnaligned = 16,

  // What a request is refused for.
  kNotFound = 20,
  kAlreadyExists = 21,
  kInvalidArgument = 22,
  kProtocol = 23,       // a message that does not belong here
  kLimitExceeded = 24,  // a bound on sessions, connections, queues
  kWrongNamespace = 25,
  kBusy = 26,  // refused now because it would harm a running VM
  kUnsupported = 27,
  kHashMismatch = 28,   // content is not that which a hash names, in an upload or a restore
  kQuotaExceeded = 29,  // of a namespace
  kWrongStore = 30,     // the page server keeps another store: its ids mean something else
  kUnauthorized = 31,   // this peer may not do that; whether it is there is not told

  // What the world does.
  kUnavailable = 40,  // the peer cannot be reached, or went away
  kTimeout = 41,
  kNoSpace = 42,
  kPermission = 43,
  kIo = 44,
  kCorrupt = 45,        // the store contradicts itself
  kStopped = 46,        // the operation was ended by a stop request
  kTls = 47,            // no secure connection: a certificate, a name, a broken record
  kReadOnly = 48,       // the file system takes no writes
  kNoMemory = 49,       // now: a cgroup or the host has none to give
  kNoDescriptors = 50,  // now: the process or the host has opened as many as it may
};

/// The stable spelling of a code, such as "bad_magic".
std::string_view error_name(ErrorCode code) noexcept;

/// The code with this number, or kIo when a peer sends one this build does not know.
ErrorCode error_code_from_number(std::uint16_t number) noexcept;

/// A failure as a value: what kind, the errno if a system call said so (else 0), and one line of
/// context for a person.
class Error {
 public:
  Error(ErrorCode code, std::string context, int error_number = 0)
      : code_(code), errno_(error_number), context_(std::move(context)) {}

  ErrorCode code() const noexcept { return code_; }
  int error_number() const noexcept { return errno_; }
  const std::string& context() const noexcept { return context_; }

  /// "name: context (errno text)", one line.
  std::string message() const;

 private:
  ErrorCode code_;
  int errno_;
  std::string context_;
};

/// A value or the reason why there is none. Discarding one is a compile error under -Werror, which
/// is why this is a class of its own: g++ 12 does not mark std::expected [[nodiscard]].
template <typename T>
class [[nodiscard]] Result : public std::expected<T, Error> {
 public:
  using std::expected<T, Error>::expected;
};

/// A success without a value where the failure is kNotFound.
template <typename T>
Result<std::optional<T>> if_found(Result<T> found) {
  if (found) return std::optional<T>(*std::move(found));
  if (found.error().code() == ErrorCode::kNotFound) return std::optional<T>();
  return std::unexpected(std::move(found).error());
}

/// Builds a failure to return: `return fail(ErrorCode::kTruncated, "{} of {} bytes", n, size);`
template <typename... Args>
std::unexpected<Error> fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected<Error>(std::in_place, code,
                                fmt::vformat(format, fmt::make_format_args(args...)));
}

/// The same from the current errno, whose value picks the code (ENOSPC: kNoSpace, ENOENT:
/// kNotFound and so on; anything else: kIo).
std::unexpected<Error> fail_errno(std::string context);
std::unexpected<Error> fail_errno(std::string context, int error_number);

}  // namespace thaw

/// Evaluates a Result; returns its error from the enclosing function, else yields its value.
/// Not for coroutines: it returns.
#define TRY(...) TRY_WITH_NUMBER(__COUNTER__, __VA_ARGS__)
// Each has a variable of its own, so that one may stand inside another.
#define TRY_WITH_NUMBER(number, ...) TRY_INTO(number, __VA_ARGS__)
#define TRY_INTO(number, ...)                                                   \
  ({                                                                            \
    auto try_##number = (__VA_ARGS__);                                          \
    if (!try_##number) return std::unexpected(std::move(try_##number).error()); \
    *std::move(try_##number);                                                   \
  })
