"""Sending parcels, and knowing that RabbitMQ has them."""

import asyncio
import re
from asyncio import timeout as deadline
from collections.abc import Sequence

import anyio.lowlevel
import msgspec
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq.connection import CALL_TIMEOUT, Connector
from asyncq.drivers.rabbitmq.content import Parcel, TooLarge, frames, id_of
from asyncq.drivers.rabbitmq.wire import Channel, ChannelClosed, Content, Wire


class Sent(msgspec.Struct, frozen=True):
    """Which of some parcels were not kept, by their ids."""

    returned: Sequence[str] = ()
    """No queue takes them."""
    refused: Sequence[str] = ()
    """Their queue is full."""

    def __bool__(self) -> bool:
        return bool(self.returned or self.refused)


NONE_MISSING = Sent()

_TOO_LARGE = re.compile(r"message size \d+ is larger than (?:configured )?max size (\d+)")

DOUBT = 1.0  # seconds without a confirm until the server is asked whether it is there
PROBE_TIMEOUT = 2.0  # seconds until a silent server is tried on another connection
LAST_PATIENCE = 0.5  # seconds that a server has for its confirms once it answers others
SLOWEST = 50_000  # bytes a second that a line carries at least
BLOCKED_PATIENCE = 0.5  # seconds that a server may be short of memory or disk, unnoticed by callers


class Sender:
    """One channel in confirm mode, on a connection that only sends.

    RabbitMQ stops reading from a connection that sends when it is short of memory or disk; what is
    settled and asked elsewhere is not held up by it. The connection stays, and nothing more is
    sent on it until it is read again: what was on its way then is stored after all.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._channel: Channel | None = None
        self._turn = anyio.Lock(fast_acquire=True)
        self._tag = 0  # of the last message on this channel
        self._unconfirmed: set[int] = set()
        self._lowest = 0  # of those
        self._refused: list[int] = []
        self._returned: list[str] = []
        self._confirmed: asyncio.Future[None] | None = None

    async def send(self, parcels: Sequence[Parcel], kept: set[str] | None = None) -> Sent:
        """Send them; returns which are not kept, once the others are.

        ``kept`` takes the ids of those that are known to be, also when this raises.

        Raises:
            BrokerUnavailable: some may be kept; sending them again may store them twice.
            TooLarge: the server takes none of these. Others may be kept, likewise.
        """
        if not parcels:
            return NONE_MISSING
        async with self._turn:
            try:
                async with deadline(CALL_TIMEOUT):
                    return await self._send(parcels, set[str]() if kept is None else kept)
            except ChannelClosed as error:
                if found := _TOO_LARGE.search(str(error)):
                    limit = int(found[1])
                    sizes = {each.id: len(each.body) for each in parcels if len(each.body) > limit}
                    raise TooLarge(sizes, limit) from error
                raise self._connector.gone(error) from error
            except OSError as error:
                raise self._connector.gone(error) from error

    async def _send(self, parcels: Sequence[Parcel], kept: set[str]) -> Sent:
        channel = await self._ready()
        if channel.wire.blocked:
            await anyio.lowlevel.checkpoint()  # who tries again and again lets us hear of the end
            raise _no_room(channel.wire)
        size = channel.wire.frame_max
        data = b"".join([frames(parcel, channel.number, size) for parcel in parcels])
        first = self._tag + 1
        self._tag += len(parcels)
        self._lowest, self._unconfirmed = first, set(range(first, self._tag + 1))
        self._refused, self._returned = [], []
        confirmed = self._confirmed = channel.wire.loop.create_future()
        channel.send(data)
        try:
            await self._until_confirmed(channel, confirmed, DOUBT + len(data) / SLOWEST)
        except BaseException:
            self._confirmed = None
            if not channel.wire.blocked and channel.closed is None:
                self.close()  # a confirm that comes late is nobody's, and none may ever come
            raise
        finally:
            self._confirmed = None
            missing = {*self._unconfirmed, *self._refused}
            kept.update(
                parcel.id
                for tag, parcel in enumerate(parcels, first)
                if tag not in missing and parcel.id not in self._returned
            )
        if not self._refused and not self._returned:
            return NONE_MISSING
        return Sent(self._returned, [parcels[tag - first].id for tag in self._refused])

    async def _until_confirmed(
        self, channel: Channel, confirmed: "asyncio.Future[None]", patience: float
    ) -> None:
        """Wait for as long as the server shows that it is there: a slow disk is no reason to go.

        Nor is a server that stands still: what it has not confirmed it does later, and what is sent
        twice may run twice. Only while it answers others is it our connection that is dead.

        Raises:
            TimeoutError: it is.
            OSError: the server is not there.
        """
        while not (await asyncio.wait([confirmed], timeout=patience))[0]:
            if channel.wire.blocked:
                continue
            try:
                async with deadline(PROBE_TIMEOUT):
                    await channel.call(amqp.Basic.Qos(0, 0, False))  # changes nothing here
            except TimeoutError:
                await self._connector.reach()
                if not (await asyncio.wait([confirmed], timeout=LAST_PATIENCE))[0]:
                    raise
        confirmed.result()

    async def _ready(self) -> Channel:
        if self._channel is None or self._channel.closed is not None:
            wire = await self._connector.wire()
            channel = await wire.open_channel()
            await channel.call(amqp.Confirm.Select())
            channel.on_confirm, channel.on_return = self._on_confirm, self._on_return
            channel.on_close = self._on_close
            wire.on_blocked = lambda: wire.loop.call_later(BLOCKED_PATIENCE, self._give_up, wire)
            self._channel, self._tag = channel, 0
        return self._channel

    def close(self) -> None:
        self._connector.close()

    def _on_return(self, content: Content) -> None:
        self._returned.append(id_of(content))

    def _on_confirm(self, tag: int, all_before: bool, taken: bool) -> None:
        open_ = self._unconfirmed
        tags = range(self._lowest, tag + 1) if all_before else (tag,)
        for one in tags:
            if one in open_:
                open_.remove(one)
                if not taken:
                    self._refused.append(one)
        if all_before:
            self._lowest = tag + 1
        if not open_ and self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(None)

    def _give_up(self, wire: Wire) -> None:
        """Tell who waits that the server still takes nothing."""
        if wire.blocked and self._channel is not None and self._channel.wire is wire:
            self._on_close(_no_room(wire))

    def _on_close(self, why: Exception) -> None:
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_exception(why)


def _no_room(wire: Wire) -> OSError:
    return OSError(f"RabbitMQ takes no messages now: {wire.blocked}")
