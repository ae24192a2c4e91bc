"""The guests: what each is made of and how its workload starts."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping

from shared import output


def _nothing(root: Path, workload: Path) -> None:
    pass


def _compile_python(root: Path, workload: Path) -> None:
    """What the packages' maintainer scripts do. Bytecode that depends on no file's time."""
    library = root / "usr/lib"
    output("env", f"PYTHONHOME={root / 'usr'}", "PYTHONHASHSEED=0", str(root / "usr/bin/python3"),
           "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root),
           str(library / "python3"), str(library / "python3.11"), str(workload))


@dataclass(frozen=True)
class Spec:
    """One guest. `workload` is a file in workloads/, which `start`, a line of shell, runs as
    /guest/NAME; `prepare` adds what the unpacked packages lack."""

    memory_mib: int
    packages: tuple[str, ...]
    workload: str
    start: str
    prepare: Callable[[Path, Path], None] = _nothing


_LIBRARIES = "/usr/lib/x86_64-linux-gnu"

GUESTS: Mapping[str, Spec] = {
    "idle": Spec(256, (), "idle.sh", "exec sh /guest/idle.sh"),
    # Links to the libraries of numpy are made by maintainer scripts.
    "python": Spec(512, ("python3-numpy",), "python.py",
                   f"export PYTHONHASHSEED=0 LD_LIBRARY_PATH={_LIBRARIES}/blas:{_LIBRARIES}/lapack\n"
                   "exec python3 /guest/python.py", _compile_python),
}
