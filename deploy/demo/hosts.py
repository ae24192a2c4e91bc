"""Two hosts on one machine: network namespaces joined by a veth pair."""

import os
import subprocess
from pathlib import Path

from programs import ProgramError, run

_RATE = "1gbit"


class Host:
    """One namespace with one interface."""

    def __init__(self, name: str, interface: str, address: str) -> None:
        self.name = name
        self.interface = interface
        self.address = address

    @property
    def prefix(self) -> list[str]:
        """What to put before a command so that it runs on this host. The process stays the one
        that was started, and does not outlive this program even if that is killed."""
        return ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.name]

    def bytes_over_network(self) -> int:
        """All bytes that its interface has moved, both ways."""
        base = f"/sys/class/net/{self.interface}/statistics"
        text = subprocess.run([*self.prefix, "cat", f"{base}/rx_bytes", f"{base}/tx_bytes"],
                              check=True, text=True, stdout=subprocess.PIPE, timeout=20).stdout
        return sum(int(line) for line in text.split())


class Network:
    """Hosts A and B and the link between them; removed on exit."""

    def __init__(self) -> None:
        tag = f"{os.getpid()}"
        self.a = Host(f"thaw-a-{tag}", f"tha{tag}"[:15], "10.73.0.1")
        self.b = Host(f"thaw-b-{tag}", f"thb{tag}"[:15], "10.73.0.2")
        self._shaped = False

    def __enter__(self) -> "Network":
        try:
            self._create()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in (self.a, self.b):
            if Path("/run/netns", host.name).exists():
                subprocess.run(["ip", "netns", "delete", host.name], check=False)

    @property
    def link(self) -> str:
        return "a link shaped to 1 Gbit/s" if self._shaped else "an unshaped link (no tbf here)"

    def _create(self) -> None:
        for host in (self.a, self.b):
            run(["ip", "netns", "add", host.name])
        run(["ip", "link", "add", self.a.interface, "netns", self.a.name, "type", "veth",
             "peer", "name", self.b.interface, "netns", self.b.name])
        for host in (self.a, self.b):
            run(["ip", "-n", host.name, "link", "set", "lo", "up"])
            run(["ip", "-n", host.name, "address", "add", f"{host.address}/30", "dev",
                 host.interface])
            run(["ip", "-n", host.name, "link", "set", host.interface, "up"])
        self._shape()

    def _shape(self) -> None:
        try:
            for host in (self.a, self.b):
                run(["tc", "-n", host.name, "qdisc", "add", "dev", host.interface, "root", "tbf",
                     "rate", _RATE, "burst", "256kb", "latency", "50ms"])
            self._shaped = True
        except (ProgramError, FileNotFoundError):
            self._shaped = False  # a kernel without tbf
