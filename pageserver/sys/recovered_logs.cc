#include "pageserver/sys/recovered_logs.h"

#include <algorithm>
#include <bit>
#include <filesystem>

#include <boost/crc.hpp>

#include "base/check.h"
#include "base/file.h"

namespace thaw {

namespace {

// RocksDB's format: blocks of records, none of which crosses into the next block. A record has a
// checksum (CRC-32C of type and content, masked), the size of its content, and a type.
constexpr std::size_t kBlockBytes = 32u << 10;
constexpr std::size_t kHeaderBytes = 7;
enum RecordType : std::uint8_t { kNone = 0, kFull = 1, kFirst = 2, kMiddle = 3, kLast = 4 };

constexpr std::uint32_t kPolynomial = 0x1edc6f41;

std::uint32_t checksum(ByteSpan bytes) {
  boost::crc_optimal<32, kPolynomial, 0xffffffff, 0xffffffff, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  return std::rotr(static_cast<std::uint32_t>(crc.checksum()), 15) + 0xa282ead8;
}

thread_local RecoveredLogs* current_logs = nullptr;

}  // namespace

RecoveredLogs::RecoveredLogs() {
  CHECK(current_logs == nullptr);
  current_logs = this;
}
RecoveredLogs::~RecoveredLogs() { current_logs = nullptr; }

RecoveredLogs* RecoveredLogs::current() { return current_logs; }

Result<void> RecoveredLogs::examine(const std::string& path) {
  const UniqueFd file = TRY(open_for_reading(path));
  const std::uint64_t size = TRY(file_size(file)).value;
  tail_.clear();
  Bytes block(kBlockBytes);
  for (std::uint64_t offset = 0; offset < size; offset += kBlockBytes) {
    block.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kBlockBytes, size - offset)));
    TRY(read_at(file, block, offset));
    TRY(examine_block(block, path, offset));
  }
  return {};
}

Result<void> RecoveredLogs::examine_block(ByteSpan block, const std::string& path,
                                          std::uint64_t offset) {
  while (block.size() >= kHeaderBytes) {
    const std::size_t size = load_le<std::uint16_t>(block.data() + 4);
    const auto type = std::to_integer<std::uint8_t>(block[6]);
    const bool fits = type != kNone && type <= kLast && size <= block.size() - kHeaderBytes;
    const bool whole =
        fits && checksum(block.subspan(6, 1 + size)) == load_le<std::uint32_t>(block.data());
    if (!whole && torn_at_.empty()) {
      torn_at_ =
          fmt::format("{} at byte {}", std::filesystem::path(path).filename().string(), offset);
    }
    // Where the next record begins is then not known before the next block.
    if (!fits) break;
    if (!whole) {
      tail_.clear();
      block = block.subspan(kHeaderBytes + size);
      offset += kHeaderBytes + size;
      continue;
    }
    if (type == kFull || type == kFirst) tail_.clear();
    tail_ += as_text(block.subspan(kHeaderBytes, size));
    if (tail_.size() > kSyncedMark.size()) tail_.erase(0, tail_.size() - kSyncedMark.size());
    if ((type == kFull || type == kLast) && tail_ == kSyncedMark && !torn_at_.empty()) {
      return fail(ErrorCode::kCorrupt, "the log {} is damaged, and what follows was synced",
                  torn_at_);
    }
    block = block.subspan(kHeaderBytes + size);
    offset += kHeaderBytes + size;
  }
  return {};
}

}  // namespace thaw
