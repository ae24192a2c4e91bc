#include "cli/pull.h"

#include <optional>

#include "base/file.h"
#include "cli/progress.h"
#include "format/hash.h"
#include "format/page_client.h"

namespace thaw {

namespace {

/// Hashes the pages of an image that come in order with the zero ones left out.
class ImageVerifier {
 public:
  void add(PageIndex first, ByteSpan pages) {
    contents_.add_zero_pages(first - next_);
    for (std::size_t at = 0; at < pages.size(); at += kPageBytes) {
      contents_.add(hasher_.hash(pages.subspan(at, kPageBytes)));
    }
    next_ = first + PageCount{pages.size() / kPageBytes};
  }
  Sha256 finish(PageCount image_pages) {
    contents_.add_zero_pages(PageIndex{image_pages.value} - next_);
    return contents_.finish();
  }

 private:
  Hasher hasher_;
  ContentHash contents_;
  PageIndex next_{0};
};

}  // namespace

Result<PullResult> pull_snapshot(PullOptions options) {
  Manifest manifest;
  PageMap map;
  PageClient client = TRY(options.servers.connect([&](PageClient& begun) -> Result<void> {
    manifest = TRY(begun.show(options.name));
    map = TRY(begun.page_map(manifest));
    return {};
  }));
  const SnapshotSpec& spec = manifest.spec;

  PartialFile memory = TRY(PartialFile::create(options.memory_path));
  TRY(resize_file(memory.fd(), spec.memory));
  std::optional<PartialFile> state;
  if (!options.state_path.empty()) state.emplace(TRY(PartialFile::create(options.state_path)));

  ImageVerifier verifier;
  Progress progress("pull " + spec.name, spec.memory);
  TRY(fetch_pages(client, map, PageIndex{0}, spec.memory_pages(),
                  [&](PageIndex first, ByteSpan pages) -> Result<void> {
                    verifier.add(first, pages);
                    progress.update({offset_of(first).value + pages.size()});
                    return write_at(memory.fd(), pages, offset_of(first).value);
                  }));
  const PageIndex state_start{spec.memory_pages().value};
  if (state) TRY(resize_file(state->fd(), spec.state));
  TRY(fetch_pages(client, map, state_start, spec.state_pages(),
                  [&](PageIndex first, ByteSpan pages) -> Result<void> {
                    verifier.add(first, pages);
                    if (!state) return {};
                    return write_state_pages(state->fd(), spec.state, first - state_start, pages);
                  }));
  if (verifier.finish(spec.image_pages()) != manifest.content_hash) {
    return fail(ErrorCode::kChecksumMismatch, "the content of {} is not what was pushed",
                spec.name);
  }
  progress.update(spec.memory);
  TRY(memory.publish());
  if (state) TRY(state->publish());
  return PullResult{manifest, client.bytes_received()};
}

}  // namespace thaw
