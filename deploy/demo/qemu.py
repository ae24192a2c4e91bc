"""Runs the demo's guest in QEMU under TCG, saves it and restores it."""

import json
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

from guest import Guest

MEMORY_MIB = 512
_EXIT_SECONDS = 20


class GuestError(RuntimeError):
    """QEMU or the guest did not do what was asked in time."""


@dataclass(frozen=True)
class Tick:
    """One line of the workload."""

    number: int
    checksum: str
    seconds: float  # time.monotonic() when its end arrived


class Console:
    """Collects a guest's serial output in a thread of its own and finds the ticks in it."""

    def __init__(self, stream: Any, unfinished_line: str = "") -> None:
        self._changed = threading.Condition()
        self._ticks: list[Tick] = []
        self._line = unfinished_line
        self._ended = False
        threading.Thread(target=self._collect, args=(stream,), daemon=True).start()

    @property
    def unfinished_line(self) -> str:
        """What the guest had printed of a line when it was stopped."""
        return self._line

    def ticks(self) -> list[Tick]:
        with self._changed:
            return list(self._ticks)

    def wait_for_ticks(self, count: int, seconds: float) -> list[Tick]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._ticks) >= count or self._ended, seconds)
            if len(self._ticks) < count:
                raise GuestError(f"the guest printed {len(self._ticks)} of {count} lines "
                                 f"within {seconds:.0f} s")
            return list(self._ticks)

    def _collect(self, stream: Any) -> None:
        while chunk := stream.read1(4096):
            now = time.monotonic()
            with self._changed:
                *lines, self._line = (self._line + chunk.decode(errors="replace")).split("\n")
                for line in lines:
                    words = line.split()
                    if len(words) == 4 and words[0] == "tick" and words[2] == "checksum":
                        self._ticks.append(Tick(int(words[1]), words[3], now))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Qemu:
    """One QEMU process, stopped and waited for by close()."""

    def __init__(self, guest: Guest, memory: Path, work: Path, name: str,
                 arguments: Sequence[str] = (), prefix: Sequence[str] = (),
                 environment: Mapping[str, str] | None = None, unfinished_line: str = "") -> None:
        """`memory` is the file that QEMU maps shared as the guest's RAM."""
        self._qmp_path = work / f"{name}.qmp"
        self._log = (work / f"{name}.log").open("wb")
        backend = f"memory-backend-file,id=ram,size={MEMORY_MIB}M,mem-path={memory},share=on"
        command = [
            *prefix, "qemu-system-x86_64", "-accel", "tcg", "-machine", "pc,memory-backend=ram",
            "-m", str(MEMORY_MIB), "-object", backend, "-nodefaults", "-no-user-config",
            "-display", "none", "-serial", "stdio", "-qmp",
            f"unix:{self._qmp_path},server=on,wait=off", "-kernel", str(guest.kernel),
            "-initrd", str(guest.initramfs), "-append", "console=ttyS0 quiet", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self._log, env=environment)
        self.console = Console(self.process.stdout, unfinished_line)
        self._qmp: socket.socket | None = None

    def command(self, execute: str, seconds: float = 30, **arguments: Any) -> Any:
        """One QMP command and its result."""
        if self._qmp is None:
            self._connect(seconds)
        self._send({"execute": execute, "arguments": arguments})
        return self._receive("return", seconds)

    def save(self, state: Path) -> None:
        """Stops the guest and writes all but its memory, which lies in its file, to `state`."""
        self.command("stop")
        self._ignore_shared_memory()
        self.command("migrate", uri=f"exec:cat > {state}")
        self._wait_for_migration()

    def restore(self, state: Path) -> None:
        """Loads `state` into a QEMU that was started with -incoming defer, and lets it run."""
        self._ignore_shared_memory()
        self.command("migrate-incoming", uri=f"exec:cat {state}")
        self._wait_for_migration()
        self.command("cont")

    def close(self) -> None:
        if self._qmp is not None:
            self._qmp.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(_EXIT_SECONDS)
        self._log.close()

    def _ignore_shared_memory(self) -> None:
        self.command("migrate-set-capabilities",
                     capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def _wait_for_migration(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.command("query-migrate").get("status")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                break
            time.sleep(0.002)
        raise GuestError(f"the migration did not complete: {status}")

    def _connect(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(seconds)
            try:
                connection.connect(str(self._qmp_path))
                break
            except OSError as error:
                connection.close()
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise GuestError(f"QEMU does not answer: {self._log_text()}") from error
                time.sleep(0.002)
        self._qmp = connection
        self._lines = connection.makefile("rb")
        self._receive("QMP", seconds)
        self._send({"execute": "qmp_capabilities"})
        self._receive("return", seconds)

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._qmp is not None
        self._qmp.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self, key: str, seconds: float) -> Any:
        """The next message with this key; events in between are passed over."""
        assert self._qmp is not None
        self._qmp.settimeout(seconds)
        while line := self._lines.readline():
            message = json.loads(line)
            if "error" in message:
                raise GuestError(f"QEMU refused a command: {message['error']['desc']}")
            if key in message:
                return message[key]
        raise GuestError(f"QEMU ended: {self._log_text()}")

    def _log_text(self) -> str:
        return Path(self._log.name).read_text(errors="replace").strip()[-500:] or "(no message)"
