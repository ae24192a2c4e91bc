"""The guests: what each is made of and how its workload starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping

from shared import output

_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
_JAVA = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java"


@dataclass(frozen=True)
class Spec:
    """One guest. `files` of workloads/ are found in /guest, `start` is the shell script that runs
    them, and `prepare` adds to the guest's tree what its unpacked packages lack."""

    memory_mib: int
    packages: tuple[str, ...]
    files: tuple[str, ...]
    start: str
    prepare: Callable[[Path], None] = lambda root: None


def _compile_python(root: Path) -> None:
    """What maintainer scripts do when they install, with bytecode that depends on no file's time;
    by the guest's own Python."""
    library = root / "usr/lib"
    output("env", f"PYTHONHOME={root / 'usr'}", "PYTHONHASHSEED=0", str(root / "usr/bin/python3"),
           "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root),
           str(library / "python3"), str(library / "python3.11"))


def _compile_java(root: Path) -> None:
    """By the compiler that is among the runtime's modules."""
    output(f"{root}{_JAVA}", "-m", "jdk.compiler/com.sun.tools.javac.Main", "-d",
           str(root / "guest"), str(root / "guest/OrderBook.java"))


GUESTS: Mapping[str, Spec] = {
    "idle": Spec(256, (), ("idle.sh",), "exec sh /guest/idle.sh"),
    # Maintainer scripts would have linked numpy's libraries to where the loader looks for them.
    "python": Spec(512, ("python3-numpy",), ("python.py",),
                   f"export LD_LIBRARY_PATH={_LIBRARIES}/blas:{_LIBRARIES}/lapack\n"
                   "export PYTHONHASHSEED=0\n"
                   "exec python3 /guest/python.py", _compile_python),
    "node": Spec(512, ("nodejs",), ("node.js",), "exec node /guest/node.js"),
    "redis": Spec(512, ("redis-server",), ("redis.sh", "fill.lua"), "exec sh /guest/redis.sh"),
    "java": Spec(512, ("openjdk-17-jre-headless",), ("OrderBook.java",),
                 f"exec {_JAVA} -Xmx192m -cp /guest OrderBook", _compile_java),
}
