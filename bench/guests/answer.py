"""Restores a saved guest and asks it one request.

Its memory is served by a fault handler, as `thaw record` says in the environment (THAW_SOCKET,
THAW_STATE, and THAW_RUN, the number of the run, by which the request is chosen), or is a local
file. Prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Mapping

from restore import TMPFS, SavedGuest, request
from shared import ConsoleError, GuestBuildError, QemuError

_MIB = 1 << 20


def answer(guest: SavedGuest, memory: Path, state: Path, environment: Mapping[str, str],
           log: Path, seed: int) -> str:
    vm = guest.start(memory, log, environment=environment)
    try:
        vm.restore(state)
        return request(vm, seed).result
    finally:
        vm.close()


def answer_served(guest: SavedGuest, preload: Path, work: Path, seed: int) -> str:
    memory = work / "memory"
    with memory.open("xb") as file:
        file.truncate(guest.memory_mib * _MIB)
    environment = {"LD_PRELOAD": str(preload), "THAW_QEMU_MEMORY": str(memory),
                   "THAW_QEMU_SOCKET": os.environ["THAW_SOCKET"]}
    return answer(guest, memory, Path(os.environ["THAW_STATE"]), environment, work / "log", seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guest", type=Path, help="the directory of the saved guest")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--preload", type=Path, help="thaw-qemu.so: the memory is served")
    source.add_argument("--local", type=Path, help="a file on tmpfs: the memory; it is written to")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        guest = SavedGuest.load(arguments.guest)
        seeds = sorted(guest.answers)
        seed = seeds[(int(os.environ["THAW_RUN"]) - 1) % len(seeds)]
        with tempfile.TemporaryDirectory(prefix="thaw-guest-", dir=TMPFS) as work:
            if arguments.local:
                result = answer(guest, arguments.local, guest.state, {}, Path(work, "log"), seed)
            else:
                result = answer_served(guest, arguments.preload.resolve(), Path(work), seed)
        seconds = time.monotonic() - started
        if result != guest.answers[seed]:
            raise GuestBuildError(f"request {seed} was answered {result}, not "
                                  f"{guest.answers[seed]}")
    except (ConsoleError, GuestBuildError, QemuError, OSError, KeyError,
            subprocess.SubprocessError) as error:
        print("the guest did not answer:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    print(json.dumps({"seed": seed, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
