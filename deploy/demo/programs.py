"""Runs Thaw's programs: commands to their end, daemons from ready to SIGTERM."""

import contextlib
import select
import signal
import subprocess
from pathlib import Path
from typing import Iterator, Sequence

_COMMAND_SECONDS = 120
_READY_SECONDS = 20
_STOP_SECONDS = 10


class ProgramError(RuntimeError):
    """A program failed; the text ends with what it said."""


def run(command: Sequence[str]) -> str:
    """The output of a command that has to succeed."""
    result = subprocess.run(command, text=True, stdin=subprocess.DEVNULL, capture_output=True,
                            timeout=_COMMAND_SECONDS)
    if result.returncode != 0:
        raise ProgramError(f"{_name(command)} failed: {result.stderr.strip()[-400:]}")
    return result.stdout


@contextlib.contextmanager
def daemon(command: Sequence[str], ready: str, log: Path) -> Iterator[str]:
    """A daemon from its first line of output, whose part after `ready` is yielded, to its end."""
    with log.open("wb") as errors:
        # In a session of its own: a Ctrl-C reaches the demo only, which ends things in their order.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=errors, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], _READY_SECONDS)
        line = process.stdout.readline() if readable else ""
        if not line.startswith(ready):
            said = log.read_text(errors="replace").strip()[-400:]
            raise ProgramError(f"{_name(command)} did not start; it said: {said or 'nothing'}")
        yield line.removeprefix(ready).strip()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _name(command: Sequence[str]) -> str:
    return next((Path(word).name for word in command if Path(word).name.startswith("thaw")
                 and "/" in word), command[0])
