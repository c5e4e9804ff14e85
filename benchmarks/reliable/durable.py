"""A Redis server that loses nothing it has acknowledged, and can be killed and started again."""

import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from benchmarks import processes
from benchmarks.servers import wait_for

OPTIONS = {"save": "", "appendonly": "yes", "appendfsync": "always"}
PORTS = range(20_000, 30_000)  # none that a client may be given as its own end of a connection


class DurableServer:
    """The server of one run, on a port and in a folder that stay the same."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = _free_port()
        self._process = self._start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def kill_and_restart(self) -> float:
        """Kill it with no warning and start it at once; return when it answered again."""
        self.end()
        self._process = self._start()
        return monotonic()

    def end(self) -> None:
        """Kill it."""
        processes.end(self._process)

    def _start(self) -> subprocess.Popen[bytes]:
        place = {"port": str(self._port), "bind": "127.0.0.1", "dir": str(self._directory)}
        options = [
            text for name, value in (place | OPTIONS).items() for text in (f"--{name}", value)
        ]
        with (self._directory / "redis.log").open("ab") as log:
            process = subprocess.Popen(["redis-server", *options], stdout=log, stderr=log)
        wait_for(self._port, process)
        return process


@contextmanager
def durable_server(directory: Path) -> Iterator[DurableServer]:
    """Run a server for the length of the block."""
    server = DurableServer(directory)
    try:
        yield server
    finally:
        server.end()


def _free_port() -> int:
    """A port that stays free while the server is away and its clients keep calling."""
    while True:
        port = random.choice(PORTS)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
