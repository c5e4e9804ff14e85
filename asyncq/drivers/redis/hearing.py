"""Hearing of topics: one subscribed connection for all who listen in this process.

Nobody reads it: what the server says is handed to the ears as it comes. Whoever waits sees, now and
then, that it still lives.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from anyio import fail_after, move_on_after

from asyncq.drivers.redis.connection import (
    CALL_TIMEOUT,
    PING_EVERY,
    PONG_TIMEOUT,
    Link,
    RedisStore,
)
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import BackendUnavailable

LONGEST_WAIT = 1.0  # seconds; after that an ear says that there may be something


class RedisEar:
    """Told of news of one topic."""

    def __init__(self, hearing: "Hearing") -> None:
        self._hearing = hearing
        self._news = asyncio.Event()

    def tell(self) -> None:
        self._news.set()

    async def wait(self) -> None:
        with move_on_after(LONGEST_WAIT):
            await self._news.wait()
        self._news.clear()
        self._hearing.see_that_it_lives()


class Channel:
    """Who listens to one topic."""

    def __init__(self) -> None:
        self.ears: set[RedisEar] = set()
        self.is_answered = asyncio.Event()  # the server has confirmed or refused it


class Hearing:
    """One connection, open while somebody listens. Once it is lost, a new hearing has to begin."""

    def __init__(self, store: RedisStore, refused: Callable[[str, str], None]) -> None:
        self.is_lost = False
        self._refused = refused  # called with the right that we lack, and what the server says
        self._store = store
        self._link = Link(store, BackendUnavailable)
        self._channels: dict[bytes, Channel] = {}
        # Whom the next answers concern, in the order of what was asked.
        self._asked: deque[Channel | None] = deque()
        self._listeners = 0
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._doubted_at: float | None = None  # when it was asked for life

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncGenerator[RedisEar]:
        self._listeners += 1
        try:
            await self._link.listen(self._take, self._lose)
            self._see_that_it_is_there()
            name = self._store.key("topic", topic).encode()
            ear = RedisEar(self)
            channel = self._join(name, ear)
            try:
                await self._answer(channel)
                yield ear
            finally:
                self._leave(name, ear)
        finally:
            self._listeners -= 1
            if not self._listeners:
                self.close()

    def _join(self, name: bytes, ear: RedisEar) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = Channel()
            self._ask(channel, "SUBSCRIBE", name)
            self._channels[name] = channel
        channel.ears.add(ear)
        return channel

    def _leave(self, name: bytes, ear: RedisEar) -> None:
        ears = self._channels[name].ears
        ears.remove(ear)
        if not ears:
            del self._channels[name]
            with suppress(BackendUnavailable):  # then nobody is subscribed any more
                self._ask(None, "UNSUBSCRIBE", name)

    async def _answer(self, channel: Channel) -> None:
        try:
            with fail_after(CALL_TIMEOUT):
                await channel.is_answered.wait()
        except TimeoutError:
            self.close()
        self._see_that_it_is_there()

    def see_that_it_lives(self) -> None:
        """Ask it for life when it has been silent for long.

        Raises:
            BackendUnavailable: it is gone, or was asked and does not answer.
        """
        self._see_that_it_is_there()
        now = self._loop.time()
        if self._doubted_at is not None:
            if now - self._doubted_at > PONG_TIMEOUT:
                self.close()
                self._see_that_it_is_there()
        elif now - self._heard_at > PING_EVERY:
            self._ask(None, "PING")
            self._doubted_at = now

    def close(self) -> None:
        """Whoever listens hears that it is over."""
        self._link.close()
        self._lose()

    def _ask(self, about: Channel | None, *command: Any) -> None:
        self._link.tell(*command)
        self._asked.append(about)

    def _take(self, push: Any) -> None:
        self._heard_at, self._doubted_at = self._loop.time(), None
        if push.__class__ is list and push[0] == b"message":
            if (channel := self._channels.get(push[1])) is not None:
                for ear in channel.ears:
                    ear.tell()
            return
        channel = self._asked.popleft() if self._asked else None
        if channel is None:
            return
        channel.is_answered.set()
        if push.__class__ is ReplyError:  # its ears look now and then
            self._refused("subscribe", str(push))

    def _lose(self) -> None:
        self.is_lost = True
        for channel in self._channels.values():
            channel.is_answered.set()
            for ear in channel.ears:
                ear.tell()

    def _see_that_it_is_there(self) -> None:
        if self.is_lost:
            raise BackendUnavailable("the connection that tells of topics was lost")
