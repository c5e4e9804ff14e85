"""The connections of a driver to one server: how they are opened, and when they count as dead.

A network that fails in silence leaves connections on which nobody answers, ever. A question that
stays without an answer is therefore a doubt about its connection, and another connection decides:
if the server answers there and not here, here is dead, and so may be whatever else is silent.
"""

from collections.abc import Callable
from contextlib import suppress
from weakref import WeakSet

import anyio
import redis.asyncio as aioredis
from redis import exceptions

from asyncq.drivers.hosts import TRY_EVERY, Hosts
from asyncq.drivers.redis.refusals import refusal_to_connect
from asyncq.drivers.redis.wire import Wire
from asyncq.errors import ConfigurationError

LATE = 0.3  # seconds for an answer that was under way when the server answered elsewhere
SILENCE = 1.0  # seconds without a byte; so long does no answer pause that is on its way


class Lines:
    """Opens connections to the server in use, and gives the silent ones up."""

    def __init__(self, hosts: Hosts, make: Callable[[], aioredis.Connection]) -> None:
        self._hosts = hosts
        self._make = make
        self._wires: WeakSet[Wire] = WeakSet()

    async def open(self) -> Wire:
        """A connection on which the server has answered.

        Raises:
            OSError, RedisError: nobody answered, or could serve us now.
            ConfigurationError: the server refuses us (password, rights, certificates).
        """
        wire = await self._hosts.connect(self._open)
        self._wires.add(wire)
        return wire

    async def decide(self, doubted: Wire) -> None:
        """Close the doubted connection once the server answers on another, and not there.

        The other one is closed as well: whoever asked must know that it has to begin anew.
        """
        while doubted.is_open:
            with suppress(OSError, exceptions.RedisError, ConfigurationError):
                wire = await self.open()
                try:
                    await anyio.sleep(LATE)
                finally:
                    wire.close()
                if doubted.silent_for() > SILENCE:
                    doubted.close()
            await anyio.sleep(TRY_EVERY)

    def give_up(self) -> None:
        """Close what is silent; the owners reconnect. Some may be well, and have nothing to say."""
        for wire in list(self._wires):
            if wire.is_open and wire.silent_for() > SILENCE:
                wire.close()

    async def _open(self) -> Wire:
        url, connection = self._hosts.url, self._make()
        try:
            await connection.connect()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, Exception) and (no := refusal_to_connect(url, error)) is not None:
                raise no from error
            raise
        return Wire(connection)
