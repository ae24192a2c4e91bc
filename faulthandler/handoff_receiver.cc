#include "faulthandler/handoff_receiver.h"

#include <algorithm>

#include "base/file.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "format/farewell.h"
#include "format/limits.h"

namespace thaw {

namespace {

bool is_userfaultfd(const UniqueFd& descriptor) {
  return check_userfaultfd(descriptor).has_value();
}

}  // namespace

Result<std::optional<HandoffReceiver::Handoff>> HandoffReceiver::receive(const UniqueFd& socket) {
  std::array<std::byte, 16384> piece;
  while (true) {
    auto received = TRY(receive_with_descriptors(socket, piece));
    if (!received) return std::optional<Handoff>();
    std::ranges::move(received->descriptors, std::back_inserter(descriptors_));
    lost_descriptors_ = lost_descriptors_ || received->lost_descriptors;
    if (lost_descriptors_ || descriptors_.size() > limits::kMaxHandoffDescriptors) {
      return fail(ErrorCode::kSurplusDescriptor, "{} descriptors came with the handoff{}",
                  descriptors_.size(), lost_descriptors_ ? ", and more that are lost" : "");
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

void HandoffReceiver::add_surplus(Received received) {
  lost_descriptors_ = lost_descriptors_ || received.lost_descriptors;
  std::ranges::move(received.descriptors, std::back_inserter(descriptors_));
}

bool HandoffReceiver::has_userfaultfd() const {
  return std::ranges::any_of(descriptors_, is_userfaultfd);
}

Result<UniqueFd> HandoffReceiver::copy_of_userfaultfd() const {
  return duplicate(*std::ranges::find_if(descriptors_, is_userfaultfd));
}

std::vector<UniqueFd> HandoffReceiver::take_userfaultfds() {
  std::vector<UniqueFd> userfaultfds;
  for (UniqueFd& descriptor : descriptors_) {
    if (is_userfaultfd(descriptor)) userfaultfds.push_back(std::move(descriptor));
  }
  return userfaultfds;
}

Result<HandoffReceiver::Handoff> HandoffReceiver::complete() {
  if (descriptors_.empty()) return fail(ErrorCode::kNoDescriptor, "no userfaultfd was passed");
  const auto count = std::ranges::count_if(descriptors_, is_userfaultfd);
  if (count == 0) TRY(check_userfaultfd(descriptors_.front()));
  if (count > 1) {
    return fail(ErrorCode::kSurplusDescriptor, "{} userfaultfds came with the handoff", count);
  }
  Handoff handoff;
  handoff.text = std::move(text_);
  handoff.userfaultfd = std::move(take_userfaultfds().front());
  // Another descriptor may be the VMM's memfd, which private restores have no use for.
  for (UniqueFd& other : descriptors_) {
    if (other.valid() && is_pidfd_of_unseen_process(other)) handoff.pidfd = std::move(other);
  }
  return handoff;
}

}  // namespace thaw
