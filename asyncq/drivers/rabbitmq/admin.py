"""What an operator asks of RabbitMQ's queues, as far as AMQP can answer.

AMQP lists no queues, counts neither what is in flight nor what is delayed, and finds no message by
its id; RabbitMQ's own tools do.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import anyio

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.browsing import Browse
from asyncq.drivers.rabbitmq.content import headers_of
from asyncq.drivers.rabbitmq.fetching import STRIDE
from asyncq.drivers.rabbitmq.parcels import DIED_AT, REASON, last_death, unwrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.purging import purge
from asyncq.drivers.rabbitmq.wire import Content
from asyncq.seams.admin import DeadLetter, Depth
from asyncq.seams.dead import unpack_last

LATEST = 253_402_300_799_000  # milliseconds: the year 9999 ends
IDLE = 1.0  # seconds between two pages after which what was looked at goes back

Take = Callable[[Browse, Sequence[str]], Awaitable[list[str]]]


class RabbitQueueAdmin:
    """The `QueueAdmin` half of the RabbitMQ broker."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._topology = publisher.topology
        self._browse: Browse | None = None  # under way, page by page
        self._idle: asyncio.TimerHandle | None = None  # its end, if no more pages are asked for
        self._turn = anyio.Lock(fast_acquire=True)

    async def queues(self) -> Sequence[str]:
        """Those that this process has declared."""
        return sorted(self._topology.declared)

    async def depth(self, queue: str) -> Depth:
        count, browse = self._topology.count, self._browse
        looked_at = browse.held if browse is not None and browse.queue == queue else 0
        return Depth(
            ready=(await count(queue) or 0) + (await count(names.suspects(queue)) or 0),
            delayed=None,
            in_flight=None,
            dead=(await count(names.dead(queue)) or 0) + looked_at,
            differs=await self._topology.difference(queue),
        )

    async def is_there(self, queue: str) -> bool:
        return await self._topology.count(queue) is not None

    async def purge(self, queue: str) -> int:
        """Remove what is ready; what is delayed stays, since all queues share the delay levels."""
        return await purge(self._publisher, queue)

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        """As `QueueAdmin.dead_letters`. Page after page, each is fetched once: what was looked at
        is held until the last page, or for a moment after the one before."""
        if await self._topology.count(names.dead(queue)) is None:
            return []
        async with self._looking(queue, offset) as browse:
            found = await browse.next(limit)
            # Whoever asks page by page does so until there is none.
            if not found or (offset == 0 and len(found) < limit):
                await self._end_browse()
            return [_letter(content, queue) for content in found]

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        return await self._take_out(queue, ids, Browse.send_back)

    async def delete_dead(self, queue: str, ids: Sequence[str]) -> int:
        return len(await self._take_out(queue, ids, Browse.delete))

    async def _take_out(self, queue: str, ids: Sequence[str], take: Take) -> list[str]:
        await self._topology.declare(queue)
        wanted = set(ids)
        taken: list[str] = []
        browse = self._browse
        if browse is not None and browse.queue == queue and browse.is_open:
            async with self._looking(queue, browse.passed) as browse:
                taken = await take(browse, ids)
        if not wanted.difference(taken):
            return taken
        async with self._looking(queue, 0) as browse:
            while (left := wanted.difference(taken)) and await browse.next(STRIDE):
                taken += await take(browse, list(left))
            await self._end_browse()
        return taken

    @asynccontextmanager
    async def _looking(self, queue: str, offset: int) -> AsyncGenerator[Browse]:
        """The pass that is at this offset already, or one that begins anew."""
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                browse = self._browse
                if browse is None or (browse.queue, browse.passed) != (queue, offset):
                    await self._end_browse()
                    browse = None
                if browse is None or not browse.is_open:
                    browse = Browse(
                        self._publisher, queue, await self._publisher.connector.open_channel()
                    )
                    self._browse = browse
                    await browse.skip(offset)
                yield browse
            except BaseException:
                self._close_browse()  # what it holds is not known any more
                raise
            if self._browse is not None:
                self._idle = asyncio.get_running_loop().call_later(IDLE, self._close_browse)

    async def _end_browse(self) -> None:
        browse, self._browse = self._browse, None
        if browse is not None and browse.is_open:
            await browse.end()

    def _close_browse(self) -> None:
        browse, self._browse = self._browse, None
        if browse is not None:
            browse.close()


def _letter(content: Content, queue: str) -> DeadLetter:
    received = unwrap(content, queue)
    headers = headers_of(content)
    reason = headers.get(REASON)
    if not isinstance(reason, str):
        reason = f"RabbitMQ: {last_death(headers).get('reason', 'unknown')}"
    return DeadLetter(
        envelope=received.envelope,
        reason=reason,
        died_at=_died_at(headers),
        crashes=received.crashes,
        last=unpack_last(received.last),
    )


def _died_at(headers: Mapping[str, Any]) -> float:
    """When it died, in Unix seconds; 0 where nobody says."""
    moment = headers.get(DIED_AT)
    if isinstance(moment, int) and 0 <= moment <= LATEST:
        return moment / 1000
    match last_death(headers).get("time"):
        case datetime() as when:
            return when.timestamp()
        case _:
            return 0.0
