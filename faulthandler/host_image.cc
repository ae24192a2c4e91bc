#include "faulthandler/host_image.h"

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "base/memory_file.h"
#include "base/userfaultfd.h"
#include "faulthandler/limits.h"

namespace thaw {

namespace {

/// The snapshot's regions as they lie in a mapping of the whole memory.
Result<RegionTable> regions_in(const Mapping& mapping, const SnapshotSpec& spec) {
  std::vector<HandoffRegion> regions;
  for (const RegionShape& shape : spec.regions) {
    if (shape.page_size.value != kPageBytes) {
      return fail(ErrorCode::kUnsupported, "memory with huge pages cannot be shared");
    }
    const ByteCount before = shape.offset - ImageOffset{0};
    regions.push_back({mapping.address() + before, shape.size, shape.offset, shape.page_size});
  }
  if (regions.empty()) regions.push_back({mapping.address(), spec.memory, {}, {kPageBytes}});
  return RegionTable::check(std::move(regions), spec);
}

/// Records the pages that were put in by somebody who died before he had recorded them. A page of
/// zeros where the snapshot has something else was not put in: pages appear whole. Where hashes
/// tell more, they are asked.
Result<void> take_unrecorded_pages(const HostImage::Kept& kept, const SnapshotImage& image) {
  const std::span<PageState> states = kept.record.states();
  const Mapping content = TRY(Mapping::private_file(kept.file, bytes_of({states.size()})));
  Hasher hasher;
  std::uint64_t offset = 0;
  while (const auto data = TRY(next_data(kept.file, offset))) {
    for (std::uint64_t i = data->begin / kPageBytes; i < data->end / kPageBytes; ++i) {
      if (states[i] == PageState::kPresent) continue;
      const auto page = ByteSpan(content.bytes()).subspan(i * kPageBytes).first<kPageBytes>();
      const bool known = image.hashes ? image.hashes->check({i}, page, hasher).has_value()
                                      : !image.map.chunk_of({i}).valid() || !is_zero_page(page);
      if (!known) {
        return fail(ErrorCode::kCorrupt, "somebody has made page {} of a host image", i);
      }
      states[i] = PageState::kPresent;
    }
    offset = data->end;
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<HostImage>> HostImage::create(Loop& loop, DemandLink& link,
                                                     ServeOptions options) {
  const SnapshotSpec& spec = options.image->manifest.spec;
  UniqueFd file = TRY(create_memory_file("thaw:" + spec.name, spec.memory));
  UniqueFd view = TRY(seal_memory_file(file));
  MemoryRecord record = TRY(MemoryRecord::create("", spec.memory_pages()));
  return serve(loop, link, std::move(options),
               {std::move(file), std::move(view), std::move(record)});
}

Result<std::unique_ptr<HostImage>> HostImage::adopt(Loop& loop, DemandLink& link,
                                                    ServeOptions options, Kept kept) {
  TRY(take_unrecorded_pages(kept, *options.image));
  return serve(loop, link, std::move(options), std::move(kept));
}

Result<std::unique_ptr<HostImage>> HostImage::serve(Loop& loop, DemandLink& link,
                                                    ServeOptions options, Kept kept) {
  const SnapshotSpec& spec = options.image->manifest.spec;
  Mapping mapping = TRY(Mapping::shared(kept.file, spec.memory));
  RegionTable regions = TRY(regions_in(mapping, spec));
  UniqueFd userfaultfd = TRY(create_filling_userfaultfd());
  TRY(register_missing(userfaultfd, mapping.address(), mapping.size()));
  TRY(keep_to_this_process(mapping.address(), mapping.size()));
  auto image = std::unique_ptr<HostImage>(
      new HostImage(loop, link, std::move(options), std::move(kept), std::move(mapping)));
  image->memory_.connect();
  image->memory_.start(std::move(userfaultfd), std::move(regions));
  return image;
}

HostImage::HostImage(Loop& loop, DemandLink& link, ServeOptions options, Kept kept, Mapping mapping)
    : loop_(loop),
      link_(link),
      options_(std::move(options)),
      file_(std::move(kept.file)),
      view_(std::move(kept.view)),
      record_(std::move(kept.record)),
      mapping_(std::move(mapping)),
      memory_(loop, link, options_, record_, *this) {}

void HostImage::add(View& view) {
  if (views_.empty()) link_.add(memory_, options_.image->manifest.snapshot);
  views_.push_back(&view);
  check_file();
  if (!guarding_.active()) loop_.wait(limits::kGuardInterval, guarding_);
}

void HostImage::remove(View& view) {
  std::erase(views_, &view);
  check_file();
  if (!views_.empty()) return;
  last_used_ = Clock::now();
  link_.let_go(memory_);
  loop_.cancel(guarding_);
}

void HostImage::demand(std::span<const PageIndex> pages) { memory_.demand(pages); }

std::optional<PageSpan> HostImage::find(ChunkId chunk) const {
  const auto page = usable_ ? options_.places->find(chunk) : std::nullopt;
  if (!page || !is_present(*page)) return std::nullopt;
  // What goes elsewhere must be known to be ours: then as many pages are there as were put in.
  if (memory_.filling().value > 0 || !has_own_pages_only().value_or(false)) return std::nullopt;
  return ByteSpan(mapping_.bytes()).subspan(bytes_of({page->value}).value).first<kPageBytes>();
}

ByteCount HostImage::present() const { return bytes_of({memory_.filled_pages()}); }

void HostImage::stop() {
  CHECK(views_.empty());
  usable_ = false;
  memory_.stop();
}

void HostImage::give_up(const std::string& reason) {
  if (!usable_) return;
  usable_ = false;
  log_error("the image of {} is of no use any more: {}", options_.image->manifest.spec.name,
            reason);
  for (View* const view : std::vector(views_)) view->on_spoiled(reason);
}

Unservable HostImage::on_unservable(PageIndex page, const std::string& reason) {
  for (View* const view : std::vector(views_)) view->on_unservable(page, reason);
  return Unservable::kWaits;  // whoever wants it later waits for the next attempt
}

void HostImage::on_memory_short(const std::string& what) {
  log_warning("the image of {}: {}", options_.image->manifest.spec.name, what);
}

void HostImage::on_present(PageRange pages) {
  // A page that was there before it was put in is somebody else's.
  check_file();
  if (!usable_) return;
  for (View* const view : views_) view->on_present(pages);
}

Result<bool> HostImage::has_own_pages_only() const {
  return TRY(allocated_bytes(file_)) <= present() + bytes_of(memory_.filling());
}

void HostImage::check_file() {
  if (!usable_) return;
  const auto intact = has_own_pages_only();
  if (!intact) return give_up(intact.error().message());
  if (*intact) return;
  give_up("somebody else has made pages of it: a VMM touched memory that it had not registered");
}

void HostImage::on_guard_timer() {
  if (views_.empty()) return;
  check_file();
  loop_.wait(limits::kGuardInterval, guarding_);
}

}  // namespace thaw
