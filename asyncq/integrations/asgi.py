"""ASGI: a request is cancelled when its client has gone, and with it the tree of its scopes.

Servers tell an application that its client has gone, and frameworks let the endpoint go on all the
same. With this middleware, the outermost, the endpoint is cancelled then: it gets its
`asyncio.CancelledError` where it waits, and so does what it has begun in an `asyncq.scope`.

    web = FastAPI()
    web.add_middleware(CancelOnDisconnect)
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, cast

MOST_READ = 1024 * 1024  # bytes of a body that are read ahead; a client that goes later is unseen

ASGIScope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
ASGIApp = Callable[[ASGIScope, Receive, Send], Awaitable[None]]

GONE = "the client has gone"
CLOSED = 499  # nginx's status for it


class CancelOnDisconnect:
    """Around an ASGI application: a request whose client goes before it was answered is cancelled.

    What runs behind a complete answer goes on, background tasks of a framework among it; and so
    does what was sent outside of scopes, with ``options(scope=None)``. Of a body that the endpoint
    does not read, 1 MiB is read ahead; that a client goes later is not seen until it reads on.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Request(receive, send).run(self._app, scope)
        else:
            await self._app(scope, receive, send)


class _Request:
    """One that is being answered."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._before = self._task.cancelling()
        self._error: Exception | None = None  # of the server's
        self._is_begun = False  # to be answered
        self._is_answered = False
        self._is_gone = False
        self._events: deque[Event] = deque()  # that were read and not taken yet
        self._size = 0  # bytes of these
        self._news = asyncio.Event()

    async def run(self, app: ASGIApp, scope: ASGIScope) -> None:
        # A bare task, and owned all the same: in a group, what the application raises would be one
        # of several.
        listening = asyncio.get_running_loop().create_task(self._listen())
        try:
            await app(scope, self._take, self._answer)
        except asyncio.CancelledError:
            if not self._is_gone or self._task.cancelling() > self._before + 1:
                raise  # somebody else's doing
            if not self._is_begun:
                # For a middleware around us, and its log; the server has nobody to send it to.
                with suppress(OSError):
                    await _send_closed(self._send)
        finally:
            self._is_answered = True
            listening.cancel()
            if self._is_gone:
                self._task.uncancel()

    async def _listen(self) -> None:
        try:
            await self._read()
        except Exception as error:  # noqa: BLE001 - for who asks
            self._error = error
            self._news.set()

    async def _read(self) -> None:
        while True:
            while self._size > MOST_READ:
                self._news.clear()
                await self._news.wait()
            event = await self._receive()
            self._events.append(event)
            self._size += len(event.get("body", b""))
            self._news.set()
            if event["type"] == "http.disconnect":
                if not self._is_answered:
                    self._is_gone = True
                    self._task.cancel(GONE)
                return

    async def _take(self) -> Event:
        while not self._events:
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        event = self._events[0]
        if event["type"] != "http.disconnect":  # that is told to whoever asks
            self._events.popleft()
            self._size -= len(event.get("body", b""))
            self._news.set()
        return event

    async def _answer(self, event: Event) -> None:
        self._is_begun = True
        if event["type"] == "http.response.body" and not event.get("more_body", False):
            self._is_answered = True
        await self._send(event)


async def _send_closed(send: Send) -> None:
    await send({"type": "http.response.start", "status": CLOSED, "headers": []})
    await send({"type": "http.response.body", "body": b""})
