#include "cli/pull.h"

#include <algorithm>
#include <optional>

#include "base/output_file.h"
#include "cli/progress.h"
#include "format/hash.h"
#include "format/page_client.h"

namespace thaw {

namespace {

/// Hashes the pages of an image that come in order with the zero ones left out.
class ImageVerifier {
 public:
  explicit ImageVerifier(ContentForm form) : contents_(form) {}

  void add(PageIndex first, ByteSpan pages) {
    contents_.add_zero_pages(first - next_);
    for (std::size_t at = 0; at < pages.size(); at += kPageBytes) {
      contents_.add(hasher_.hash(pages.subspan(at, kPageBytes)));
    }
    next_ = first + PageCount{pages.size() / kPageBytes};
  }
  Sha256 finish(const SnapshotSpec& spec) {
    contents_.add_zero_pages(PageIndex{spec.image_pages().value} - next_);
    return contents_.finish(spec);
  }

 private:
  Hasher hasher_;
  ContentHash contents_;
  PageIndex next_{0};
};

/// One pull, over as many connections as it takes.
class Pull {
 public:
  Pull(PullOptions options, OutputFile& memory, OutputFile* state)
      : memory_(memory),
        state_(state),
        name_(std::move(options.name)),
        transfer_(std::move(options.servers)) {}

  Result<PullResult> run() {
    TRY(transfer_.run([this](PageClient& client) { return begin(client); },
                      [this](PageClient& client) { return fetch(client); }));
    if (verifier_->finish(manifest_->spec) != manifest_->content_hash) {
      return fail(ErrorCode::kChecksumMismatch, "the content of {} is not what was pushed",
                  manifest_->spec.name);
    }
    progress_->update(manifest_->spec.memory);
    return PullResult{*manifest_, transfer_.received_bytes(), transfer_.reconnects()};
  }

 private:
  Result<void> begin(PageClient& client) {
    Manifest manifest = TRY(find(client));
    TRY(hold(client, manifest));
    // Chunks have other numbers in another store.
    if (!map_ || store_ != client.store() || manifest.snapshot != manifest_->snapshot) {
      map_ = TRY(client.page_map(manifest));
      store_ = client.store();
    }
    manifest_ = std::move(manifest);
    return {};
  }

  /// The snapshot; on a later connection the one that was begun.
  Result<Manifest> find(PageClient& client) {
    if (!manifest_) return client.show(name_);
    const std::string& name = manifest_->spec.name;
    auto manifest = client.show(name);
    if (!manifest && manifest.error().code() == ErrorCode::kNotFound) {
      return fail(ErrorCode::kNotFound, "{} was deleted while it was pulled", name);
    }
    if (manifest && (manifest->content_hash != manifest_->content_hash ||
                     manifest->content_form != manifest_->content_form ||
                     manifest->spec.memory != manifest_->spec.memory ||
                     manifest->spec.state != manifest_->spec.state)) {
      return fail(ErrorCode::kNotFound, "{} was replaced by another snapshot while it was pulled",
                  name);
    }
    return manifest;
  }

  /// What is deleted meanwhile stays for this connection. A server of an earlier version refuses to
  /// be asked that, and the pull is at the risk of a deletion, as it was.
  static Result<void> hold(PageClient& client, const Manifest& manifest) {
    auto pinned = client.pin(manifest.snapshot);
    if (!pinned && pinned.error().code() == ErrorCode::kProtocol) return {};
    return pinned;
  }

  Result<void> prepare_outputs() {
    const SnapshotSpec& spec = manifest_->spec;
    const std::uint64_t zeros =
        std::min(manifest_->statistics.zero_pages, spec.image_pages().value);
    const ByteCount data = bytes_of(spec.image_pages() - PageCount{zeros});
    TRY(memory_.expect(spec.memory, std::min(data, spec.memory)));
    if (state_ != nullptr) TRY(state_->expect(spec.state, std::min(data, spec.state)));
    verifier_.emplace(manifest_->content_form);
    progress_.emplace("pull " + spec.name, spec.memory);
    return {};
  }

  /// Memory and state are neighbours in the image.
  Result<void> fetch(PageClient& client) {
    if (!progress_) TRY(prepare_outputs());
    const PageIndex state_start{manifest_->spec.memory_pages().value};
    const PageIndex end = state_start + manifest_->spec.state_pages();
    if (next_ < state_start) TRY(fetch_until(client, state_start));
    return fetch_until(client, end);
  }
  Result<void> fetch_until(PageClient& client, PageIndex end) {
    TRY(fetch_pages(client, *map_, next_, end - next_,
                    [this](PageIndex first, ByteSpan pages) { return take(first, pages); }));
    next_ = end;
    transfer_.reached(next_.value);
    return {};
  }

  Result<void> take(PageIndex first, ByteSpan pages) {
    const SnapshotSpec& spec = manifest_->spec;
    const PageIndex state_start{spec.memory_pages().value};
    if (first < state_start) {
      TRY(memory_.write(pages, offset_of(first).value));
    } else if (state_ != nullptr) {
      const std::uint64_t offset = bytes_of(first - state_start).value;
      const std::uint64_t length = std::min<std::uint64_t>(pages.size(), spec.state.value - offset);
      TRY(state_->write(pages.first(length), offset));
    }
    verifier_->add(first, pages);
    next_ = first + PageCount{pages.size() / kPageBytes};
    transfer_.reached(next_.value);
    progress_->update(std::min(ByteCount{offset_of(next_).value}, spec.memory));
    return {};
  }

  OutputFile& memory_;
  OutputFile* const state_;  // null: not wanted
  const std::string name_;
  Transfer transfer_;
  std::optional<Manifest> manifest_;
  std::optional<PageMap> map_;  // of manifest_ in store_
  StoreId store_;
  PageIndex next_;  // what comes before is written
  std::optional<ImageVerifier> verifier_;
  std::optional<Progress> progress_;
};

}  // namespace

Result<PullResult> pull_snapshot(PullOptions options) {
  const bool with_state = !options.state_path.empty();
  const auto refuse = [&] {
    return fail(ErrorCode::kInvalidArgument, "memory and state cannot both be written to {}",
                options.state_path);
  };
  if (with_state && TRY(OutputFile::name_one_descriptor(options.memory_path, options.state_path))) {
    return refuse();
  }
  OutputFile memory = TRY(OutputFile::open(options.memory_path));
  std::optional<OutputFile> state;
  if (with_state) {
    state.emplace(TRY(OutputFile::open(options.state_path)));
    if (state->has_target_of(memory)) return refuse();
  }
  PullResult result = TRY(Pull(std::move(options), memory, state ? &*state : nullptr).run());
  TRY(OutputFile::publish_together(memory, state ? &*state : nullptr));
  return result;
}

}  // namespace thaw
