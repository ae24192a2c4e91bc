"""Runs a guest in QEMU, saves it and restores it.

Guest memory is a file that QEMU maps shared. With x-ignore-shared a migration leaves such memory
out, so what is saved besides the file is the state of the devices, about half a megabyte.
"""

import socket
import subprocess
from pathlib import Path
from typing import Mapping, Sequence

from console import Console
from guest import Guest
from qmp import Qmp, QmpError

_EXIT_SECONDS = 20
_START_SECONDS = 20
_MIGRATION_SECONDS = 60


class QemuError(RuntimeError):
    """QEMU failed; the text ends with what it said."""


def boot_arguments(guest: Guest) -> list[str]:
    return ["-kernel", str(guest.kernel), "-initrd", str(guest.initramfs), "-append",
            guest.arguments]


def restore_arguments() -> list[str]:
    """No kernel and no initramfs: a host that restores needs nothing of the guest's."""
    return ["-incoming", "defer"]


class Qemu:
    """One QEMU process; close() ends it whatever its state."""

    def __init__(self, memory: Path, log: Path, arguments: Sequence[str],
                 prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None,
                 unfinished_line: str = "", share: bool = True) -> None:
        """`memory` is the file of the guest's memory and gives its size; `share` is how it is
        mapped."""
        size = memory.stat().st_size
        ours, theirs = socket.socketpair()
        set_environment = [f"{name}={value}" for name, value in (environment or {}).items()]
        backend = (f"memory-backend-file,id=ram,size={size},mem-path={memory},"
                   f"share={'on' if share else 'off'}")
        command = [
            *prefix, "env", *set_environment, "qemu-system-x86_64", "-accel", "tcg", "-machine",
            "pc,memory-backend=ram", "-m", f"{size >> 20}", "-object",
            backend, "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-chardev",
            f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control", *arguments]
        self._log = log
        with theirs, log.open("wb") as errors:
            # In a session of its own: a Ctrl-C reaches the demo only, which then ends things in
            # their order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                pass_fds=[theirs.fileno()], start_new_session=True)
        self.console = Console(self._process.stdout, unfinished_line)
        self._qmp = Qmp(ours)

    def type_line(self, line: str) -> None:
        """Types one line on the guest's serial console, which the guest has to be reading."""
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure(error) from error

    def save(self, state: Path) -> None:
        """Stops the guest, writes its state, and ends QEMU."""
        self._connect()
        try:
            self._qmp.command("stop")
            self._migrate("migrate", state, "wb")
            self._qmp.command("quit")
            self._process.wait(_EXIT_SECONDS)
        except (QmpError, subprocess.TimeoutExpired) as error:
            raise self._failure(error) from error

    def restore(self, state: Path) -> None:
        """Loads `state` into a QEMU that was started to restore, and lets the guest run."""
        self._connect()
        try:
            self._migrate("migrate-incoming", state, "rb")
            self._qmp.command("cont")
        except QmpError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        self._qmp.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(_EXIT_SECONDS)

    def _connect(self) -> None:
        try:
            self._qmp.greet(_START_SECONDS)
        except QmpError as error:
            raise self._failure(error) from error

    def _migrate(self, command: str, state: Path, mode: str) -> None:
        """To or from an open file, so that QEMU, whose memory may be served, never forks."""
        capabilities = [{"capability": name, "state": True}
                        for name in ("x-ignore-shared", "events")]
        self._qmp.command("migrate-set-capabilities", capabilities=capabilities)
        with state.open(mode) as file:
            self._qmp.command("getfd", descriptor=file.fileno(), fdname="state")
        self._qmp.command(command, uri="fd:state")
        status = ""
        while status != "completed":
            status = self._qmp.wait_for_event("MIGRATION", _MIGRATION_SECONDS)["status"]
            if status == "failed":
                raise QmpError(f"{command} failed")

    def _failure(self, error: Exception) -> QemuError:
        said = self._log.read_text(errors="replace").strip()[-400:]
        return QemuError(f"{error}; QEMU said: {said or 'nothing'}")
