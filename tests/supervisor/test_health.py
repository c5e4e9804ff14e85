"""The health server: what it answers, and what it takes from whom."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import EndOfStream, connect_tcp, create_task_group, fail_after

from asyncq.errors import ConfigurationError
from asyncq.supervisor import health
from asyncq.supervisor.health import HealthServer
from tests.client.given import PATIENCE
from tests.servers import free_port

HOST = "127.0.0.1"


@asynccontextmanager
async def serving(*, well: bool = True) -> AsyncGenerator[int]:
    port = free_port()
    async with create_task_group() as group:
        await group.start(HealthServer({"/ready": lambda: (well, {"ready": well})}, HOST, port).run)
        yield port
        group.cancel_scope.cancel()


async def ask(port: int, request: bytes) -> bytes:
    answer = b""
    with fail_after(PATIENCE):
        async with await connect_tcp(HOST, port) as stream:
            await stream.send(request)
            while True:
                try:
                    answer += await stream.receive()
                except EndOfStream:
                    return answer


@pytest.mark.parametrize(
    ("request_line", "well", "status", "body"),
    [
        (b"GET /ready HTTP/1.1", True, b"200 OK", b'{"ready": true}'),
        (b"GET /ready?verbose HTTP/1.0", False, b"503 Service Unavailable", b'{"ready": false}'),
        (b"HEAD /ready HTTP/1.1", True, b"200 OK", b""),
        (b"GET /queues HTTP/1.1", True, b"404 Not Found", b"{}"),
        (b"POST /ready HTTP/1.1", True, b"405 Method Not Allowed", b"{}"),
        (b"\xff\xfe nonsense", True, b"405 Method Not Allowed", b"{}"),
    ],
)
async def test_each_request_has_its_answer(
    request_line: bytes, well: bool, status: bytes, body: bytes
) -> None:
    async with serving(well=well) as port:
        answer = await ask(port, request_line + b"\r\nHost: x\r\n\r\n")

    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert content == body


async def test_a_request_without_end_is_answered_when_it_is_too_long() -> None:
    async with serving() as port:
        answer = await ask(port, b"GET /ready HTTP/1.1\r\nX: " + b"x" * health.LARGEST)

    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_who_says_nothing_is_hung_up_on_and_keeps_nobody_else_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "TIMEOUT", 0.3)
    monkeypatch.setattr(health, "CONNECTIONS", 3)
    async with serving() as port, create_task_group() as group:
        with fail_after(PATIENCE):
            idle = [await connect_tcp(HOST, port) for _ in range(2)]
            assert b"200 OK" in await ask(port, b"GET /ready HTTP/1.1\r\n\r\n")
            third = await connect_tcp(HOST, port)
            await anyio.wait_all_tasks_blocked()
            assert await ask(port, b"GET /ready HTTP/1.1\r\n\r\n") == b""  # one too many

            for stream in (*idle, third):
                with pytest.raises(EndOfStream):
                    await stream.receive()
                await stream.aclose()
            assert b"200 OK" in await ask(port, b"GET /ready HTTP/1.1\r\n\r\n")
        group.cancel_scope.cancel()


async def test_a_port_that_is_taken_is_a_fault_of_the_set_up() -> None:
    async with serving() as port:
        with pytest.raises(ConfigurationError, match=f"cannot listen on port {port} of {HOST}"):
            await HealthServer({}, HOST, port).run()
