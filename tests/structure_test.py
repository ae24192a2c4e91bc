"""Checks what the compiler does not: the arrows between folders, who may use which library, that
every header compiles alone, and a few rules of STYLE.md."""

import concurrent.futures
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Container
from pathlib import Path

ROOT = Path(sys.argv[1])
BUILD = Path(sys.argv[2])

ALLOWED = {
    "base": {"base"},
    "format": {"base", "format"},
    "pageserver": {"base", "format", "pageserver"},
    "faulthandler": {"base", "format", "faulthandler"},
    "vmm-client": {"base", "format", "vmm-client"},
    "cli": {"base", "format", "cli"},
}
FOLDERS = [*ALLOWED, "tests", "bench", "deploy"]
INCLUDE = re.compile(r'^\s*#include\s+([<"])([^>"]+)[>"]', re.MULTILINE)
SYSTEM_CALLS = re.compile(r"^(unistd|fcntl|poll|liburing|netdb|dlfcn)\.h$|^sys/|^arpa/|^netinet/")
# Types and constants that signatures and flags need; calls are found by the headers above.
HARMLESS = {"sys/types.h", "poll.h"}
HEAVY = re.compile(r"^(boost/|CLI/|nlohmann/(?!json_fwd)|toml\+\+|rocksdb/)")
# Headers that are the door of a heavy library.
DOORS = {Path("base/command_line.h"), Path("base/toml.h")}
# They show Cap'n Proto to whoever includes them.
PRIVATE_TO_FORMAT = {"format/wire.capnp.h", "format/schema_codec.h", "format/kj_clang.h"}
LONGEST_LINE = 100
# VMMs change what paths mean: the fault handler works on descriptors that its clients pass.
TAKES_PATHS = re.compile(
    r"\bstd::filesystem\b|\bstd::[io]?fstream\b|<(?:filesystem|fstream)>|PartialFile::create\(|"
    r"\b(?:listen_unix|connect_unix|find_place|remove_file|socket_identity|write_whole_file|"
    r"read_text_file|open_for_reading|copy_files|InputFile|OutputFile|TemporaryDirectory)\b")
PATHS_OF_THE_OPERATOR = {
    Path("faulthandler/main.cc"): "the control socket",
    Path("faulthandler/control_server.cc"): "the control socket",
    Path("faulthandler/supervisor.cc"): "the control socket, and the program that runs",
}
# Bytes become a page of a guest where each page can be checked against a content hash.
OPENS_PAGES = re.compile(r"\bChunkCodec\b|\bdecode_next\(|\bpacks\.decode\(|\blocal_?(?:->|\.)find\(")
OPENER_OF_PAGES = {Path("faulthandler/page_opener.h"), Path("faulthandler/page_opener.cc")}

# What is precompiled for all (base/CMakeLists.txt), and names by which a file is known to need it.
PRECOMPILED = {
    "array": "array", "atomic": "atomic", "condition_variable": "condition_variable",
    "deque": "deque", "expected": "expected|unexpected", "filesystem": "filesystem",
    "functional": "function|move_only_function", "map": "map|multimap",
    "memory": "unique_ptr|shared_ptr|make_unique|make_shared", "mutex": "mutex|lock_guard|scoped_lock",
    "optional": "optional|nullopt", "set": "set|multiset", "span": "span", "string": "string",
    "thread": "thread|jthread|this_thread", "variant": "variant|visit", "vector": "vector",
    "algorithm": "sort|clamp|min_element|max_element", "chrono": "chrono",
    "utility": "exchange", "ranges": "views"}

errors: list[str] = []


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for pattern in ("*.h", "*.cc")
                  for path in (ROOT / folder).rglob(pattern))


def check_includes(path: Path) -> None:
    name = path.relative_to(ROOT)
    folder = name.parts[0]
    text = path.read_text()
    # The floors of the bench are the bare libraries.
    bare = name.parts[:2] == ("bench", "sys")
    in_sys = "sys" in name.parts or folder in ("base", "tests", "bench", "deploy") or \
        name == Path("vmm-client/qemu_preload.cc")
    for quote, target in INCLUDE.findall(text):
        top = target.split("/")[0]
        if quote == '"' and folder in ALLOWED and top not in ALLOWED[folder]:
            errors.append(f"{name} includes {target}: {folder} must not know {top}")
        if target in PRIVATE_TO_FORMAT and folder != "format":
            errors.append(f"{name} includes {target}: only format/ may")
        if quote != "<":
            continue
        if re.match(r"^(capnp|kj)/|^(zstd|xxhash)\.h$", target) and folder != "format" and \
                not (bare and target == "zstd.h"):
            errors.append(f"{name} includes {target}: only format/ may")
        if target.startswith("rocksdb/") and name.parts[:2] not in (("pageserver", "sys"),) and \
                folder != "tests" and not bare:
            errors.append(f"{name} includes {target}: only the store adapter may")
        if SYSTEM_CALLS.match(target) and target not in HARMLESS and not in_sys:
            errors.append(f"{name} includes {target}: system calls stand in base/ and sys/")
        if target.startswith("toml++/") and name != Path("base/toml.h"):
            errors.append(f"{name} includes {target}: base/toml.h does, so that no text aborts")
        if HEAVY.match(target) and path.suffix == ".h" and name not in DOORS:
            errors.append(f"{name} includes {target}: too heavy for a header")


def check_text(path: Path) -> None:
    name = path.relative_to(ROOT)
    lines = path.read_text().splitlines()
    if path.suffix == ".h" and "#pragma once" not in lines:
        errors.append(f"{name} has no #pragma once")
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_LINE:
            errors.append(f"{name}:{number} has {len(line)} columns")
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            errors.append(f"{name}:{number} leaves work behind")


def check_handler(path: Path, pattern: re.Pattern[str], exempt: Container[Path], says: str) -> None:
    """That no source of the fault handler but those exempt has the pattern in it."""
    name = path.relative_to(ROOT)
    if name.parts[0] != "faulthandler" or name in exempt:
        return
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if found := pattern.search(line):
            errors.append(f"{name}:{number} {says}: {found[0]}")


def included(path: Path, known: dict[Path, set[str]]) -> set[str]:
    """Headers of others that a file includes, itself or by way of ours."""
    if path not in known:
        known[path] = set()
        for quote, target in INCLUDE.findall(path.read_text()):
            ours = ROOT / target
            known[path] |= included(ours, known) if quote == '"' and ours.exists() else {target}
    return known[path]


def check_precompiled(files: list[Path]) -> None:
    """That files include what they need of what is precompiled: builds without go on working."""
    known: dict[Path, set[str]] = {}
    for path in files:
        text = path.read_text()
        for header, names in PRECOMPILED.items():
            used = re.search(rf"\bstd::(?:{names})\b", text)
            if used and header not in included(path, known):
                errors.append(f"{path.relative_to(ROOT)} uses {used[0]} without <{header}>")


def local_names(text: str) -> set[str]:
    """What a file declares in its anonymous namespace: types, constants, and functions with the line
    that they begin with. Functions may be overloads of one another, aliases may be repeated."""
    names: set[str] = set()
    inside = False
    for line in text.splitlines():
        if line == "namespace {":
            inside = True
        elif line == "}  // namespace":
            inside = False
        elif inside and line and line[0] not in " /#}":
            found = re.match(r"(?:enum class|struct|class|union) (\w+) [{:]", line) or \
                re.match(r"const\w* [^(=]*?\b(k[A-Z]\w*)\b", line) or \
                re.match(r"[\w:<>,&*\s]*[\s&*](\w+\(.*)", line)
            if found:
                names.add(found[1])
    return names


def check_unity_names(files: list[Path]) -> None:
    """The preset `programs` compiles several files of a folder as one, in batches that change."""
    seen: dict[tuple[Path, str], Path] = {}
    for path in files:
        if path.suffix == ".cc" and path.relative_to(ROOT).parts[0] in ALLOWED and \
                path.name != "main.cc":
            for name in local_names(path.read_text()):
                other = seen.setdefault((path.parent, name), path)
                if other != path:
                    errors.append(f"{path.relative_to(ROOT)} and {other.name} both have {name}")


def check_documents(files: list[Path]) -> None:
    """What documents name is there: tests, and what links lead to."""
    tests = {f"{suite}.{name}" for path in files if path.suffix == ".cc"
             for suite, name in re.findall(r"^TEST(?:_[FP])?\((\w+),\s*(\w+)\)", path.read_text(),
                                           re.MULTILINE)}
    cmake = (ROOT / "tests/CMakeLists.txt").read_text()
    tests.update(re.findall(r"NAME (\w+\.\w+)", cmake))
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("format/*.md")]:
        name, text = document.relative_to(ROOT), document.read_text()
        for test in re.findall(r"`([A-Z]\w+\.[A-Z]\w+)`", text):
            if test not in tests:
                errors.append(f"{name}: there is no test {test}")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            if not (document.parent / link).exists():
                errors.append(f"{name}: the link to {link} leads nowhere")


def check_compiles_alone(path: Path, command: list[str]) -> None:
    result = subprocess.run([*command, "-fsyntax-only", "-x", "c++", str(path)],
                            capture_output=True, text=True)
    # A header given as the main file warns about its own #pragma once.
    if result.returncode != 0:
        errors.append(f"{path.relative_to(ROOT)} does not compile alone:\n{result.stderr[:600]}")


def is_shown_by_its_source(header: Path, compiled: set[str]) -> bool:
    """Whether the build has shown that it compiles alone: its source includes it before all else."""
    source = header.with_suffix(".cc")
    if str(source) not in compiled:
        return False
    first = INCLUDE.search(source.read_text())
    return first is not None and first[2] == str(header.relative_to(ROOT))


def header_command(entries: list[dict]) -> list[str]:
    """The compiler's command for a file that sees all include directories."""
    entry = next(e for e in entries if e["file"].endswith("format/wire.cc"))
    words = shlex.split(entry["command"])
    # Nothing of what is precompiled.
    without = {"-O2", "-g1", "-Werror", "-include", "-Winvalid-pch"}
    kept = [word for word in words[:words.index("-o")]
            if word not in without and not word.endswith("cmake_pch.hxx")]
    return [word for word in kept if not word.startswith(("-MD", "-MT", "-MF"))] + ["-w"]


def main() -> int:
    files = sources()
    for path in files:
        check_includes(path)
        check_text(path)
        check_handler(path, TAKES_PATHS, PATHS_OF_THE_OPERATOR, "takes a path")
        check_handler(path, OPENS_PAGES, OPENER_OF_PAGES, "makes a page past PageOpener")
    check_unity_names(files)
    check_precompiled(files)
    check_documents(files)
    entries = json.loads((BUILD / "compile_commands.json").read_text())
    compiled = {entry["file"] for entry in entries}
    headers = [path for path in files
               if path.suffix == ".h" and not is_shown_by_its_source(path, compiled)]
    command = header_command(entries)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: check_compiles_alone(path, command), headers))
    for error in errors:
        print(error)
    print(f"{len(files)} files, {len(headers)} headers alone, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
