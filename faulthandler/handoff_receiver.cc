#include "faulthandler/handoff_receiver.h"

#include <algorithm>

#include "base/userfaultfd.h"
#include "format/farewell.h"
#include "format/limits.h"

namespace thaw {

namespace {

bool is_userfaultfd(const UniqueFd& descriptor) {
  const auto checked = check_userfaultfd(descriptor);
  return checked || checked.error().code() == ErrorCode::kNoRemoveEvents;
}

}  // namespace

Result<std::optional<HandoffReceiver::Handoff>> HandoffReceiver::receive(const UniqueFd& socket) {
  std::array<std::byte, 16384> piece;
  while (true) {
    auto received = TRY(receive_with_descriptors(socket, piece));
    if (!received) return std::optional<Handoff>();
    std::ranges::move(received->descriptors, std::back_inserter(descriptors_));
    if (descriptors_.size() > limits::kMaxHandoffDescriptors) {
      return fail(ErrorCode::kSurplusDescriptor, "{} descriptors came with the handoff",
                  descriptors_.size());
    }
    if (received->bytes == 0) {
      return fail(ErrorCode::kTruncated, "the VMM closed after {} bytes of its handoff",
                  text_.size());
    }
    ByteSpan bytes = ByteSpan(piece).first(received->bytes);
    const bool left = bytes.back() == kFarewell;
    if (left) bytes = bytes.first(bytes.size() - 1);
    if (text_.size() + bytes.size() > limits::kMaxHandoffBytes) {
      return fail(ErrorCode::kTooLarge, "a handoff of more than {} bytes",
                  limits::kMaxHandoffBytes);
    }
    text_.append(as_text(bytes));
    if (TRY(scanner_.feed(bytes))) {
      Handoff handoff = TRY(complete());
      handoff.left = left;
      return handoff;
    }
    if (left) return fail(ErrorCode::kMalformed, "the VMM left in the midst of its handoff");
  }
}

bool HandoffReceiver::has_userfaultfd() const {
  return std::ranges::any_of(descriptors_, is_userfaultfd);
}

UniqueFd HandoffReceiver::take_userfaultfd() {
  // A second descriptor is the VMM's memfd, which private restores have no use for.
  const auto found = std::ranges::find_if(descriptors_, is_userfaultfd);
  return found != descriptors_.end() ? std::move(*found) : UniqueFd();
}

Result<HandoffReceiver::Handoff> HandoffReceiver::complete() {
  if (descriptors_.empty()) return fail(ErrorCode::kNoDescriptor, "no userfaultfd was passed");
  TRY(check_userfaultfd(descriptors_.front()));
  return Handoff{std::move(text_), take_userfaultfd()};
}

}  // namespace thaw
