"""The guest's serial console: its output with the time of each line."""

import threading
import time
from dataclasses import dataclass
from typing import Any


class ConsoleError(RuntimeError):
    """The guest did not print what was waited for."""


@dataclass(frozen=True)
class Tick:
    """One line of the workload."""

    number: int
    checksum: str
    seconds: float  # time.monotonic() when its end arrived


def _tick(line: str, now: float) -> Tick | None:
    words = line.split()
    if len(words) != 4 or words[0] != "tick" or words[2] != "checksum" or not words[1].isdigit():
        return None
    return Tick(int(words[1]), words[3], now)


class Console:
    """Collects output in a thread of its own and finds the ticks in it. Locks itself."""

    def __init__(self, stream: Any, unfinished_line: str = "") -> None:
        """`unfinished_line` is what the guest had printed of a line before it was saved."""
        self._changed = threading.Condition()
        self._ticks: list[Tick] = []
        self._line = unfinished_line
        self._other = ""
        self._ended = False
        self._thread = threading.Thread(target=self._collect, args=(stream,), daemon=True)
        self._thread.start()

    def wait_for_ticks(self, count: int, seconds: float) -> list[Tick]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._ticks) >= count or self._ended, seconds)
            if len(self._ticks) >= count:
                return list(self._ticks)
            how = "before it ended" if self._ended else f"in {seconds:.0f} s"
            said = f"; it said: {self._other[-300:]}" if self._other else ""
            raise ConsoleError(f"the guest printed {len(self._ticks)} of {count} lines {how}{said}")

    def finish(self, seconds: float) -> tuple[list[Tick], str]:
        """Everything up to the end of an ended QEMU's output: ticks and the unfinished line."""
        self._thread.join(seconds)
        with self._changed:
            if not self._ended:
                raise ConsoleError("the console of an ended QEMU is still open")
            return list(self._ticks), self._line

    def _collect(self, stream: Any) -> None:
        while chunk := stream.read1(4096):
            now = time.monotonic()
            with self._changed:
                *lines, self._line = (self._line + chunk.decode(errors="replace")).split("\n")
                for line in lines:
                    tick = _tick(line, now)
                    if tick is not None:
                        self._ticks.append(tick)
                    else:
                        self._other += line + "\n"
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
