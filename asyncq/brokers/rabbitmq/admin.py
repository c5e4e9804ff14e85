"""What an operator asks of RabbitMQ's queues, as far as AMQP can answer.

AMQP lists no queues, counts neither what is held nor what is delayed, and finds no message by its
id; RabbitMQ's own tools do.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pamqp.commands as amqp

from asyncq.brokers.admin import DeadLetter, Depth
from asyncq.brokers.dead import unpack_last
from asyncq.brokers.rabbitmq import names
from asyncq.brokers.rabbitmq.parcels import DIED_AT, REASON, Received, unwrap, wrap
from asyncq.brokers.rabbitmq.post import Post
from asyncq.stores.amqp_content import headers_of
from asyncq.stores.amqp_wire import Channel, Content

LATEST = 253_402_300_799_000  # milliseconds: the year 9999 ends
STRIDE = 100  # messages fetched with one question
ROUND = 25  # settled before the channel is closed: what a quorum queue takes at once


class RabbitQueueAdmin:
    """The `QueueAdmin` half of the RabbitMQ broker."""

    def __init__(self, post: Post) -> None:
        self._post = post

    async def queues(self) -> Sequence[str]:
        """Those that this process has declared."""
        return sorted(self._post.declared)

    async def depth(self, queue: str) -> Depth:
        count = self._post.count
        return Depth(
            ready=await count(queue) + await count(names.suspects(queue)),
            delayed=None,
            held=None,
            dead=await count(names.dead(queue)),
            differs=await self._post.difference(queue),
        )

    async def purge(self, queue: str) -> int:
        """Remove what is ready; what is delayed stays, since all queues share the ladder."""
        return await self._post.purge(queue) + await self._post.purge(names.suspects(queue))

    async def dead_letters(
        self, queue: str, *, limit: int = 100, offset: int = 0
    ) -> Sequence[DeadLetter]:
        letters: list[DeadLetter] = []
        wanted = offset + limit
        async with self._browsing() as channel:
            while len(letters) < wanted:
                found = await self._fetch(channel, queue, min(STRIDE, wanted - len(letters)))
                letters += [_letter(content, queue) for content in found]
                if not found:
                    break
        return letters[offset:]

    async def replay(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        return await self._take_out(queue, ids, send_back=True)

    async def delete_dead(self, queue: str, ids: Sequence[str]) -> int:
        return len(await self._take_out(queue, ids, send_back=False))

    async def _take_out(self, queue: str, ids: Sequence[str], *, send_back: bool) -> list[str]:
        wanted = set(ids)
        taken: list[str] = []
        while wanted:
            found = await self._take_out_some(queue, wanted, send_back=send_back)
            if not found:
                break
            taken += found
            wanted.difference_update(found)
        return taken

    async def _take_out_some(
        self, queue: str, wanted: Collection[str], *, send_back: bool
    ) -> list[str]:
        """Some of the wanted; what else was looked at goes back where it was."""
        await self._post.declare(queue)
        async with self._browsing() as channel:
            chosen: list[Received] = []
            while len(chosen) < ROUND:
                found = await self._fetch(channel, queue, STRIDE)
                letters = [unwrap(content, queue) for content in found]
                chosen += [letter for letter in letters if letter.envelope.id in wanted]
                if not found:
                    break
            chosen = chosen[:ROUND]
            if send_back:
                await self._post.move([wrap(letter.envelope, "", queue) for letter in chosen])
            acks = [channel.marshal(amqp.Basic.Ack(letter.tag)) for letter in chosen]
            channel.send(b"".join(acks))
            await self._post.ask(channel, amqp.Basic.Qos(0, 1, False))
            return [letter.envelope.id for letter in chosen]

    async def _fetch(self, channel: Channel, queue: str, count: int) -> list[Content]:
        get = amqp.Basic.Get(queue=names.dead(queue))
        answers = await self._post.ask(channel, *[get] * count)
        return [answer for answer in answers if isinstance(answer, Content)]

    @asynccontextmanager
    async def _browsing(self) -> AsyncGenerator[Channel]:
        """A channel to look at messages: closed, it puts back what was not settled."""
        channel = await self._post.open_channel()
        try:
            yield channel
        finally:
            channel.close()


def _letter(content: Content, queue: str) -> DeadLetter:
    received = unwrap(content, queue)
    headers = headers_of(content)
    reason = headers.get(REASON)
    if not isinstance(reason, str):
        reason = f"RabbitMQ: {headers.get('x-first-death-reason', 'unknown')}"
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
    match headers.get("x-death"):  # what RabbitMQ itself writes, the last one first
        case [{"time": datetime() as when}, *_]:
            return when.timestamp()
        case _:
            return 0.0
