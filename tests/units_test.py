"""The units of deploy/systemd: how exposed they leave the servers, and that they still let them work.

    units_test.py SOURCE_DIRECTORY

systemd-analyze (package systemd) must be there.
"""

import re
import subprocess
import sys
import unittest
from pathlib import Path

SOURCE = Path(sys.argv.pop())
UNITS = SOURCE / "deploy/systemd"
MOST_EXPOSURE = {"thaw-pageserver": 2.0, "thaw-faulthandler": 2.0}
# Made before the program's own filter is in force, beside those that it lets through.
BEFORE_THE_FILTER = {"capget", "capset", "clone", "execve", "landlock_add_rule",
                     "landlock_create_ruleset", "landlock_restrict_self", "prctl", "seccomp"}
# What the supervisor, which has no list of its own, calls beside those.
OF_THE_SUPERVISOR = {"kcmp", "openat2"}


def analyze(*arguments: str) -> str:
    return subprocess.run(["systemd-analyze", *arguments], check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / f"{unit}.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def calls_of(group: str) -> set[str]:
    """The system calls of a group of systemd's, or the one of that name."""
    if not group.startswith("@"):
        return {group}
    calls: set[str] = set()
    for line in analyze("syscall-filter", group).splitlines()[1:]:
        if (word := line.strip()) and not word.startswith("#"):
            calls |= calls_of(word)
    return calls


def allowed_calls(filters: list[str]) -> set[str]:
    allowed: set[str] = set()
    for line in filters:
        words = line.removeprefix("~").split()
        calls = set().union(*(calls_of(word) for word in words))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def calls_of_the_servers() -> set[str]:
    text = (SOURCE / "base/confine.cc").read_text()
    lists = re.findall(r"k(?:Memory|File|Socket|Waiting|Process)Calls\[\] = \{(.*?)\};", text, re.S)
    return BEFORE_THE_FILTER.union(OF_THE_SUPERVISOR, *(re.findall(r'"(\w+)"', each) for each in lists))


def capabilities_kept_by(process: str) -> set[str]:
    text = (SOURCE / "faulthandler/main.cc").read_text()
    kept = re.search(rf"k{process}Capabilities\{{(.*?)\}};", text, re.S)
    names = re.findall(r"Capability::k(\w+)", kept[1] if kept else "")
    return {"CAP" + re.sub(r"([A-Z])", r"_\1", name).upper() for name in names}


class Units(unittest.TestCase):
    def test_leave_the_servers_little_exposed(self):
        for unit, most in MOST_EXPOSURE.items():
            said = analyze("security", "--offline=yes", str(UNITS / f"{unit}.service"))
            exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", said)
            self.assertIsNotNone(exposure, said)
            self.assertLessEqual(float(exposure[1]), most, said)

    def test_allow_every_call_that_the_servers_allow_themselves(self):
        wanted = calls_of_the_servers()
        self.assertGreater(len(wanted), 150)
        # No server gives files to other users.
        unused = {"chown", "fchown", "fchownat", "lchown"}
        for unit in MOST_EXPOSURE:
            missing = wanted - allowed_calls(settings(unit)["SystemCallFilter"])
            self.assertLessEqual(missing, unused, unit)

    def test_give_no_capability_that_the_supervisor_would_give_up(self):
        given = settings("thaw-faulthandler")["CapabilityBoundingSet"][0].split()
        self.assertLessEqual(set(given), capabilities_kept_by("Supervisor"))

    def test_leave_looking_into_vmms_to_the_supervisor(self):
        self.assertIn("CAP_SYS_PTRACE", capabilities_kept_by("Supervisor"))
        self.assertEqual(capabilities_kept_by("Errand"), {"CAP_SYS_PTRACE"})
        self.assertNotIn("CAP_SYS_PTRACE", capabilities_kept_by("Handler"))
        self.assertIn("CAP_SYS_PTRACE",
                      settings("thaw-faulthandler")["CapabilityBoundingSet"][0].split())

    def test_keep_memory_private_and_vms_alive(self):
        for unit in MOST_EXPOSURE:
            has = settings(unit)
            for name, value in {"UMask": "0077", "OOMPolicy": "continue", "NoNewPrivileges": "yes",
                                "ProtectSystem": "strict", "Restart": "always",
                                "Type": "notify", "NotifyAccess": "main", "WatchdogSec": "30",
                                "WatchdogSignal": "SIGKILL",
                                "ExecReload": "/bin/kill -HUP $MAINPID"}.items():
                self.assertEqual(has.get(name), [value], f"{unit}: {name}")
        self.assertEqual(settings("thaw-pageserver")["User"], ["thaw"])
        self.assertEqual(settings("thaw-pageserver")["StateDirectoryMode"], ["0700"])
        handler = settings("thaw-faulthandler")
        self.assertEqual(handler["PrivateDevices"], ["yes"])
        self.assertEqual(handler["LimitMEMLOCK"], ["infinity"])  # without CAP_IPC_LOCK
        self.assertEqual(handler["LimitNICE"], ["-20"])  # without CAP_SYS_NICE
        self.assertEqual(handler["FileDescriptorStorePreserve"], ["yes"])


if __name__ == "__main__":
    unittest.main()
