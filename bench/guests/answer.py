"""Restores a saved guest whose memory is served by a fault handler, and asks it one request.

For `thaw record`, which names the session in the environment (THAW_SOCKET, THAW_STATE) and the
number of the run (THAW_RUN), by which the request is chosen. Prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from restore import TMPFS, SavedGuest, request
from shared import ConsoleError, GuestBuildError, QemuError

_MIB = 1 << 20


def answer(guest: SavedGuest, preload: Path, seed: int, started: float) -> float:
    """Seconds from `started` to the guest's answer, which has to be the right one."""
    with tempfile.TemporaryDirectory(prefix="thaw-guest-", dir=TMPFS) as directory:
        memory = Path(directory, "memory")
        with memory.open("xb") as file:
            file.truncate(guest.memory_mib * _MIB)
        vm = guest.start(memory, Path(directory, "log"), environment={
            "LD_PRELOAD": str(preload), "THAW_QEMU_MEMORY": str(memory),
            "THAW_QEMU_SOCKET": os.environ["THAW_SOCKET"]})
        try:
            vm.restore(Path(os.environ["THAW_STATE"]))
            result = request(vm, seed).result
            seconds = time.monotonic() - started
        finally:
            vm.close()
    if result != guest.answers[seed]:
        raise GuestBuildError(f"request {seed} was answered {result}, not {guest.answers[seed]}")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guest", type=Path, help="the directory of the saved guest")
    parser.add_argument("--preload", type=Path, required=True, help="thaw-qemu.so")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        guest = SavedGuest.load(arguments.guest)
        seeds = sorted(guest.answers)
        seed = seeds[(int(os.environ["THAW_RUN"]) - 1) % len(seeds)]
        seconds = answer(guest, arguments.preload.resolve(), seed, started)
    except (ConsoleError, GuestBuildError, QemuError, OSError, KeyError,
            subprocess.SubprocessError) as error:
        print("the guest did not answer:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    print(json.dumps({"seed": seed, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
