#pragma once

namespace thaw::test {

/// Makes io_uring fail with EPERM for the calling thread and for the threads and programs that it
/// starts, for good. That is what container runtimes do, and what the kernel answers where the
/// sysctl kernel.io_uring_disabled is 2.
void forbid_io_uring();

/// Makes capset fail with EPERM for the calling thread, as the filter of a unit of systemd may.
void forbid_capset();

/// Makes epoll_pwait2 fail with ENOSYS for the calling thread, as before Linux 5.11.
void hide_epoll_pwait2();

/// Makes SO_PEERPIDFD unknown to the calling thread, as before Linux 6.5.
void hide_peer_pidfd();

/// Whether the calling thread may use io_uring.
bool io_uring_is_allowed();

}  // namespace thaw::test
