#include "vmm-client/microvm/payload_image.h"

// CMake defines where the binary is.
asm(".pushsection .rodata\n"
    "thaw_payload_begin:\n"
    ".incbin \"" THAW_PAYLOAD_IMAGE
    "\"\n"
    "thaw_payload_end:\n"
    ".popsection\n");

extern "C" {
extern const std::byte thaw_payload_begin[];
extern const std::byte thaw_payload_end[];
}

namespace thaw {

ByteSpan payload_image() { return {thaw_payload_begin, thaw_payload_end}; }

}  // namespace thaw
