"""Saved guests: what is kept of one, how it is restored, and how it is asked."""

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Iterable, Mapping, Sequence

from disk import qemu_arguments
from pages import copy_sparse
from shared import Qemu, restore_arguments

# Guest memory has to be on tmpfs: there it is memory, and userfaultfd works on it.
TMPFS = Path("/dev/shm")
# Before a command: its process does not outlive this program even if that is killed.
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")
DESCRIPTION = "guest.json"
_REQUEST_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """What a guest said to one request, and how long after it was asked."""

    result: str
    seconds: float


@dataclass(frozen=True)
class SavedGuest:
    """A directory with the files `memory`, `state`, `disk` and `guest.json`. The disk belongs to
    the snapshot: the guest has parts of it in its memory."""

    directory: Path
    digest: str  # of everything that it was made of
    memory_mib: int
    nonzero_pages: int
    answers: Mapping[int, str]  # to seeds; none was asked before the guest was saved

    @staticmethod
    def load(directory: Path) -> "SavedGuest":
        kept = json.loads((directory / DESCRIPTION).read_text())
        kept["answers"] = {int(seed): result for seed, result in kept["answers"].items()}
        return SavedGuest(directory, **kept)

    def describe(self) -> None:
        """Writes what load() reads."""
        kept = asdict(self)
        del kept["directory"]
        (self.directory / DESCRIPTION).write_text(json.dumps(kept, indent=2) + "\n")

    @property
    def memory(self) -> Path:
        return self.directory / "memory"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def disk(self) -> Path:
        return self.directory / "disk"

    def start(self, memory: Path, log: Path, prefix: Sequence[str] = ENDS_WITH_US,
              environment: Mapping[str, str] | None = None) -> Qemu:
        """A QEMU whose restore() takes the state. `memory` is the file that it maps: a copy of
        the guest's, or an empty one of the same size if `environment` has somebody serve it."""
        arguments = [*restore_arguments(), *qemu_arguments(self.disk)]
        return Qemu(memory, log, arguments, prefix, environment)


def request(vm: Qemu, seed: int) -> Answer:
    """Asks a running guest and waits for its answer."""
    asked = time.monotonic()
    vm.type_line(f"request {seed}")
    start = f"done {seed} "
    line = vm.console.wait_for_line(start, _REQUEST_SECONDS)
    return Answer(line.text.removeprefix(start), line.seconds - asked)


def ask_restored(guest: SavedGuest, seeds: Iterable[int]) -> list[Answer]:
    """The answers of the guest, restored from a local copy of its memory."""
    with tempfile.TemporaryDirectory(prefix="thaw-guest-", dir=TMPFS) as directory:
        memory = Path(directory, "memory")
        copy_sparse(guest.memory, memory)
        vm = guest.start(memory, Path(directory, "log"))
        try:
            vm.restore(guest.state)
            return [request(vm, seed) for seed in seeds]
        finally:
            vm.close()
