"""One server process: its ports, its start, its pause, its end."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from random import SystemRandom

PORTS = 10_000, 32_000  # that servers of tests get one of


class ServerMissing(Exception):
    """There is no such server on this machine; says where it was looked for."""


class ServerProcess:
    """A process that is the server itself, not a shell around it: signals reach it."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, is_ready: Callable[[], bool], within: float) -> None:
        """Start it, or start it again; returns when it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + within
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                said = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._command[0]} did not start: {said}")
            time.sleep(0.01)  # it has no way to tell us

    def kill(self) -> None:
        """End it as a crash would: nothing more is written."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def pause(self) -> None:
        """Let it stand still: its connections stay, and nobody answers."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, what: signal.Signals) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(what)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(how)
                self._process.send_signal(signal.SIGCONT)  # one that was paused must hear it
            self._process.wait()
            self._process = None


def free_port() -> int:
    """A port of the loopback that nobody listens on, just now."""
    [port] = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """As many ports, all different.

    They are none of those that the system hands to whoever asks for any: while a server is dead,
    another test would get its port, and its clients with it.
    """
    chance = SystemRandom()
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            listener = held.enter_context(socket.socket())
            port = chance.randrange(*PORTS)
            with suppress(OSError):  # somebody has it
                listener.bind(("127.0.0.1", port))
                ports.append(port)
        return ports
