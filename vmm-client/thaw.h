#pragma once

/*
 * libthaw: guest memory for a VMM that restores a snapshot before its memory has arrived.
 *
 * The VMM names its regions and the UNIX socket of a session that thaw-faulthandler has prepared,
 * and gets memory which it may use at once. A page is missing until it is touched or prefetched;
 * a thread that touches it, a vCPU in KVM included, waits until the fault handler has filled it.
 *
 * Units: every size is in bytes.
 *
 * Errors: a function that fails says so by its return value and leaves a name (stable, for
 * programs) and a text (one line, for people) with the calling thread. Running out of heap
 * terminates the process.
 *
 * Threads: every function may be called from any thread, on one thaw_memory by one thread at a
 * time; thaw_memory_address() by any number. The memory itself may be used by any thread.
 *
 * Versions: a function that was released keeps its name, arguments and meaning, and its symbol the
 * version THAW_1; programs that were built against one libthaw.so.1 run with every later one.
 *
 * Processes: the memory is not inherited by forked children and stands in no core dump.
 *
 * The process needs userfaultfd for faults of the kernel, KVM's among them: it is root, or may open
 * /dev/userfaultfd, or vm.unprivileged_userfaultfd is 1.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One contiguous region of guest memory. */
typedef struct thaw_region {
  uint64_t size;      /* a multiple of page_size, more than 0 */
  uint64_t page_size; /* 4096, or 2097152 for memory from the 2 MiB hugetlbfs pool */
} thaw_region;

/* Guest memory with what keeps it served: mappings, userfaultfd and the handler's socket. */
typedef struct thaw_memory thaw_memory;

/*
 * Maps private memory for `region_count` regions, in the order in which they follow one another in
 * the snapshot's memory image, and hands it over to the handler that listens at `socket_path`.
 * The regions must be those of the snapshot. The handler does not reply: it refuses other regions
 * by the policy of the session.
 *
 * Returns 0 and stores in *out what the caller has to give to thaw_memory_close(), or returns -1
 * and stores NULL. Waits at most 10 seconds for the handler. Errors by name:
 *   invalid_argument   a null pointer, no region, an empty region, another page size, a socket path
 *                      of 0 or more than 107 bytes
 *   region_unaligned   a size that is no multiple of its page size
 *   too_large          more than 1024 regions or 1 TiB
 *   permission         userfaultfd or the socket is not for this process, or another user listens
 *                      than root, this process's and the one of THAW_HANDLER_UID
 *   not_found          there is no socket of that name
 *   unavailable        no process listens at the socket
 *   timeout            the handler took no connection in time
 *   no_space           too few 2 MiB pages
 *   io                 anything else; the text says what
 */
int thaw_memory_restore(const thaw_region* regions, size_t region_count, const char* socket_path,
                        thaw_memory** out);

/*
 * The same, and the kernel (Linux 6.7 or later) notes which pages are written, for
 * thaw_memory_changed(). The first write to each page costs a fault in the kernel. Pages must be
 * given back by thaw_memory_discard(). Errors as above, and:
 *   unsupported        this kernel tracks no writes
 */
int thaw_memory_restore_tracked(const thaw_region* regions, size_t region_count,
                                const char* socket_path, thaw_memory** out);

/*
 * The same for a session that was prepared to be shared: the memory is this host's copy of the
 * snapshot, mapped so that what is written stays with this process. What another VM of the snapshot
 * has touched is there already. Errors as above, and:
 *   region_mismatch    the regions have another size than the snapshot's memory
 *   unsupported        regions of 2 MiB pages
 *   timeout            also when the session is not a shared one
 */
int thaw_memory_share(const thaw_region* regions, size_t region_count, const char* socket_path,
                      thaw_memory** out);

/*
 * Gives pages of a region back, as a balloon device does: a touch finds zeros. For the
 * memory of thaw_memory_share() it must be done this way and not by madvise(), which could show the
 * guest what the snapshot had there. Returns 0 or -1: invalid_argument when [offset, offset + size)
 * is not whole pages of the region.
 */
int thaw_memory_discard(thaw_memory* memory, size_t index, uint64_t offset, uint64_t size);

/*
 * Which pages of a region are other than in the snapshot, or may be: those that were written or
 * given back since the restore. They are what a snapshot of this VM has to add to the one it was
 * restored from (`thaw push --parent PARENT --diff`). Page n of 4096 bytes is bit n % 8, counted
 * from the lowest, of bitmap[n / 8]; bits beyond the region are 0. The VM must be paused. Of memory
 * that was restored neither tracked nor shared it is not known. Returns 0 or -1: invalid_argument
 * when there is no such region or `bitmap_size` is not the region's bits in whole bytes,
 * unsupported, or io.
 */
int thaw_memory_changed(const thaw_memory* memory, size_t index, uint8_t* bitmap,
                        size_t bitmap_size);

/*
 * The address of a region, aligned to 4096 bytes or to its page size; NULL if there is no such
 * region. Valid until thaw_memory_close().
 */
void* thaw_memory_address(const thaw_memory* memory, size_t index);

/*
 * Ends the session and unmaps the memory, which no thread and no VM may use any more. Waits at most
 * 5 seconds for the handler; if it does not answer, the memory stays mapped until the process ends.
 * A process that just ends need not call this. NULL is ignored.
 */
void thaw_memory_close(thaw_memory* memory);

/*
 * Name and text of the calling thread's last failure; empty before the first. The text begins with
 * the name. Never NULL. Valid until the thread's next failure or end.
 */
const char* thaw_last_error_name(void);
const char* thaw_last_error_text(void);

#ifdef __cplusplus
}
#endif
