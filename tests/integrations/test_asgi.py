"""The ASGI middleware, as servers and frameworks call it."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asyncq.integrations.asgi import MOST_READ, CancelOnDisconnect
from tests.client.given import PATIENCE

Event = MutableMapping[str, Any]
HTTP = {"type": "http"}
GONE = {"type": "http.disconnect"}


class Server:
    """The client says what it is told to, and hears answers."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[Event] = asyncio.Queue()
        self.read = 0
        self.answers: list[Event] = []

    def say(self, *events: Event) -> None:
        for event in events:
            self._said.put_nowait(event)

    async def receive(self) -> Event:
        event = await self._said.get()
        self.read += 1
        return event

    async def send(self, event: Event) -> None:
        self.answers.append(event)


def body(text: bytes = b"", *, more: bool = False) -> Event:
    return {"type": "http.request", "body": text, "more_body": more}


async def answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"yes"})


async def test_it_is_cancelled_where_it_waits_and_nobody_hears_of_it() -> None:
    server, seen = Server(), list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        server.say(GONE)
        try:
            await anyio.sleep(PATIENCE)
        except asyncio.CancelledError as error:
            await anyio.lowlevel.checkpoint()  # it may clean up
            seen.append(str(error))
            seen.append((await receive())["type"])
            seen.append((await receive())["type"])
            raise

    server.say(body())
    await CancelOnDisconnect(app)(HTTP, server.receive, server.send)
    assert seen == ["http.request", "the client has gone", "http.disconnect", "http.disconnect"]
    assert [each.get("status") for each in server.answers] == [499, None]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_is_behind_a_complete_answer_goes_on() -> None:
    server, seen = Server(), list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        server.say(GONE)
        await anyio.sleep(0.05)
        seen.append("done")

    await CancelOnDisconnect(app)(HTTP, server.receive, server.send)
    assert seen == ["done"]
    assert len(server.answers) == 2


async def test_one_that_is_answered_in_parts_is_cancelled_in_between() -> None:
    server = Server()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        server.say(GONE)
        await anyio.sleep(PATIENCE)

    with anyio.fail_after(1):
        await CancelOnDisconnect(app)(HTTP, server.receive, server.send)


async def test_an_error_passes_as_it_is() -> None:
    server = Server()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("as it is")

    with pytest.raises(KeyError, match="as it is"):
        await CancelOnDisconnect(app)(HTTP, server.receive, server.send)


async def test_who_is_cancelled_by_somebody_else_is_so() -> None:
    """Also if the client goes at the same moment."""
    server = Server()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(PATIENCE)

    for goes in (False, True):
        with pytest.raises(TimeoutError):  # noqa: PT012 - a block as users have it
            async with asyncio.timeout(0.05):
                if goes:
                    asyncio.get_running_loop().call_later(0.05, server.say, GONE)
                await CancelOnDisconnect(app)(HTTP, server.receive, server.send)
                await anyio.sleep(PATIENCE)


async def test_of_a_body_that_is_not_read_so_much_is_read_ahead() -> None:
    server, taken = Server(), list[int]()
    part = MOST_READ // 4

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(0.05)
        assert server.read == 5
        for _ in range(20):
            taken.append(len((await receive())["body"]))
        server.say(GONE)
        await anyio.sleep(PATIENCE)

    server.say(*[body(bytes(part), more=n < 19) for n in range(20)])
    with anyio.fail_after(2):
        await CancelOnDisconnect(app)(HTTP, server.receive, server.send)
    assert taken == [part] * 20


async def test_what_is_no_request_passes() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["type"], receive, send))

    server = Server()
    receive, send = server.receive, server.send
    await CancelOnDisconnect(app)({"type": "lifespan"}, receive, send)
    assert seen == [("lifespan", receive, send)]
