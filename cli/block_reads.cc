#include "cli/block_reads.h"

#include <deque>

#include "base/file.h"
#include "cli/sys/uring_reads.h"

namespace thaw {

namespace {

class PlainReads final : public BlockReads {
 public:
  Result<void> begin(const FileRead& read, std::size_t owner) override {
    TRY(read_at(*read.file, read.to, read.offset));
    finished_.push_back(owner);
    return {};
  }
  std::size_t under_way() const override { return finished_.size(); }
  bool any_finished() override { return !finished_.empty(); }
  Result<std::size_t> finish_one() override {
    const std::size_t owner = finished_.front();
    finished_.pop_front();
    return owner;
  }

 private:
  std::deque<std::size_t> finished_;
};

}  // namespace

std::unique_ptr<BlockReads> create_block_reads(MutableByteSpan memory) {
  auto reads = create_uring_reads(memory);
  if (reads) return *std::move(reads);
  return std::make_unique<PlainReads>();
}

}  // namespace thaw
