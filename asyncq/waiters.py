"""Waiting for outcomes: one subscription per client, whatever waits.

Records are pushed to the client's address. Pushing is best effort, so what is waited for is also
read: once where a push could have been missed before, again after a lost connection, and every few
seconds besides. Ids that another client sent are read alone, at growing intervals.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Sequence

import anyio

from asyncq.backends.base import Backend
from asyncq.errors import (
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    TaskError,
    TaskFailed,
    UnknownResult,
)
from asyncq.loggers import get_logger
from asyncq.message import Record, Status, Succeeded, new_id
from asyncq.policies import Retry

log = get_logger(__name__)

REREAD = 5.0  # seconds between two readings of everything that is waited for
FOREIGN = Retry(times=0, base=0.02, factor=1.5, ceiling=1.0, jitter=False)  # for others' ids
RECONNECT = Retry(times=0, base=0.05, ceiling=5.0)
LISTEN_TIMEOUT = 10.0  # seconds
READ_BATCH = 500
DEAD = "no worker ran it: its queue's dead letters have it, with the reason (asyncq dead list)"
RECENT = 2_000  # outcomes that came before anybody asked, kept at most
RECENT_SIZE = 4096  # bytes; a larger one is fetched when somebody asks

Locate = Callable[[Sequence[str]], Awaitable[Sequence[Status | None]]]


class Waiters:
    """Who waits for which outcome. One per client; runs in the client's task group."""

    def __init__(self, backend: Backend, locate: Locate) -> None:
        self.address = new_id()
        """The ``reply_to`` of what this client sends."""
        self.era = 0
        """Grows when pushes may have been missed; 0 until subscribed. What was sent and is waited
        for within one era needs no reading."""
        self._backend = backend
        self._locate = locate
        self._waiting: dict[str, list[asyncio.Future[Record]]] = defaultdict(list)
        self._foreign: set[str] = set()
        self._unread: set[str] = set()
        self._recent: OrderedDict[str, Record] = OrderedDict()
        self._wanted = asyncio.Event()
        self._to_read = asyncio.Event()
        self._closed = False
        self._listening = asyncio.Event()

    async def listen_at_once(self) -> None:
        """Begin to listen before anybody waits; returns once pushes come.

        Raises:
            BackendUnavailable: they did not in ``LISTEN_TIMEOUT`` seconds.
        """
        self._wanted.set()
        with anyio.move_on_after(LISTEN_TIMEOUT):
            await self._listening.wait()
            return
        raise BackendUnavailable(f"outcomes cannot be listened for after {LISTEN_TIMEOUT} s")

    def expect(self, id: str, era: int | None) -> "asyncio.Future[Record]":
        """A future for this id's record; cancel it when nobody waits any more.

        ``era`` is the one in which this client sent the message, None if it did not.
        """
        future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._wanted.set()
        if record := self._recent.pop(id, None):
            future.set_result(record)
            return future
        if self._closed:
            self._refuse(future)
            return future
        self._waiting[id].append(future)
        future.add_done_callback(lambda done: self._drop(id, done))
        if era is None:
            self._foreign.add(id)
        if era is None or era != self.era or era == 0:
            self._unread.add(id)
            self._to_read.set()
        return future

    def close(self) -> None:
        """Nothing comes any more: whoever waits, or begins to, hears of that."""
        self._closed = True
        for futures in list(self._waiting.values()):
            for future in list(futures):
                self._refuse(future)

    async def listen(self) -> None:
        """Take in pushes from the first time that somebody waits until cancelled."""
        await self._wanted.wait()
        failures = 0
        while True:
            try:
                async with self._backend.watch(self.address) as watch:
                    failures = 0
                    self._listening.set()
                    self._miss()
                    while True:
                        records = await watch.receive()
                        if not records:
                            self._miss()
                        for record in records:
                            self._resolve(record)
            except BackendUnavailable as error:
                if failures == 0:
                    log.warning("waiting for results is interrupted: %s", error)
                failures += 1
                await anyio.sleep(RECONNECT.pause(failures))

    async def read(self) -> None:
        """Read what must be read, until cancelled."""
        await self._wanted.wait()
        loop = asyncio.get_running_loop()
        polls, next_full = 1, loop.time() + REREAD
        while True:
            pause = min(FOREIGN.pause(polls), REREAD) if self._foreign else REREAD
            with anyio.move_on_after(pause):
                await self._to_read.wait()
            self._to_read.clear()
            new, self._unread = self._unread, set()
            polls = 1 if new & self._foreign else polls + 1
            full = loop.time() >= next_full
            ids = list(self._waiting) if full else list(new | self._foreign)
            try:
                await self._fetch([id for id in ids if id in self._waiting], full=full)
            except (BackendUnavailable, BrokerUnavailable) as error:
                log.debug("results were not read: %s", error)
            if full:
                next_full = loop.time() + REREAD

    async def _fetch(self, ids: Sequence[str], *, full: bool) -> None:
        for start in range(0, len(ids), READ_BATCH):
            batch = ids[start : start + READ_BATCH]
            # Asked before reading: a message that ends in between is found by the second.
            places = await self._locate(batch) if full else [Status.QUEUED] * len(batch)
            for id, record, place in zip(
                batch, await self._backend.fetch(batch), places, strict=True
            ):
                if record is not None:
                    self._resolve(record)
                elif place is None:
                    self._disappoint(id, UnknownResult(id))
                elif place is Status.FAILED:  # by its queue's bounds, so without a worker's word
                    self._disappoint(id, TaskFailed(id, "DeadLetter", DEAD))

    def _disappoint(self, id: str, error: TaskError) -> None:
        for future in list(self._waiting.get(id, ())):
            if not future.done():
                future.set_exception(error)

    def _resolve(self, record: Record) -> None:
        futures = self._waiting.get(record.id)
        if not futures:
            self._remember(record)
            return
        for future in list(futures):
            if not future.done():
                future.set_result(record)

    def _remember(self, record: Record) -> None:
        outcome = record.outcome
        if isinstance(outcome, Succeeded) and len(memoryview(outcome.value)) > RECENT_SIZE:
            self.era += 1
            return
        self._recent[record.id] = record
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
            self.era += 1

    def _refuse(self, future: "asyncio.Future[Record]") -> None:
        if not future.done():
            future.set_exception(
                ConfigurationError(
                    "the app is not connected any more: await results inside of 'async with app:'"
                )
            )

    def _miss(self) -> None:
        """Pushes may have been missed: read everything, and trust nothing sent before."""
        self.era += 1
        self._unread.update(self._waiting)
        self._to_read.set()

    def _drop(self, id: str, future: "asyncio.Future[Record]") -> None:
        futures = self._waiting.get(id, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiting.pop(id, None)
            self._foreign.discard(id)
            self._unread.discard(id)
