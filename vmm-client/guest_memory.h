#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mapping.h"
#include "base/types.h"
#include "base/unique_fd.h"
#include "base/userfaultfd.h"
#include "format/handoff.h"

namespace thaw {

/// The VMM's side of a restore. Guest memory is mapped empty, its pages are registered as missing
/// with a userfaultfd, and the userfaultfd goes to a fault handler, which fills the pages. From the
/// registration on, whoever touches a missing page waits until a handler fills it: touch nothing
/// before hand_over() has succeeded. The handler does not reply; one that refuses the handoff says
/// so in its own log and acts on this process by the session's policy.

/// Memory that is mapped already: multiples of `page_size`, which is 4096 or 2 MiB.
struct MappedRegion {
  HostAddress base;
  ByteCount size;
  ByteCount page_size;
};

/// A connection to a session that was prepared to be shared, and this host's image of its snapshot:
/// a file in memory to be mapped privately, which keeps its size. A page of it that is touched
/// before it is registered becomes zero for every VM on this host, so map it without access
/// (Mapping::copy_on_write()) until it is handed over.
struct SharedSession {
  UniqueFd socket;
  UniqueFd image;
  ByteCount size;
  /// The errors of MissingMemory::hand_over(); kTimeout also when the session is not a shared one.
  static Result<SharedSession> open(const std::string& socket_path, Deadline deadline);
};

/// Memory registered as missing, mapped and unmapped by somebody else. Keeps a copy of the
/// userfaultfd, so that no handler's death closes it (missing pages would then read as zeros), and
/// of the socket, whose closing tells the handler that this process has exited.
/// REQUIRES: the memory is given up and unmapped, or untouched for good, before this object is
/// destroyed.
/// One thread; the memory itself is for any thread.
class MissingMemory {
 public:
  /// Registers the regions, in the order in which they follow one another in the memory image.
  /// They are also kept from forked children, who would read zeros, and from core dumps.
  /// kInvalidArgument: no region, an empty one, or another page size. kRegionUnaligned.
  /// kTooLarge: beyond limits::kMaxRegions or limits::kMaxImagePages. kPermission: this process may
  /// not use userfaultfd. kUnsupported: this kernel tracks no writes.
  static Result<MissingMemory> register_regions(std::span<const MappedRegion> regions,
                                                WriteTracking tracking = WriteTracking::kOff);
  MissingMemory(MissingMemory&&) = default;
  MissingMemory& operator=(MissingMemory&&) = delete;

  /// Connects to the handler's UNIX socket and sends regions and userfaultfd. After a failure the
  /// memory is as before and another attempt may be made. kNotFound or kUnavailable: nobody
  /// listens there. kPermission: the user who does is neither root nor this process's nor
  /// $THAW_HANDLER_UID. kInvalidArgument: no possible socket path. kAlreadyExists: was handed over.
  Result<void> hand_over(const std::string& socket_path, Deadline deadline);
  /// The same for mappings of the image, on its session's socket.
  Result<void> hand_over(SharedSession session, Deadline deadline);

  /// Instead: fills the memory from an image that is here, after which it is memory like any other
  /// and nobody is told of its faults. Of a file, what is a hole stays missing until then.
  /// kRegionMismatch: the image is of another size. kAlreadyExists: was handed over or filled.
  /// After any other failure the memory is good for nothing.
  Result<void> fill(ByteSpan image);
  Result<void> fill(const UniqueFd& image);

  /// Ends the session, if there is one: nobody fills a page from then on, and the memory may be
  /// unmapped while this process lives on. kTimeout when the handler does not let go of it: then
  /// its addresses must not be used again. REQUIRES: nobody uses the memory any more.
  Result<void> give_up(Deadline deadline);

  /// Call it before pages of it are given back (MADV_DONTNEED), if it maps the host image: from
  /// then on its faults on pages that the image has are events too, and none that was given back
  /// shows what the image has there. Any number of times, one after the other.
  Result<void> expect_discards();
  bool maps_image() const { return maps_image_; }
  /// Whether writes are tracked: not after fill().
  bool tracks_writes() const;

 private:
  MissingMemory(UniqueFd uffd, std::vector<HandoffRegion> regions)
      : uffd_(std::move(uffd)), regions_(std::move(regions)) {}

  Result<void> hand_over_on(UniqueFd socket, Deadline deadline);
  /// Whether hand_over() or fill() may be called.
  Result<void> check_unused() const;
  Result<void> check_image_size(ByteCount size) const;
  Result<void> fill_region(const HandoffRegion& region, const UniqueFd& image, ByteSpan content);

  // Members are destroyed from the last to the first: the handler sees the exit at the very end.
  UniqueFd socket_;
  UniqueFd uffd_;  // not valid once the memory was filled
  std::vector<HandoffRegion> regions_;
  bool maps_image_ = false;
  bool expects_discards_ = false;
};

/// One region of guest memory to map: a multiple of `page_size`, which is 4096 or 2 MiB.
struct GuestRegion {
  ByteCount size;
  ByteCount page_size;
};

/// Private guest memory, mapped, registered and owned. Its end is the end of its session, for which
/// it waits up to limits::kFarewellWait. Where the handler does not answer in time it stays mapped,
/// so that the handler cannot fill what is at the same addresses later.
/// REQUIRES: no thread touches the memory when it is destroyed.
/// One thread; the memory itself is for any thread.
class GuestMemory {
 public:
  /// Maps anonymous memory and registers it; the errors are those of MissingMemory and Mapping.
  static Result<GuestMemory> create(std::span<const GuestRegion> shapes,
                                    WriteTracking tracking = WriteTracking::kOff);
  /// Maps this host's image of the snapshot, registers it and hands it over. kRegionMismatch when
  /// the image has another size; kUnsupported for huge pages; the errors of SharedSession.
  static Result<GuestMemory> share(std::span<const GuestRegion> shapes,
                                   const std::string& socket_path, Deadline deadline);
  GuestMemory(GuestMemory&&) = default;
  GuestMemory& operator=(GuestMemory&&) = delete;
  ~GuestMemory();

  /// See MissingMemory::hand_over().
  Result<void> hand_over(const std::string& socket_path, Deadline deadline) {
    return registered_.hand_over(socket_path, deadline);
  }
  /// See MissingMemory::fill().
  Result<void> fill(ByteSpan image) { return registered_.fill(image); }
  Result<void> fill(const UniqueFd& image) { return registered_.fill(image); }

  /// Gives pages back, as a balloon does: the guest finds zeros there. REQUIRES: the index is one
  /// of a region, and [offset, offset + length) whole pages of it.
  Result<void> discard(std::size_t index, ByteCount offset, ByteCount length);

  /// Which pages of a region are other than in the snapshot, or may be: written or given back since
  /// the restore. kUnsupported for memory that is neither that of share() nor tracked, or that was
  /// filled here: a push of all of it finds by its content what is new. REQUIRES: nobody writes
  /// meanwhile, and the index is one of a region.
  Result<std::vector<bool>> changed_pages(std::size_t index) const;

  std::size_t region_count() const { return mappings_.size(); }
  /// REQUIRES: index < region_count().
  MutableByteSpan region(std::size_t index) const;

 private:
  GuestMemory(MissingMemory registered, std::vector<Mapping> mappings)
      : registered_(std::move(registered)),
        mappings_(std::move(mappings)),
        discarded_(mappings_.size()) {}

  // The mappings go first, so that memory is never there without its userfaultfd.
  MissingMemory registered_;
  std::vector<Mapping> mappings_;
  std::vector<std::vector<bool>> discarded_;  // pages, by region; empty: none of it
};

}  // namespace thaw
