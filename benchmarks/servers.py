"""A Redis server for one run: fresh, on a free port, gone afterwards.

RabbitMQ is in `benchmarks.rabbitmq`.
"""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from benchmarks import processes

BOOT = 10.0  # seconds
OPTIONS = {
    "save": "",
    "appendonly": "no",
    "maxclients": "15000",  # a contender may want a connection for each of 10,000 sleepers
    "tcp-backlog": "4096",
}


class ServerDidNotStart(Exception):
    """A server did not answer; its log says why."""


@dataclass(frozen=True)
class Server:
    """Where the server is, and what it is."""

    url: str
    version: str


@contextmanager
def redis_server(directory: Path) -> Iterator[Server]:
    """Run a server for the length of the block. It keeps nothing on disk."""
    port = free_port()
    place = {"port": str(port), "bind": "127.0.0.1", "dir": str(directory)}
    options = [text for name, value in (place | OPTIONS).items() for text in (f"--{name}", value)]
    with (directory / "redis.log").open("wb") as log:
        process = subprocess.Popen(["redis-server", *options], stdout=log, stderr=log)
    try:
        wait_for(port, process)
        yield Server(url=f"redis://127.0.0.1:{port}/0", version=version())
    finally:
        processes.end(process)


def free_port() -> int:
    """A port of the loopback that nobody listens on, just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers.

    Raises:
        ServerDidNotStart: it does not, or has ended.
    """
    deadline = monotonic() + BOOT
    while monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            sleep(0.02)
    raise ServerDidNotStart(f"redis-server on port {port}")


def version() -> str:
    """The version of the server on the path."""
    said = subprocess.run(["redis-server", "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"v=(\S+)", said.stdout)
    return found.group(1) if found else said.stdout.strip()
