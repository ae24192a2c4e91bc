#pragma once

#include <initializer_list>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace thaw {

/// An eventfd: poll(2) finds it readable from signal_event_fd() to clear_event_fd(). Any thread.
Result<UniqueFd> create_event_fd();
void signal_event_fd(const UniqueFd& fd);
void clear_event_fd(const UniqueFd& fd);

/// Blocks the signals for this thread and those it starts, and returns a descriptor that is
/// readable when one is pending. Call before starting threads.
Result<UniqueFd> take_signals(std::initializer_list<int> signals);
/// Lets the signals act on this thread again as if they had not been taken.
void give_back_signals(std::initializer_list<int> signals);
/// The next pending signal, or 0 when there is none.
int next_signal(const UniqueFd& fd);

/// Waits until the descriptor is readable; false when it is not by the deadline.
bool wait_until_readable(const UniqueFd& fd, Deadline deadline);

}  // namespace thaw
