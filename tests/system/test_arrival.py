"""``asyncq worker`` before its broker: waits and says so, or fails where that is wanted."""

import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import RedisServer, ServerMissing, free_port
from tests.servers.required import give_up
from tests.system.commands import Running, Shell

AT_ONCE = 10.0  # seconds; on a busy machine
APP = """
import asyncq

app = asyncq.App({broker!r}, backend={backend!r})


@app.task(name="add")
async def add(x: int, y: int) -> int:
    return x + y
"""


@pytest.fixture
def late(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that is not started yet."""
    (tmp_path / "redis").mkdir()
    try:
        server = RedisServer(tmp_path / "redis")
    except ServerMissing as missing:
        give_up("redis", missing)
    yield server
    server.stop()


def write_app(shell: Shell, broker: str, backend: str | None = None) -> None:
    (shell.directory / "shop.py").write_text(APP.format(broker=broker, backend=backend))


def answer(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def count(text: str, worker: Running) -> int:
    return sum(text in line for line in worker.lines)


def test_a_worker_started_before_its_broker_waits_and_then_works(
    shell: Shell, late: RedisServer
) -> None:
    write_app(shell, late.url)
    port = free_port()
    with shell.start("worker", "shop:app", "-p", "2", "--health", str(port)) as worker:
        line = worker.wait_for("waiting for the broker")
        alive, ready = answer(port, "live"), answer(port, "ready")

        late.start()
        worker.wait_for("connected to the broker after ")
        worker.wait_for("is ready")
        worker.wait_for("is ready")
        called = shell.asyncq("call", "shop:app", "add", "1", "2", "--wait")
        ready_now = answer(port, "ready")
        worker.send(signal.SIGTERM)

        assert worker.wait() == 0
    assert (alive, ready, ready_now) == (200, 503, 200)
    assert f"waiting for the broker, trying again: no answer from '{late.url}': " in line
    assert line.rstrip().endswith("refused")
    assert count("waiting for the broker", worker) == 1
    assert called.out == "3\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_waits_ends_at_once_when_it_is_told(
    shell: Shell, number: signal.Signals
) -> None:
    write_app(shell, f"redis://127.0.0.1:{free_port()}/0")
    with shell.start("worker", "shop:app") as worker:
        worker.wait_for("waiting for the broker")

        worker.send(number)
        told = time.monotonic()

        assert worker.wait() == 0
        assert time.monotonic() - told < AT_ONCE
    assert worker.lines[-1].rstrip().endswith(": stopped")


def test_a_backend_that_is_away_is_waited_for(shell: Shell, late: RedisServer) -> None:
    write_app(shell, "sqlite:///queue.db", late.url)
    with shell.start("worker", "shop:app") as worker:
        worker.wait_for("waiting for the backend")
        late.start()
        worker.wait_for("is ready")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_wrong_password_is_not_waited_for(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    try:
        server = RedisServer(tmp_path / "redis", "--requirepass", "open")
    except ServerMissing as missing:
        give_up("redis", missing)
    server.start()
    try:
        write_app(shell, server.url.replace("//", "//:wr0ng@"))
        broker = shell.asyncq("worker", "shop:app")
        write_app(shell, "sqlite:///queue.db", server.url)
        backend = shell.asyncq("worker", "shop:app")
    finally:
        server.stop()

    for ended in (broker, backend):
        assert ended.code == 2
        assert "refuses us" in ended.err.splitlines()[-1]
        assert "waiting for" not in ended.err
        assert "wr0ng" not in ended.err


def test_a_required_backend_that_is_away_is_a_line_and_exit_code_1(shell: Shell) -> None:
    write_app(shell, "sqlite:///queue.db", f"redis://127.0.0.1:{free_port()}/0")

    ended = shell.asyncq("worker", "shop:app", "--require-broker")

    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith("asyncq: no answer from 'redis://127.0.0.1:")
