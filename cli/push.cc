#include "cli/push.h"

#include <algorithm>
#include <deque>
#include <thread>

#include "base/file.h"
#include "base/host.h"
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

constexpr unsigned kMaxReconnects = 5;
constexpr std::chrono::milliseconds kFirstPause{200};

/// One attempt over one connection.
class PushAttempt {
 public:
  PushAttempt(PageClient& client, const ImageFiles& image) : client_(client), image_(image) {}

  Result<void> send_pages(Progress& progress) {
    const auto pipeline = TRY(PushPipeline::start(image_));
    while (!pipeline->finished()) {
      TRY(step(*pipeline));
      const std::uint64_t position = offset_of(pipeline->position()).value;
      progress.update({std::min(position, image_.spec.memory.value + image_.spec.state.value)});
    }
    while (!awaited_.empty()) TRY(receive(*pipeline));
    if (image_.holes == Holes::kZeros) content_hash = contents_.finish();
    return {};
  }

  /// Not known here when pages are the parent's.
  std::optional<Sha256> content_hash;
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
    if (image_.holes == Holes::kZeros) {
      contents_.add_pages(offer.message.zero_bitmap, offer.message.count, offer.hashes);
    }
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
  ContentHash contents_;
};

/// Whether a new connection may help.
bool connection_lost(const Error& error) {
  return error.code() == ErrorCode::kUnavailable || error.code() == ErrorCode::kTimeout;
}

/// What a push that loses its connection knows on its next attempt.
struct Memory {
  std::uint64_t uploaded_bytes = 0;
  /// Set once a commit was sent: its reply may have been lost, not the commit.
  std::optional<Sha256> committed;
};

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

Result<Manifest> attempt(PushOptions& options, const ImageFiles& image, const ColdMap& cold,
                         Memory& memory) {
  std::optional<Manifest> existing;
  PageClient client = TRY(options.servers.connect([&](PageClient& begun) -> Result<void> {
    if (memory.committed) {
      auto found = begun.show(image.spec.name);
      if (found && found->content_hash == *memory.committed) {
        existing = *std::move(found);
        return {};
      }
    }
    return begun.begin_push(image.spec, options.parent);
  }));
  if (existing) return *std::move(existing);
  Progress progress("push " + image.spec.name, image.spec.memory + image.spec.state);
  PushAttempt push(client, image);
  const auto sent = push.send_pages(progress);
  memory.uploaded_bytes += push.uploaded_bytes;
  if (!sent) return std::unexpected(sent.error());
  memory.committed = push.content_hash;
  return client.commit(cold);
}

}  // namespace

Result<PushResult> push_snapshot(PushOptions options) {
  const UniqueFd memory_file = TRY(open_for_reading(options.memory_path));
  UniqueFd state_file;
  SnapshotSpec spec{.name = options.name,
                    .memory = TRY(file_size(memory_file)),
                    .state = {},
                    .regions = options.regions,
                    .labels = options.labels,
                    .cpu_vendor = cpu_vendor()};
  if (!options.state_path.empty()) {
    state_file = TRY(open_for_reading(options.state_path));
    spec.state = TRY(file_size(state_file));
  }
  TRY(check_spec(spec));

  const ImageFiles image{memory_file, state_file, spec, options.holes};
  const ColdMap cold = TRY(cold_map(options, image));
  Memory memory;
  std::chrono::milliseconds pause = kFirstPause;
  for (unsigned reconnects = 0;; ++reconnects) {
    auto manifest = attempt(options, image, cold, memory);
    if (manifest) return PushResult{*std::move(manifest), memory.uploaded_bytes, reconnects};
    // The first attempt fails at once when there is no server; a push under way is worth waiting.
    const bool began = reconnects > 0 || memory.uploaded_bytes > 0 || memory.committed;
    if (!connection_lost(manifest.error()) || !began || reconnects == kMaxReconnects) {
      return std::unexpected(manifest.error());
    }
    log_warning("{}; connecting again", manifest.error().message());
    std::this_thread::sleep_for(pause);
    pause *= 2;
  }
}

}  // namespace thaw
