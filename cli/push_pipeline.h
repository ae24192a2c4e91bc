#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/mapping.h"
#include "cli/block_reads.h"
#include "cli/image_walk.h"
#include "format/chunk.h"
#include "format/hash.h"
#include "format/wire.h"

namespace thaw {

/// An image on its way to a page server: one thread reads it, several hash its pages and compress
/// those that are needed, and the thread that made this object takes what is to be sent, in order:
///
///   take_offer() for each piece, set_needed() with each answer, take_upload() for what was needed.
///
/// Memory is bounded by a fixed number of blocks, whatever the image's size; a block is free again
/// when all of its uploads were taken.
class PushPipeline {
 public:
  /// The next pages, and the hashes of those that are neither zero nor the parent's.
  struct Offer {
    message::Offer message;
    std::vector<Sha256> hashes;
  };
  /// The next needed pages, compressed.
  struct Upload {
    std::vector<std::uint32_t> pages;  // their places in the block
    Bytes chunks;
    bool encoded = false;
    std::uint32_t count() const { return static_cast<std::uint32_t>(pages.size()); }
  };

  /// `image` must stay.
  static Result<std::unique_ptr<PushPipeline>> start(const ImageFiles& image);
  /// Ends the threads, whatever is left to do.
  ~PushPipeline();

  // Each of these returns nothing when there is nothing to take yet; what they return stays valid
  // until the next call.
  Result<const Offer*> take_offer();
  /// The answer to the oldest offer that has none.
  void set_needed(ByteSpan missing);
  Result<const Upload*> take_upload();

  /// Waits until there is something to take, or the end is reached.
  void wait();
  /// How many offers were taken of which something is still to be uploaded or answered.
  std::size_t open_offers() const { return offered_ - released_; }
  /// Whether everything was taken.
  bool finished() const;
  /// Where the image is taken up to.
  PageIndex position() const { return position_; }

 private:
  struct Block {
    ImagePiece piece;
    MutableByteSpan buffer;
    std::size_t reads_left = 0;
    bool hashed = false;
    Offer offer;
    std::vector<std::uint32_t> places;  // of the pages with a hash
    std::vector<Upload> uploads;        // as many as were ever needed; `used` of them count
    std::size_t used = 0;
    std::size_t taken = 0;
  };
  struct Job {
    Block* block;
    Upload* upload;  // null: hash the block
  };
  struct Tools {
    Hasher hasher;
    ChunkCodec codec;
  };

  PushPipeline(const ImageFiles& image, Mapping memory, unsigned workers);
  Block& block(std::uint64_t number) { return blocks_[number % blocks_.size()]; }

  void read(const std::stop_token& stop);
  Result<void> read_pieces(const std::stop_token& stop);
  /// Waits for a free block and meanwhile finishes reads; nothing when it is to stop.
  Result<Block*> next_block(BlockReads& reads, const std::stop_token& stop);
  Result<void> finish_read(BlockReads& reads);
  void read_done(Block& block);

  void work(const std::stop_token& stop);
  void hash(Block& block, Tools& tools) const;
  static void encode(const Block& block, Upload& upload, Tools& tools);

  // All with mutex_ held.
  bool offer_ready() { return offered_ < planned_ && block(offered_).hashed; }
  bool upload_ready();
  void release_done();

  const ImageFiles image_;
  const Mapping memory_;
  std::vector<Block> blocks_;  // number n is at n % size

  mutable std::mutex mutex_;
  std::condition_variable_any freed_;    // for the reader
  std::condition_variable_any added_;    // for the workers
  std::condition_variable_any changed_;  // for the caller
  // Guarded by mutex_:
  std::deque<Job> jobs_;
  std::optional<Error> failure_;
  std::uint64_t planned_ = 0;  // blocks that were given a piece
  bool planned_all_ = false;
  // Written by the caller's thread alone, with mutex_ held:
  std::uint64_t offered_ = 0;
  std::uint64_t answered_ = 0;
  std::uint64_t released_ = 0;
  PageIndex position_;

  std::vector<std::jthread> threads_;  // the last member: they use the others
};

}  // namespace thaw
