#include "base/error.h"

#include <cerrno>
#include <cstring>

namespace thaw {

namespace {

struct Name {
  ErrorCode code;
  std::string_view name;
};

constexpr Name kNames[] = {
    {ErrorCode::kBadMagic, "bad_magic"},
    {ErrorCode::kBadVersion, "bad_version"},
    {ErrorCode::kMalformed, "malformed"},
    {ErrorCode::kTruncated, "truncated"},
    {ErrorCode::kTooLarge, "too_large"},
    {ErrorCode::kChecksumMismatch, "checksum_mismatch"},
    {ErrorCode::kNoDescriptor, "no_descriptor"},
    {ErrorCode::kSurplusDescriptor, "surplus_descriptor"},
    {ErrorCode::kNotUserfaultfd, "not_userfaultfd"},
    {ErrorCode::kNoRemoveEvents, "no_remove_events"},
    {ErrorCode::kRegionMismatch, "region_mismatch"},
    {ErrorCode::kRegionOverlap, "region_overlap"},
    {ErrorCode::kRegionUnaligned, "region_unaligned"},
    {ErrorCode::kNotFound, "not_found"},
    {ErrorCode::kAlreadyExists, "already_exists"},
    {ErrorCode::kInvalidArgument, "invalid_argument"},
    {ErrorCode::kProtocol, "protocol"},
    {ErrorCode::kLimitExceeded, "limit_exceeded"},
    {ErrorCode::kWrongNamespace, "wrong_namespace"},
    {ErrorCode::kBusy, "busy"},
    {ErrorCode::kUnsupported, "unsupported"},
    {ErrorCode::kHashMismatch, "hash_mismatch"},
    {ErrorCode::kQuotaExceeded, "quota_exceeded"},
    {ErrorCode::kWrongStore, "wrong_store"},
    {ErrorCode::kUnauthorized, "unauthorized"},
    {ErrorCode::kUnavailable, "unavailable"},
    {ErrorCode::kTimeout, "timeout"},
    {ErrorCode::kNoSpace, "no_space"},
    {ErrorCode::kPermission, "permission"},
    {ErrorCode::kIo, "io"},
    {ErrorCode::kCorrupt, "corrupt"},
    {ErrorCode::kStopped, "stopped"},
    {ErrorCode::kTls, "tls"},
    {ErrorCode::kReadOnly, "read_only"},
    {ErrorCode::kNoMemory, "no_memory"},
    {ErrorCode::kNoDescriptors, "no_descriptors"},
};

ErrorCode code_from_errno(int error_number) {
  switch (error_number) {
    case ENOENT:
      return ErrorCode::kNotFound;
    case EEXIST:
    case EADDRINUSE:
      return ErrorCode::kAlreadyExists;
    case ENOSPC:
    case EDQUOT:
      return ErrorCode::kNoSpace;
    case EACCES:
    case EPERM:
      return ErrorCode::kPermission;
    case EROFS:
      return ErrorCode::kReadOnly;
    case ENOMEM:
      return ErrorCode::kNoMemory;
    case EMFILE:
    case ENFILE:
      return ErrorCode::kNoDescriptors;
    case ETIMEDOUT:
      return ErrorCode::kTimeout;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH:
      return ErrorCode::kUnavailable;
    case EINVAL:
      return ErrorCode::kInvalidArgument;
    default:
      return ErrorCode::kIo;
  }
}

}  // namespace

std::string_view error_name(ErrorCode code) noexcept {
  for (const Name& entry : kNames) {
    if (entry.code == code) return entry.name;
  }
  return "unknown";
}

ErrorCode error_code_from_number(std::uint16_t number) noexcept {
  for (const Name& entry : kNames) {
    if (static_cast<std::uint16_t>(entry.code) == number) return entry.code;
  }
  return ErrorCode::kIo;
}

std::string Error::message() const {
  std::string text = fmt::format("{}: {}", error_name(code_), context_);
  if (errno_ != 0) text += fmt::format(" ({})", std::strerror(errno_));
  return text;
}

std::unexpected<Error> fail_errno(std::string context, int error_number) {
  return std::unexpected<Error>(std::in_place, code_from_errno(error_number), std::move(context),
                                error_number);
}

std::unexpected<Error> fail_errno(std::string context) {
  return fail_errno(std::move(context), errno);
}

}  // namespace thaw
