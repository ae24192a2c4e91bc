#include "tests/support/restore_in_c.h"

#include "vmm-client/thaw.h"

int restore_in_c(const char* socket_path, size_t size, size_t offset) {
  const thaw_region region = {.size = size, .page_size = 4096};
  thaw_memory* memory = NULL;
  if (thaw_memory_restore(&region, 1, socket_path, &memory) != 0) return -1;
  const unsigned char* bytes = thaw_memory_address(memory, 0);
  const int byte = bytes[offset];
  thaw_memory_close(memory);
  return byte;
}
