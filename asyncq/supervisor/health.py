"""Whether it lives and whether it works, over HTTP: ``/live`` and ``/ready``.

200 for yes, 503 for no, with a JSON object of what that was judged by. *Ready* means that at least
one process takes messages of all its queues now: its loop turns, its broker answers, nobody has
told it to end. It names no queue, task or version, so that whoever may ask learns nothing.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import anyio
from anyio.abc import SocketStream, TaskStatus

from asyncq.errors import ConfigurationError
from asyncq.loggers import get_logger

log = get_logger(__name__)

TIMEOUT = 5.0  # seconds for a request and its answer
LARGEST = 8 * 1024  # bytes of a request
CONNECTIONS = 50  # at a time; who comes on top is turned away

Check = Callable[[], tuple[bool, Mapping[str, Any]]]  # whether all is well, and the facts


class HealthServer:
    """Answers each path by a check, until cancelled."""

    def __init__(self, checks: Mapping[str, Check], host: str, port: int) -> None:
        self._checks = checks
        self._host = host
        self._port = port
        self._connections = 0

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """
        Raises:
            ConfigurationError: the port cannot be had.
        """
        try:
            listener = await anyio.create_tcp_listener(
                local_host=self._host, local_port=self._port, reuse_port=False
            )
        except OSError as error:
            raise ConfigurationError(
                f"--health cannot listen on port {self._port} of {self._host}: "
                f"{error.strerror or error}"
            ) from error
        async with listener:
            log.info(
                "answering health checks at http://%s:%d/live and /ready", self._host, self._port
            )
            task_status.started()
            await listener.serve(self._serve)

    async def _serve(self, stream: SocketStream) -> None:
        self._connections += 1
        try:
            # Who hangs up, or is slow to ask, has to do without an answer.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                with anyio.move_on_after(TIMEOUT):
                    if self._connections <= CONNECTIONS:
                        await stream.send(self._answer(await _read_head(stream)))
                await stream.aclose()
        finally:
            self._connections -= 1

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        body: Mapping[str, Any] = {}
        if method not in {"GET", "HEAD"}:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        elif (check := self._checks.get(path)) is None:
            status = HTTPStatus.NOT_FOUND
        else:
            well, body = check()
            status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
        content = json.dumps(dict(body)).encode()
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        )
        answer = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
        return answer if method == "HEAD" else answer + content


async def _read_head(stream: SocketStream) -> bytes:
    """The request up to its empty line; what there is, if it is too long or ends sooner."""
    head = b""
    with suppress(anyio.EndOfStream):
        while b"\r\n\r\n" not in head and len(head) < LARGEST:
            head += await stream.receive(LARGEST)
    return head
