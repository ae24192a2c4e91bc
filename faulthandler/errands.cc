#include "faulthandler/errands.h"

#include "base/file.h"
#include "base/partial_file.h"
#include "base/place.h"
#include "base/process_exit.h"
#include "base/socket.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

ErrandResult not_done(std::string why) { return {.failure = std::move(why)}; }

ErrandResult look_at_mappings(const ErrandSubject& subject) {
  if (subject.image == nullptr) return not_done("its VMM maps no host image");
  auto mappings = mappings_of(subject.pid, *subject.image);
  if (!mappings) return not_done(mappings.error().message());
  if (mappings->size() > limits::kMaxErrandRanges) {
    return not_done(fmt::format("the host image is mapped {} times", mappings->size()));
  }
  return {.mappings = *std::move(mappings)};
}

Result<void> write_trace(const UniqueFd& content, const ErrandSubject& subject) {
  if (subject.traces == nullptr || !content.valid()) {
    return fail(ErrorCode::kInvalidArgument, "there is no trace to be written");
  }
  const std::uint64_t size = TRY(file_size(content)).value;
  if (size > limits::kMaxRecordingBytes) {
    return fail(ErrorCode::kTooLarge, "a trace of {} bytes", size);
  }
  Bytes bytes(size);
  TRY(read_at(content, bytes, 0));
  Place place{TRY(duplicate(*subject.traces)), last_component(subject.trace)};
  PartialFile file = TRY(PartialFile::create_private(subject.trace, std::move(place)));
  TRY(write_at(file.fd(), bytes, 0));
  return file.publish();
}

ErrandResult look_at_process(const Errand& errand, const ErrandSubject& subject) {
  if (subject.pid == 0) return not_done("its VMM's process is not known here");
  switch (errand.kind) {
    case Errand::Kind::kMappings:
      return look_at_mappings(subject);
    case Errand::Kind::kVcpus:
      return {.vcpus = vcpu_activity(subject.pid)};
    default:
      return {.backing = backing_file_of(subject.pid, errand.at)};
  }
}

}  // namespace

ErrandResult do_errand(const Errand& errand, const ErrandSubject& subject) {
  if (errand.kind == Errand::Kind::kTrace) {
    const auto written = write_trace(errand.file, subject);
    return written ? ErrandResult() : not_done(written.error().message());
  }
  if (errand.kind == Errand::Kind::kExit) {
    if (subject.pidfd == nullptr) return not_done("its VMM has no pidfd");
    return {.exit = exit_status(*subject.pidfd, subject.pid)};
  }
  ErrandResult result = look_at_process(errand, subject);
  // Until here the number was this process's: it still runs.
  if (subject.pidfd != nullptr && wait_for_exit(*subject.pidfd, Deadline::after(Nanoseconds(0)))) {
    return not_done("its VMM has exited");
  }
  return result;
}

}  // namespace thaw
