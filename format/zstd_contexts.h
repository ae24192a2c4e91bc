#pragma once

#include <memory>

#include <zstd.h>

#include "base/check.h"

namespace thaw {

/// zstd's contexts, made once: a new one for each call costs 8 us more each way. One thread.
struct ZstdContexts {
  ZstdContexts() { CHECK(compress != nullptr && decompress != nullptr); }

  std::unique_ptr<ZSTD_CCtx, std::size_t (*)(ZSTD_CCtx*)> compress{ZSTD_createCCtx(),
                                                                   &ZSTD_freeCCtx};
  std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx*)> decompress{ZSTD_createDCtx(),
                                                                     &ZSTD_freeDCtx};
};

}  // namespace thaw
