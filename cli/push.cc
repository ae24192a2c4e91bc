#include "cli/push.h"

#include <algorithm>
#include <deque>
#include <optional>

#include "base/file.h"
#include "base/host.h"
#include "base/input_file.h"
#include "base/log.h"
#include "base/types.h"
#include "cli/limits.h"
#include "cli/progress.h"
#include "cli/push_pipeline.h"
#include "format/hash.h"
#include "format/limits.h"
#include "format/page_client.h"

namespace thaw {

namespace {

/// Pages of the parent count as zeros.
void add_offer(ContentHash& contents, const PushPipeline::Offer& offer) {
  Bytes zeros = offer.message.zero_bitmap;
  for (std::size_t i = 0; i < offer.message.kept_bitmap.size(); ++i) {
    zeros[i] |= offer.message.kept_bitmap[i];
  }
  contents.add_pages(zeros, offer.message.count, offer.hashes);
}

/// One attempt over one connection.
class PushAttempt {
 public:
  PushAttempt(PageClient& client, const ImageFiles& image) : client_(client), image_(image) {}

  Result<void> send_pages(Transfer& transfer) {
    const auto pipeline = TRY(PushPipeline::start(image_));
    Progress progress("push " + image_.spec.name, image_.spec.memory + image_.spec.state);
    while (!pipeline->finished()) {
      TRY(step(*pipeline));
      transfer.reached(pipeline->position().value);
      const std::uint64_t position = offset_of(pipeline->position()).value;
      progress.update({std::min(position, image_.spec.memory.value + image_.spec.state.value)});
    }
    while (!awaited_.empty()) TRY(receive(*pipeline));
    // Further than all pages: the rest is the commit.
    transfer.reached(image_.spec.image_pages().value + 1);
    fingerprint = contents_.finish(image_.spec);
    return {};
  }

  /// Of what was read. The content hash of the snapshot, unless pages are the parent's.
  std::optional<Sha256> fingerprint;
  std::uint64_t uploaded_bytes = 0;

 private:
  enum class Reply { kNeeded, kUploaded };
  struct Awaited {
    Reply reply;
    std::size_t hashes;
  };

  /// Sends what can be sent; else receives what is awaited; else waits for this host's threads.
  /// While a reply is awaited the server is at work, so waiting for it holds up nobody.
  Result<void> step(PushPipeline& pipeline) {
    if (awaited_.size() == limits::kMaxPushRequests) return receive(pipeline);
    if (pipeline.open_offers() < limits::kMaxPendingOffers) {
      if (const auto* offer = TRY(pipeline.take_offer())) return send(*offer);
    }
    if (const auto* upload = TRY(pipeline.take_upload())) return send(*upload);
    if (!awaited_.empty()) return receive(pipeline);
    pipeline.wait();
    return {};
  }

  Result<void> send(const PushPipeline::Offer& offer) {
    add_offer(contents_, offer);
    awaited_.push_back({Reply::kNeeded, offer.hashes.size()});
    return client_.send_offer(offer.message, offer.hashes);
  }
  Result<void> send(const PushPipeline::Upload& upload) {
    awaited_.push_back({Reply::kUploaded, 0});
    uploaded_bytes += upload.chunks.size();
    return client_.send_upload(upload.count(), upload.chunks);
  }
  Result<void> receive(PushPipeline& pipeline) {
    const Awaited next = awaited_.front();
    awaited_.pop_front();
    if (next.reply == Reply::kUploaded) return client_.receive_uploaded();
    pipeline.set_needed(TRY(client_.receive_needed(next.hashes)));
    return {};
  }

  PageClient& client_;
  const ImageFiles& image_;
  std::deque<Awaited> awaited_;
  ContentHash contents_{kPushedForm};
};

/// Reads the image once more, without a server.
Result<Sha256> fingerprint_of(const ImageFiles& image) {
  const auto pipeline = TRY(PushPipeline::start(image));
  ContentHash contents(kPushedForm);
  while (!pipeline->finished()) {
    if (const auto* offer = TRY(pipeline->take_offer())) {
      add_offer(contents, *offer);
      pipeline->set_needed(empty_bitmap(offer->hashes.size()));
    } else {
      pipeline->wait();
    }
  }
  return contents.finish(image.spec);
}

/// Read from the memory image, before the push.
Result<ColdMap> cold_map(const PushOptions& options, const ImageFiles& image) {
  if (options.paging.cr3s.empty()) return ColdMap();
  const PhysicalLayout layout = TRY(physical_layout(image.spec, options.below_4g));
  ColdMap cold = TRY(find_cold_pages(layout, options.paging,
                                     [&](PageIndex page, std::span<std::byte, kPageBytes> to) {
                                       return read_at(image.memory, to, offset_of(page).value);
                                     }));
  limit_cold_map(cold);
  return cold;
}

/// The files of a push.
struct Inputs {
  InputFile memory;
  std::optional<InputFile> state;
};

Result<Inputs> open_inputs(const PushOptions& options) {
  const bool with_state = !options.state_path.empty();
  Inputs inputs{TRY(InputFile::open(options.memory_path, bytes_of({limits::kMaxImagePages}))), {}};
  if (inputs.memory.from_stream() && options.memory_path == options.state_path) {
    return fail(ErrorCode::kInvalidArgument, "{} cannot be both memory and state",
                options.memory_path);
  }
  if (options.holes == Holes::kPagesOfParent && !inputs.memory.is_regular()) {
    return fail(ErrorCode::kInvalidArgument, "--diff needs a file with holes, which {} cannot have",
                options.memory_path);
  }
  if (with_state) {
    inputs.state = TRY(InputFile::open(options.state_path, bytes_of({limits::kMaxStatePages})));
  }
  return inputs;
}

/// One push, over as many connections as it takes.
class SnapshotPush {
 public:
  SnapshotPush(PushOptions options, const Inputs& inputs, SnapshotSpec spec)
      : options_(std::move(options)),
        inputs_(inputs),
        spec_(std::move(spec)),
        image_{inputs.memory.fd(), inputs.state ? inputs.state->fd() : none_, spec_,
               options_.holes},
        transfer_(options_.servers) {}

  Result<PushResult> run() {
    TRY(look_at_diff());
    const ColdMap cold = TRY(cold_map(options_, image_));
    TRY(transfer_.run([&](PageClient& client) { return begin(client); },
                      [&](PageClient& client) { return send(client, cold); }));
    look_at_changes();
    return PushResult{*std::move(manifest_), uploaded_bytes_, transfer_.reconnects(),
                      std::move(warnings_)};
  }

 private:
  Result<void> begin(PageClient& client) {
    if (TRY(was_committed(client))) return {};
    return client.begin_push(spec_, options_.parent);
  }
  Result<void> send(PageClient& client, const ColdMap& cold) {
    if (manifest_) return {};
    PushAttempt push(client, image_);
    const auto sent = push.send_pages(transfer_);
    uploaded_bytes_ += push.uploaded_bytes;
    if (!sent) return sent;
    fingerprint_ = push.fingerprint;
    auto manifest = client.commit(cold);
    // A commit of an earlier connection may have come through meanwhile.
    const bool taken = !manifest && manifest.error().code() == ErrorCode::kAlreadyExists;
    if (taken && TRY(was_committed(client))) return {};
    asked_to_commit_ = true;
    manifest_ = TRY(std::move(manifest));
    return {};
  }

  /// The reply to a commit may be lost, and not the commit. Then the name is taken by this very
  /// content.
  Result<bool> was_committed(PageClient& client) {
    if (!asked_to_commit_ || options_.holes == Holes::kPagesOfParent) return false;
    auto existing = TRY(if_found(client.show(spec_.name)));
    if (!existing || existing->content_hash != *fingerprint_) return false;
    manifest_ = *std::move(existing);
    return true;
  }

  Result<void> look_at_diff() {
    if (options_.holes != Holes::kPagesOfParent) return {};
    const auto data = TRY(next_data(image_.memory, 0));
    if (!data) warn(PushWarning::kDiffChangesNothing);
    if (data && data->begin == 0 && data->end >= spec_.memory.value) {
      warn(PushWarning::kDiffKeepsNothing);
    }
    return {};
  }

  void look_at_changes() {
    const auto look = [this](const InputFile& file, PushWarning changed, PushWarning replaced) {
      const auto change = file.change();
      if (!change) return;
      if (*change == InputFile::Change::kWritten) warn(changed);
      if (*change == InputFile::Change::kReplaced) warn(replaced);
    };
    look(inputs_.memory, PushWarning::kMemoryChanged, PushWarning::kMemoryReplaced);
    if (inputs_.state) {
      look(*inputs_.state, PushWarning::kStateChanged, PushWarning::kStateReplaced);
    }
    const bool known = std::ranges::find(warnings_, PushWarning::kMemoryChanged) != warnings_.end();
    if (!known) look_once_more();
  }

  /// What a process writes into memory that it has mapped changes no time stamp.
  void look_once_more() {
    if (!inputs_.memory.is_regular() || !fingerprint_) return;
    if (!inputs_.memory.may_have_writers()) return;
    const auto now = fingerprint_of(image_);
    if (!now || *now != *fingerprint_) warn(PushWarning::kMemoryChanged);
  }

  void warn(PushWarning warning) {
    log_warning("{}: {}", spec_.name, warning_text(warning));
    warnings_.push_back(warning);
  }

  PushOptions options_;
  const Inputs& inputs_;
  const SnapshotSpec spec_;
  const UniqueFd none_;
  const ImageFiles image_;
  Transfer transfer_;
  std::uint64_t uploaded_bytes_ = 0;
  std::optional<Sha256> fingerprint_;
  bool asked_to_commit_ = false;
  std::optional<Manifest> manifest_;
  std::vector<PushWarning> warnings_;
};

}  // namespace

std::string_view warning_name(PushWarning warning) {
  switch (warning) {
    case PushWarning::kMemoryChanged:
      return "memory_changed";
    case PushWarning::kMemoryReplaced:
      return "memory_replaced";
    case PushWarning::kStateChanged:
      return "state_changed";
    case PushWarning::kStateReplaced:
      return "state_replaced";
    case PushWarning::kDiffKeepsNothing:
      return "diff_keeps_nothing";
    case PushWarning::kDiffChangesNothing:
      return "diff_changes_nothing";
  }
  return "unknown";
}

std::string_view warning_text(PushWarning warning) {
  switch (warning) {
    case PushWarning::kMemoryChanged:
      return "the memory image changed while it was read: if its VM was running, the snapshot is "
             "of no single moment and must not be restored";
    case PushWarning::kMemoryReplaced:
      return "the memory image was replaced by another file; the snapshot has the old one";
    case PushWarning::kStateChanged:
      return "the state file changed while it was read";
    case PushWarning::kStateReplaced:
      return "the state file was replaced by another one; the snapshot has the old one";
    case PushWarning::kDiffKeepsNothing:
      return "the diff has no hole, so no page is as in the parent: if a copy has lost the holes "
             "(cp --sparse=never, scp, tar without -S), the snapshot is wrong";
    case PushWarning::kDiffChangesNothing:
      return "the diff is one hole, so memory is as in the parent";
  }
  return "unknown";
}

Result<PushResult> push_snapshot(PushOptions options) {
  const Inputs inputs = TRY(open_inputs(options));
  SnapshotSpec spec{.name = options.name,
                    .memory = inputs.memory.size(),
                    .state = inputs.state ? inputs.state->size() : ByteCount{},
                    .regions = options.regions,
                    .labels = options.labels,
                    .cpu_vendor = cpu_vendor()};
  TRY(check_spec(spec));
  return SnapshotPush(std::move(options), inputs, std::move(spec)).run();
}

}  // namespace thaw
