"""Records restores of saved guests through Thaw: GUEST/recordings, as `thaw ws export` writes it."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from restore import SavedGuest
from shared import ProgramError, daemon, run

_ANSWER = Path(__file__).parent / "answer.py"
_NAME = "recordings"


def record(guest: SavedGuest, programs: Path, runs: int) -> None:
    """Writes the file whole or not at all; each run asks the guest another request."""
    with tempfile.TemporaryDirectory(prefix="thaw-record-") as temporary:
        work = Path(temporary)
        server = [str(programs / "thaw-pageserver"), "--store", str(work / "store"), "--listen",
                  f"unix:{work}/server.sock", "--keep-recordings", str(runs)]
        with daemon(server, "listening on", work / "pageserver.log") as address:
            control = work / "control.sock"
            handler = [str(programs / "thaw-faulthandler"), "--server", address, "--control",
                       str(control)]
            thaw = [str(programs / "thaw"), "--server", address, "--control", str(control)]
            with daemon(handler, "ready on", work / "faulthandler.log"):
                run([*thaw, "push", "guest", "--memory", str(guest.memory), "--state",
                     str(guest.state)])
                said = run([*thaw, "record", "guest", "--runs", str(runs), "--", sys.executable,
                            str(_ANSWER), str(guest.directory), "--preload",
                            str(programs / "thaw-qemu.so")])
                print(f"{guest.directory.name}:", *said.splitlines(), sep="\n  ", flush=True)
                exported = guest.directory / f"{_NAME}.new"
                run([*thaw, "ws", "export", "guest", str(exported)])
        os.replace(exported, guest.directory / _NAME)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guests", type=Path, nargs="+", help="directories of saved guests")
    parser.add_argument("--bin", type=Path, required=True, help="where Thaw's programs are")
    parser.add_argument("--runs", type=int, default=9,
                        help="restores of each: as many as a page server keeps, and one to judge by")
    arguments = parser.parse_args()
    try:
        for directory in arguments.guests:
            if not (directory / _NAME).exists():
                record(SavedGuest.load(directory.resolve()), arguments.bin.resolve(),
                       arguments.runs)
    except (ProgramError, OSError, subprocess.SubprocessError) as error:
        print("nothing could be recorded:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
