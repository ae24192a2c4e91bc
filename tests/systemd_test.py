"""The units of deploy/systemd under a real systemd, in namespaces of its own: VMs go on when the main
process dies, and the service reloads, is upgraded and stops as its documents say.

    systemd_test.py SOURCE_DIRECTORY BINARY_DIRECTORY

Root alone can run it; exits with 77 where it cannot run, and says why.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

BINARIES = Path(sys.argv.pop())
SOURCE = Path(sys.argv.pop())
PROGRAMS = ["thaw", "thaw-pageserver", "thaw-faulthandler", "vmm"]
SKIPPED = 77
PATIENCE = 60

# In the namespaces: what is installed lies over /etc, /usr/bin and /var, and goes with them.
SET_UP = """
set -eu
mount --make-rprivate /
mount -t tmpfs over "$1/over"
for place in /etc /usr/bin /var; do
  mkdir -p "$1/over$place" "$1/over/work$place"
  mount -t overlay over -o "lowerdir=$place,upperdir=$1/over$place,workdir=$1/over/work$place" $place
done
cp "$1"/programs/* /usr/bin/
systemd-sysusers "$1/thaw.conf"
mount -t tmpfs -o mode=755 run /run
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
exec env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin container=test SYSTEMD_UNIT_PATH="$1/units" \\
  /lib/systemd/systemd --system --log-target=console --show-status=0 --unit=basic.target
"""


class Systemd:
    """Runs as the first process of its namespaces, with our units and the targets they need."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="thaw-systemd-"))
        units = self.directory / "units"
        for made in (units, self.directory / "programs", self.directory / "over"):
            made.mkdir()
        for unit in (SOURCE / "deploy/systemd").glob("*.service"):
            shutil.copy(unit, units)
        shutil.copy(SOURCE / "deploy/systemd/thaw.conf", self.directory)
        for target in ("basic", "sysinit", "network", "shutdown", "umount", "final"):
            (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        for program in PROGRAMS:
            shutil.copy(BINARIES / program, self.directory / "programs")
        self.log = open(self.directory / "log", "w+", encoding="utf-8")
        self.unshare = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--ipc", "--uts",
             "--mount-proc", "bash", "-c", SET_UP, "bash", str(self.directory)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
            preexec_fn=self.enter_cgroup)

    def enter_cgroup(self):
        """Of the unified hierarchy, which need not be mounted where we are."""
        mounted = self.directory / "cgroup"
        mounted.mkdir()
        subprocess.run(["unshare", "--mount", "bash", "-ec", f"""
mount -t cgroup2 none {mounted}
mkdir -p {mounted}/{self.directory.name}
echo {os.getpid()} > {mounted}/{self.directory.name}/cgroup.procs"""], check=True)

    def leave_cgroup(self):
        subprocess.run(["unshare", "--mount", "bash", "-c", f"""
mount -t cgroup2 none {self.directory}/cgroup
for i in $(seq 50); do
  find {self.directory}/cgroup/{self.directory.name} -depth -type d -exec rmdir {{}} + && break
  sleep 0.1
done"""], check=False, stderr=subprocess.DEVNULL)

    def first_process(self):
        path = f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children"
        children = Path(path).read_text().split() if Path(path).exists() else []
        return children[0] if children else ""

    def command(self, *words):
        return ["nsenter", "-t", self.first_process(), "-m", "-p", "-C", "-i", "-u", *words]

    def run(self, *words):
        done = subprocess.run(self.command(*words), stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE)
        return done.returncode, done.stdout

    def is_up(self):
        if not self.first_process():
            return False
        return self.run("systemctl", "is-active", "basic.target")[0] == 0

    def said(self):
        self.log.flush()
        return (self.directory / "log").read_text()

    def end(self):
        self.unshare.kill()
        self.unshare.wait()
        self.leave_cgroup()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def wait_until(holds):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class UnderSystemd(unittest.TestCase):
    systemd: Systemd

    def do(self, *words):
        code, said = self.systemd.run(*words)
        self.assertEqual(code, 0, f"{words}: {said}\n{self.systemd.said()}")
        return said

    def property_of(self, name, unit="thaw-faulthandler"):
        return self.do("systemctl", "show", "-P", name, unit).strip()

    def test_vms_go_on(self):
        self.do("systemctl", "start", "thaw-pageserver", "thaw-faulthandler")
        self.do("bash", "-c", "head -c 16M /dev/urandom > /run/image")
        self.do("thaw", "push", "snap", "--memory", "/run/image")
        self.do("thaw", "prepare", "snap", "--socket", "/run/vm", "--no-record")
        with subprocess.Popen(self.systemd.command("vmm", "/run/vm", "/run/image", "halves"),
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as vm:
            self.assertEqual(vm.stdout.readline(), "handed over\n")
            self.assertEqual(vm.stdout.readline(), "half\n")
            before = self.property_of("MainPID")
            self.do("kill", "-9", before)
            self.assertTrue(wait_until(
                lambda: self.property_of("ActiveState") == "active" and
                self.property_of("MainPID") not in ("0", before)), self.systemd.said())
            self.assertIn("serving", self.do("thaw", "ps"))
            self.do("systemctl", "reload", "thaw-faulthandler")
            self.do("thaw-faulthandler", "--upgrade")
            said, _ = vm.communicate("go on\n", timeout=PATIENCE)
            self.assertEqual(vm.returncode, 0, said)
        self.do("systemctl", "stop", "thaw-faulthandler", "thaw-pageserver")
        for unit in ("thaw-faulthandler", "thaw-pageserver"):
            self.assertEqual(self.property_of("Result", unit), "success")


def main():
    if os.geteuid() != 0:
        print("skipped: only root runs a systemd")
        return SKIPPED
    systemd = Systemd()
    try:
        if not wait_until(lambda: systemd.unshare.poll() is not None or systemd.is_up()):
            print("skipped: systemd does not start:", systemd.said())
            return SKIPPED
        if systemd.unshare.poll() is not None:
            print("skipped: no namespaces for a systemd:", systemd.said())
            return SKIPPED
        UnderSystemd.systemd = systemd
        return 0 if unittest.main(exit=False).result.wasSuccessful() else 1
    finally:
        systemd.end()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
