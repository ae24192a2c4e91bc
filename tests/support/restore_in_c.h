#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A VMM in C: restores one region of `size` bytes over the socket, reads the byte at `offset` and
 * closes the memory. Returns the byte, or -1 after a failure of libthaw. */
int restore_in_c(const char* socket_path, size_t size, size_t offset);

#ifdef __cplusplus
}
#endif
