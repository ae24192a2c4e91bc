"""The guest's serial console: its output with the time of each line."""

import threading
import time
from dataclasses import dataclass
from typing import Any


class ConsoleError(RuntimeError):
    """The guest did not print what was waited for."""


@dataclass(frozen=True)
class Line:
    """One line of output without its end."""

    text: str
    seconds: float  # time.monotonic() when its end arrived


@dataclass(frozen=True)
class Tick:
    """One line of the demo's workload."""

    number: int
    checksum: str
    seconds: float


def _tick(line: Line) -> Tick | None:
    words = line.text.split()
    if len(words) != 4 or words[0] != "tick" or words[2] != "checksum" or not words[1].isdigit():
        return None
    return Tick(int(words[1]), words[3], line.seconds)


class Console:
    """Collects output in a thread of its own and finds lines in it. Locks itself."""

    def __init__(self, stream: Any, unfinished_line: str = "") -> None:
        """`unfinished_line` is what the guest had printed of a line before it was saved."""
        self._changed = threading.Condition()
        self._lines: list[Line] = []
        self._found = 0  # so many lines wait_for_line() has left behind
        self._ticks: list[Tick] = []
        self._line = unfinished_line
        self._ended = False
        self._thread = threading.Thread(target=self._collect, args=(stream,), daemon=True)
        self._thread.start()

    def wait_for_ticks(self, count: int, seconds: float) -> list[Tick]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._ticks) >= count or self._ended, seconds)
            if len(self._ticks) >= count:
                return list(self._ticks)
            raise self._failure(f"{len(self._ticks)} of {count} lines", seconds)

    def wait_for_line(self, start: str, seconds: float) -> Line:
        """The next line that starts so, after the one that was found before."""
        with self._changed:
            self._changed.wait_for(lambda: self._find(start) is not None or self._ended, seconds)
            index = self._find(start)
            if index is None:
                raise self._failure(f'no line "{start}"', seconds)
            self._found = index + 1
            return self._lines[index]

    def finish(self, seconds: float) -> tuple[list[Tick], str]:
        """Everything up to the end of an ended QEMU's output: ticks and the unfinished line."""
        self._thread.join(seconds)
        with self._changed:
            if not self._ended:
                raise ConsoleError("the console of an ended QEMU is still open")
            return list(self._ticks), self._line

    def _find(self, start: str) -> int | None:
        return next((index for index in range(self._found, len(self._lines))
                     if self._lines[index].text.startswith(start)), None)

    def _failure(self, printed: str, seconds: float) -> ConsoleError:
        how = "before it ended" if self._ended else f"in {seconds:.0f} s"
        other = "\n".join([*(line.text for line in self._lines if _tick(line) is None), self._line])
        said = f"; it said: {other.strip()[-300:]}" if other.strip() else ""
        return ConsoleError(f"the guest printed {printed} {how}{said}")

    def _collect(self, stream: Any) -> None:
        while chunk := stream.read1(4096):
            now = time.monotonic()
            with self._changed:
                *texts, self._line = (self._line + chunk.decode(errors="replace")).split("\n")
                for text in texts:
                    line = Line(text.rstrip("\r"), now)
                    self._lines.append(line)
                    tick = _tick(line)
                    if tick is not None:
                        self._ticks.append(tick)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
