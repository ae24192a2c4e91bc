/*
 * The skeleton of a VMM that restores a snapshot with libthaw. In place of vCPUs, main() reads all
 * of guest memory, each page of which arrives when it is touched, and prints a checksum.
 *
 *   cc vmm.c -o vmm $(pkg-config --cflags --libs thaw)
 *   thaw prepare mysnap --socket /run/thaw/vm.sock              # and --shared for the mode "shared"
 *   ./vmm /run/thaw/vm.sock BYTES private|shared                # BYTES: the size of guest memory
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thaw.h>

/* Guest memory of one region, or NULL after a line on stderr. */
static thaw_memory* restore_guest(const char* socket_path, uint64_t size, const char* mode) {
  const thaw_region region = {.size = size, .page_size = 4096};
  thaw_memory* memory = NULL;
  const int status = strcmp(mode, "shared") == 0
                         ? thaw_memory_share(&region, 1, socket_path, &memory)
                         : thaw_memory_restore(&region, 1, socket_path, &memory);
  if (status != 0) {
    fprintf(stderr, "%s\n", thaw_last_error_text());
  }
  return memory;
}

/* FNV-1a. */
static uint64_t checksum(const unsigned char* bytes, uint64_t size) {
  uint64_t sum = UINT64_C(0xcbf29ce484222325);
  for (uint64_t i = 0; i < size; ++i) sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
  return sum;
}

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s SOCKET BYTES private|shared\n", argv[0]);
    return 2;
  }
  const uint64_t size = strtoull(argv[2], NULL, 10);
  thaw_memory* const memory = restore_guest(argv[1], size, argv[3]);
  if (memory == NULL) return 1;

  /* A VMM gives this address to KVM (KVM_SET_USER_MEMORY_REGION), loads the snapshot's state file
   * into its vCPUs and devices, and runs. */
  const unsigned char* const guest = thaw_memory_address(memory, 0);
  printf("checksum %016" PRIx64 "\n", checksum(guest, size));

  /* After the VM is gone, if the process goes on. */
  thaw_memory_close(memory);
  return 0;
}
