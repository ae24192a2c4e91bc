#include "vmm-client/guest_memory.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/event_fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory_file.h"
#include "base/pagemap.h"
#include "base/socket.h"
#include "base/userfaultfd.h"
#include "format/farewell.h"
#include "format/limits.h"
#include "vmm-client/limits.h"

namespace thaw {

namespace {

constexpr ByteCount kLargestImage = bytes_of(PageCount{limits::kMaxImagePages});

Result<void> check_shape(const GuestRegion& shape) {
  const std::uint64_t page_size = shape.page_size.value;
  if (page_size != kPageBytes && page_size != kHugePageBytes) {
    return fail(ErrorCode::kInvalidArgument, "a page size of {} bytes, not {} or {}", page_size,
                kPageBytes, kHugePageBytes);
  }
  if (shape.size.value == 0) return fail(ErrorCode::kInvalidArgument, "a region of 0 bytes");
  if (shape.size.value % page_size != 0) {
    return fail(ErrorCode::kRegionUnaligned, "a region of {} bytes in pages of {}",
                shape.size.value, page_size);
  }
  return {};
}

Result<void> check_shapes(std::span<const GuestRegion> shapes) {
  if (shapes.empty()) return fail(ErrorCode::kInvalidArgument, "no regions");
  if (shapes.size() > limits::kMaxRegions) {
    return fail(ErrorCode::kTooLarge, "{} regions, more than {}", shapes.size(),
                limits::kMaxRegions);
  }
  ByteCount total;
  for (const GuestRegion& shape : shapes) {
    TRY(check_shape(shape));
    if (!within(total.value, shape.size.value, kLargestImage.value)) {
      return fail(ErrorCode::kTooLarge, "more than {} bytes of guest memory", kLargestImage.value);
    }
    total += shape.size;
  }
  return {};
}

Result<void> check_regions(std::span<const MappedRegion> regions) {
  std::vector<GuestRegion> shapes;
  shapes.reserve(regions.size());
  for (const MappedRegion& region : regions) shapes.push_back({region.size, region.page_size});
  TRY(check_shapes(shapes));
  for (const MappedRegion& region : regions) {
    if (region.base.value % region.page_size.value != 0) {
      return fail(ErrorCode::kRegionUnaligned, "a region at {:#x} in pages of {}",
                  region.base.value, region.page_size.value);
    }
  }
  return {};
}

Result<Mapping> map_region(const GuestRegion& shape) {
  if (shape.page_size.value == kHugePageBytes) return Mapping::anonymous_huge(shape.size);
  return Mapping::anonymous(shape.size);
}

/// $THAW_HANDLER_UID; nothing when it is not set.
Result<std::optional<uid_t>> expected_handler() {
  const char* const text = std::getenv("THAW_HANDLER_UID");
  if (text == nullptr) return std::optional<uid_t>();
  const char* const end = text + std::strlen(text);
  uid_t user = 0;
  const auto [read, error] = std::from_chars(text, end, user);
  if (error == std::errc() && read == end && text != end) return std::optional(user);
  return fail(ErrorCode::kInvalidArgument, "THAW_HANDLER_UID={} is no user's number", text);
}

/// What listens there gets all of guest memory into its hands. So it is root, this process's own
/// user, who can look into it anyway, or the user that the environment names.
Result<UniqueFd> connect_to_handler(const std::string& socket_path, Deadline deadline) {
  const auto expected = TRY(expected_handler());
  UniqueFd socket = TRY(connect_unix(socket_path, deadline));
  const uid_t user = TRY(peer_user(socket));
  if (is_own_or_root(user) || user == expected) return socket;
  return fail(ErrorCode::kPermission,
              "user {} listens at {}, and the fault handler is root's: name its user in "
              "THAW_HANDLER_UID",
              user, socket_path);
}

/// Nobody but the caller fills this memory.
Result<void> copy_missing(const UniqueFd& uffd, HostAddress to, ByteSpan from) {
  const FillResult filled = copy_pages(uffd, to, from);
  if (filled.outcome == FillOutcome::kFilled) return {};
  if (filled.outcome == FillOutcome::kFailed) {
    return fail_errno("copy into guest memory", filled.error_number);
  }
  return fail(ErrorCode::kIo, "guest memory changed while it was filled");
}

}  // namespace

Result<MissingMemory> MissingMemory::register_regions(std::span<const MappedRegion> regions,
                                                      WriteTracking tracking) {
  TRY(check_regions(regions));
  UniqueFd uffd = TRY(create_userfaultfd(tracking));
  std::vector<HandoffRegion> described;
  described.reserve(regions.size());
  ImageOffset offset;
  for (const MappedRegion& region : regions) {
    TRY(keep_to_this_process(region.base, region.size));
    TRY(register_missing(uffd, region.base, region.size, tracking));
    described.push_back({region.base, region.size, offset, region.page_size, tracking});
    offset += region.size;
  }
  return MissingMemory(std::move(uffd), std::move(described));
}

Result<SharedSession> SharedSession::open(const std::string& socket_path, Deadline deadline) {
  SharedSession session{
      .socket = TRY(connect_to_handler(socket_path, deadline)), .image = {}, .size = {}};
  std::array<std::byte, kHostImageGreeting.size()> greeting;
  std::size_t received = 0;
  while (received < greeting.size()) {
    if (!wait_until_readable(session.socket, deadline)) {
      return fail(ErrorCode::kTimeout, "no image from {}: was it prepared to be shared?",
                  socket_path);
    }
    auto piece =
        TRY(receive_with_descriptors(session.socket, std::span(greeting).subspan(received)));
    if (!piece) continue;
    if (piece->bytes == 0) return fail(ErrorCode::kUnavailable, "{} was closed", socket_path);
    received += piece->bytes;
    if (!piece->descriptors.empty()) session.image = std::move(piece->descriptors.front());
  }
  if (as_text(greeting) != kHostImageGreeting || !keeps_its_size(session.image)) {
    return fail(ErrorCode::kProtocol, "{} gives away no host image", socket_path);
  }
  session.size = TRY(file_size(session.image));
  return session;
}

Result<void> MissingMemory::hand_over(const std::string& socket_path, Deadline deadline) {
  TRY(check_unused());
  return hand_over_on(TRY(connect_to_handler(socket_path, deadline)), deadline);
}

Result<void> MissingMemory::hand_over(SharedSession session, Deadline deadline) {
  TRY(check_unused());
  TRY(hand_over_on(std::move(session.socket), deadline));
  maps_image_ = true;
  return {};
}

Result<void> MissingMemory::hand_over_on(UniqueFd socket, Deadline deadline) {
  const std::string text = encode_handoff(regions_);
  std::vector<int> descriptors{uffd_.get()};
  // A handler in another PID namespace cannot name this process on an older kernel.
  UniqueFd pidfd;
  if (!names_peers_everywhere(socket)) {
    pidfd = TRY(own_pidfd());
    descriptors.push_back(pidfd.get());
  }
  TRY(send_with_descriptors(socket, as_bytes(text), descriptors, deadline));
  socket_ = std::move(socket);
  return {};
}

Result<void> MissingMemory::check_unused() const {
  if (socket_.valid()) return fail(ErrorCode::kAlreadyExists, "the memory was handed over before");
  if (!uffd_.valid()) return fail(ErrorCode::kAlreadyExists, "the memory was filled before");
  return {};
}

Result<void> MissingMemory::check_image_size(ByteCount size) const {
  const ByteCount memory = (regions_.back().offset + regions_.back().size) - ImageOffset{};
  if (size == memory) return {};
  return fail(ErrorCode::kRegionMismatch, "regions of {} bytes, an image of {}", memory.value,
              size.value);
}

Result<void> MissingMemory::fill(ByteSpan image) {
  TRY(check_unused());
  TRY(check_image_size({image.size()}));
  for (const HandoffRegion& region : regions_) {
    const ByteSpan content = image.subspan(region.offset.value, region.size.value);
    TRY(copy_missing(uffd_, region.base, content));
  }
  uffd_.reset();
  return {};
}

Result<void> MissingMemory::fill(const UniqueFd& image) {
  TRY(check_unused());
  const ByteCount size = TRY(file_size(image));
  TRY(check_image_size(size));
  // Read by the kernel alone, which says so if the file is cut meanwhile.
  Mapping mapping = TRY(Mapping::copy_on_write(image, {0}, size));
  TRY(mapping.allow_access());
  for (const HandoffRegion& region : regions_) {
    const ByteSpan content = mapping.bytes().subspan(region.offset.value, region.size.value);
    TRY(fill_region(region, image, content));
  }
  uffd_.reset();
  return {};
}

Result<void> MissingMemory::fill_region(const HandoffRegion& region, const UniqueFd& image,
                                        ByteSpan content) {
  const std::uint64_t page = region.page_size.value;
  const std::uint64_t start = region.offset.value;
  std::uint64_t done = 0;  // whole pages of the region
  while (done < content.size()) {
    const auto data = TRY(next_data(image, start + done));
    if (!data || data->begin - start >= content.size()) break;
    const std::uint64_t begin = (data->begin - start) / page * page;
    // A file system may have smaller blocks, and a hole may just have been made.
    const std::uint64_t last = std::max(data->begin, data->end - 1) - start;
    done = std::min<std::uint64_t>(content.size(), last / page * page + page);
    TRY(copy_missing(uffd_, region.base + ByteCount{begin}, content.subspan(begin, done - begin)));
  }
  return {};
}

Result<void> MissingMemory::give_up(Deadline deadline) {
  if (!socket_.valid()) return {};
  std::byte byte;
  const auto left = [&]() -> Result<std::size_t> {
    TRY(send_all(socket_, {&kFarewell, 1}, deadline));
    return receive_some(socket_, {&byte, 1}, deadline);
  }();
  // Of other failures the reason is that the handler has gone, which fills nothing any more.
  if (left ? *left != 0 : left.error().code() == ErrorCode::kTimeout) {
    return fail(ErrorCode::kTimeout, "the fault handler does not let go of the memory");
  }
  uffd_.reset();
  socket_.reset();
  return {};
}

bool MissingMemory::tracks_writes() const {
  return uffd_.valid() && regions_.front().tracking == WriteTracking::kOn;
}

Result<void> MissingMemory::expect_discards() {
  if (!maps_image_ || expects_discards_) return {};
  for (const HandoffRegion& region : regions_) {
    TRY(register_missing_and_minor(uffd_, region.base, region.size));
  }
  expects_discards_ = true;
  return {};
}

Result<GuestMemory> GuestMemory::create(std::span<const GuestRegion> shapes,
                                        WriteTracking tracking) {
  TRY(check_shapes(shapes));
  std::vector<Mapping> mappings;
  std::vector<MappedRegion> regions;
  mappings.reserve(shapes.size());
  regions.reserve(shapes.size());
  for (const GuestRegion& shape : shapes) {
    mappings.push_back(TRY(map_region(shape)));
    regions.push_back({mappings.back().address(), shape.size, shape.page_size});
  }
  MissingMemory registered = TRY(MissingMemory::register_regions(regions, tracking));
  return GuestMemory(std::move(registered), std::move(mappings));
}

Result<GuestMemory> GuestMemory::share(std::span<const GuestRegion> shapes,
                                       const std::string& socket_path, Deadline deadline) {
  TRY(check_shapes(shapes));
  SharedSession session = TRY(SharedSession::open(socket_path, deadline));
  std::vector<Mapping> mappings;
  std::vector<MappedRegion> regions;
  ByteCount offset;
  for (const GuestRegion& shape : shapes) {
    if (shape.page_size.value != kPageBytes) {
      return fail(ErrorCode::kUnsupported, "memory with huge pages cannot be shared");
    }
    mappings.push_back(TRY(Mapping::copy_on_write(session.image, offset, shape.size)));
    regions.push_back({mappings.back().address(), shape.size, shape.page_size});
    offset += shape.size;
  }
  if (offset != session.size) {
    return fail(ErrorCode::kRegionMismatch, "regions of {} bytes, an image of {}", offset.value,
                session.size.value);
  }
  MissingMemory registered = TRY(MissingMemory::register_regions(regions));
  GuestMemory memory(std::move(registered), std::move(mappings));
  TRY(memory.registered_.hand_over(std::move(session), deadline));
  for (Mapping& mapping : memory.mappings_) TRY(mapping.allow_access());
  return memory;
}

GuestMemory::~GuestMemory() {
  if (registered_.give_up(Deadline::after(limits::kFarewellWait))) return;
  log_warning("a fault handler does not answer; {} regions of guest memory stay mapped",
              mappings_.size());
  auto kept = std::make_unique<std::vector<Mapping>>(std::move(mappings_));
  [[maybe_unused]] const auto* const for_good = kept.release();
}

Result<void> GuestMemory::discard(std::size_t index, ByteCount offset, ByteCount length) {
  CHECK(index < mappings_.size());
  TRY(registered_.expect_discards());
  std::vector<bool>& discarded = discarded_[index];
  discarded.resize(pages_for(mappings_[index].size()).value);
  const PageCount first = pages_for(offset);
  std::fill_n(discarded.begin() + static_cast<std::ptrdiff_t>(first.value), pages_for(length).value,
              true);
  return mappings_[index].discard(offset, length);
}

Result<std::vector<bool>> GuestMemory::changed_pages(std::size_t index) const {
  CHECK(index < mappings_.size());
  if (!registered_.maps_image() && !registered_.tracks_writes()) {
    return fail(ErrorCode::kUnsupported, "what is written to this memory was not to be tracked");
  }
  const auto find = registered_.maps_image() ? own_pages : written_pages;
  std::vector<bool> changed = TRY(find(mappings_[index].address(), mappings_[index].size()));
  for (std::size_t page = 0; page < discarded_[index].size(); ++page) {
    if (discarded_[index][page]) changed[page] = true;
  }
  return changed;
}

MutableByteSpan GuestMemory::region(std::size_t index) const {
  CHECK(index < mappings_.size());
  return mappings_[index].bytes();
}

}  // namespace thaw
