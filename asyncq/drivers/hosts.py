"""The servers of one broker, of which one is used at a time, and how a connection to it is opened.

Where an app names several, they are tried in their order, when it connects and when the one in use
has not answered for a while. What this cannot do is move messages: those that wait in a server, and
their outcomes, stay there until somebody connects to it again. Whoever waits for such an outcome
meets `UnknownResult`. A message whose acknowledgement was lost with the server may be stored in
both, and run in both. Where the URLs are nodes of one cluster none of this matters; for Redis, use
its own replication (Sentinel), and a list for what is left.

Nobody goes back by itself to one that was given up: restart what runs to do that.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar
from weakref import WeakSet

import anyio

from asyncq.config import Url
from asyncq.errors import BrokerUnavailable, ConfigurationError
from asyncq.language.policies import Retry
from asyncq.language.topology import Queue
from asyncq.loggers import get_logger
from asyncq.seams.broker import Broker

log = get_logger(__name__)

CONNECT_TIMEOUT = 5.0  # seconds
TRY_EVERY = 0.5  # seconds between two tries; the earlier ones go on
PATIENCE = 2.0  # seconds the one in use may be away: a restart is no reason to leave it
SAME_OUTAGE = 10.0  # seconds without a failure after which the next is another outage
PROBE_TIMEOUT = 3.0  # seconds that another has to answer in
ROUNDS = 3  # through the list when the app connects
PAUSE = Retry(times=0, base=0.1, ceiling=1.0)  # between them; jittered


class Connection(Protocol):
    """What a driver has open to a server."""

    def close(self) -> object: ...


C = TypeVar("C", bound=Connection)


class Hosts:
    """Which server is in use; a broker and the backend beside it ask the same one of these.

    Drivers open all their connections by `connect`. What they knew of a server that is given up
    they forget when they are told (`on_move`), and its connections are closed: consumers lose their
    leases with it, and whoever listens has to begin anew.
    """

    def __init__(self, urls: Sequence[Url]) -> None:
        self.urls = tuple(urls)
        self.at = 0
        """Which of the URLs is in use."""
        self.moves = 0
        """How often one was given up for another."""
        self.declared: Sequence[Queue] = ()
        """What another has to have before it is used."""
        self.broker_at: Callable[[Url], Broker] | None = None
        """Makes the driver for one of the URLs alone."""
        self._on_move: list[Callable[[], None]] = []
        self._opened = WeakSet[Connection]()
        self._trying = anyio.Lock(fast_acquire=True)
        self._searching = anyio.Lock()
        self._away_since: float | None = None  # loop time
        self._failed_at = -math.inf

    @property
    def url(self) -> Url:
        """Of the one in use."""
        return self.urls[self.at]

    @property
    def _is_away(self) -> bool:
        """Nothing has been opened to it since that failed."""
        return self._away_since is not None

    def on_move(self, tell: Callable[[], None]) -> None:
        """Call this when another is in use, before the connections to the former are closed."""
        self._on_move.append(tell)

    async def choose(self) -> None:
        """Use the first that answers.

        Raises:
            BrokerUnavailable: none does.
            ConfigurationError: one does, and cannot be used.
        """
        if len(self.urls) == 1:
            return
        for attempt in range(1, ROUNDS + 1):
            for at in range(len(self.urls)):
                if await self._answers(at):
                    self.use(at)
                    return
            await anyio.sleep(PAUSE.pause(attempt))
        raise BrokerUnavailable(f"none of {', '.join(map(repr, self.urls))} answers")

    async def connect(self, open_one: Callable[[], Awaitable[C]]) -> C:
        """What ``open_one`` opens to the server in use: the first to succeed of several tries.

        Whoever asks, one at a time tries for all. A failure has looked around: after one of a
        server that stays away, the next call finds another in use.

        Raises:
            ConfigurationError: it refuses us; as ``open_one`` does.
            TimeoutError: no try came to an end in ``CONNECT_TIMEOUT``.
            Exception: whatever else ``open_one`` raises.
        """
        moves, began = self.moves, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT), self._trying:
                connection = await _first_to_connect(open_one)
        except ConfigurationError:
            raise
        except Exception:
            await self._look_around(moves, began)
            raise
        if moves != self.moves:
            connection.close()
            raise ConnectionResetError("this server was given up for another meanwhile")
        self._away_since = None
        self._opened.add(connection)
        return connection

    async def _look_around(self, moves: int, began: float) -> None:
        """After a failure to connect: if the one in use stays away, use the first that answers."""
        if len(self.urls) == 1:
            return
        now = asyncio.get_running_loop().time()
        if self._away_since is None or began - self._failed_at > SAME_OUTAGE:
            self._away_since = began
        self._failed_at = now
        if now - self._away_since < PATIENCE:
            return
        async with self._searching:
            for at in range(len(self.urls)):
                if moves != self.moves:
                    return  # somebody was first
                if at != self.at and await self._answers(at) and self._is_away:
                    log.warning(
                        "broker %r does not answer: going on with %r; messages in the former wait "
                        "there until it is back",
                        self.url,
                        self.urls[at],
                    )
                    self.use(at)

    async def _answers(self, at: int) -> bool:
        """Whether this one can be used, with all that is declared."""
        assert self.broker_at is not None  # noqa: S101 - a list is of a broker
        try:
            with anyio.fail_after(PROBE_TIMEOUT):
                async with self.broker_at(self.urls[at]) as broker:
                    await broker.declare(self.declared)
        except (BrokerUnavailable, TimeoutError) as error:
            log.debug("%r does not answer: %s", self.urls[at], error)
            return False
        return True

    def use(self, at: int) -> None:
        """Use this one from now on."""
        if at == self.at:
            return
        self.at, self._away_since = at, None
        self.moves += 1
        for tell in self._on_move:
            tell()
        opened, self._opened = self._opened, WeakSet[Connection]()
        for connection in opened:
            connection.close()


async def _first_to_connect(open_one: Callable[[], Awaitable[C]]) -> C:
    """The first connection to open, or the first refusal.

    A try that began while the network was down may hang long after it is up. Where several succeed
    at once, the others are closed; cancelled, ``open_one`` cleans up after itself.
    """
    opened: list[C] = []
    refusals: list[Exception] = []
    ended = anyio.Event()

    async def try_once() -> None:
        try:
            opened.append(await open_one())
        except Exception as error:  # noqa: BLE001 - for the caller, whatever it is
            refusals.append(error)
        finally:
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
            connection.close()
