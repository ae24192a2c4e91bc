"""QEMU's machine protocol, with a deadline on every answer."""

import json
import socket
import time
from typing import Any


class QmpError(RuntimeError):
    """QEMU refused a command, did not answer in time, or is gone."""


class Qmp:
    """One connection; use from one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._events: list[dict[str, Any]] = []

    def greet(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while "QMP" not in self._message(deadline):
            pass
        self.command("qmp_capabilities")

    def command(self, execute: str, seconds: float = 30, descriptor: int | None = None,
                **arguments: Any) -> Any:
        """Sends one command, with a file descriptor if it takes one, and returns its result."""
        deadline = time.monotonic() + seconds
        data = json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n"
        descriptors = [] if descriptor is None else [descriptor]
        try:
            socket.send_fds(self._connection, [data], descriptors)
        except OSError as error:
            raise QmpError(f"QEMU is gone: {error}") from error
        while True:
            message = self._message(deadline)
            if "error" in message:
                raise QmpError(f"QEMU refused {execute}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]

    def wait_for_event(self, name: str, seconds: float) -> dict[str, Any]:
        """The data of the next event of that name that no earlier call has returned."""
        deadline = time.monotonic() + seconds
        while True:
            for index, event in enumerate(self._events):
                if event["event"] == name:
                    del self._events[:index + 1]
                    return event.get("data", {})
            self._message(deadline)

    def close(self) -> None:
        self._connection.close()

    def _message(self, deadline: float) -> dict[str, Any]:
        """The next message; an event is kept for wait_for_event() too."""
        while b"\n" not in self._received:
            self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._connection.recv(65536)
            except TimeoutError as error:
                raise QmpError("QEMU does not answer") from error
            except OSError as error:
                raise QmpError(f"QEMU is gone: {error}") from error
            if not data:
                raise QmpError("QEMU has ended")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        message = json.loads(line)
        if "event" in message:
            self._events.append(message)
        return message
