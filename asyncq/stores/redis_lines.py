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

from asyncq.stores.redis_wire import Wire

CONNECT_TIMEOUT = 5.0  # seconds
TRY_EVERY = 0.5  # seconds between two tries to connect; the earlier ones go on
LATE = 0.3  # seconds for an answer that was under way when the server answered elsewhere
SILENCE = 1.0  # seconds without a byte; so long does no answer pause that is on its way


class Lines:
    """Opens connections to one server, and gives the silent ones up."""

    def __init__(self, make: Callable[[], aioredis.Connection]) -> None:
        self._make = make
        self._turn = anyio.Lock(fast_acquire=True)
        self._wires: WeakSet[Wire] = WeakSet()

    async def open(self) -> Wire:
        """A connection on which the server has answered.

        One link at a time tries for all, again and again: a try that began while the network was
        down may hang long after it is up.

        Raises:
            OSError, RedisError: nobody answered, or said no.
        """
        with anyio.fail_after(CONNECT_TIMEOUT):
            async with self._turn:
                wire = Wire(await self._connect())
        self._wires.add(wire)
        return wire

    async def decide(self, doubted: Wire) -> None:
        """Close the doubted connection once the server answers on another, and not there.

        The other one is closed as well: whoever asked must know that it has to begin anew.
        """
        while doubted.is_open:
            with suppress(OSError, exceptions.RedisError):
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

    async def _connect(self) -> aioredis.Connection:
        opened: list[aioredis.Connection] = []
        refusals: list[Exception] = []
        ended = anyio.Event()

        async def try_once() -> None:
            connection = self._make()
            try:
                await connection.connect()
                opened.append(connection)
            except (OSError, exceptions.RedisError) as error:
                refusals.append(error)
            finally:
                if connection not in opened:
                    await connection.disconnect(nowait=True)
                ended.set()

        try:
            async with anyio.create_task_group() as tries:
                while not ended.is_set():
                    tries.start_soon(try_once)
                    with anyio.move_on_after(TRY_EVERY):
                        await ended.wait()
                tries.cancel_scope.cancel()
            if opened:
                return opened.pop()
            raise refusals[0]
        finally:
            for connection in opened:
                await connection.disconnect(nowait=True)
