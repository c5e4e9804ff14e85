"""Releases: what latches have released is sent, by the worker that is their sender.

Nobody waits for a queue that is full or a broker that is away. The ledger remembers what is unsent
(`asyncq.seams.ledger` says whose that is), and this worker of which latches it is the sender.

A queue that is full would be as full for others: the sender of what waits for it remains that. A
broker that is away may be away from this worker alone, or be none of this app's: the sender *lets
go* of what waits for it. It does not ask for that until the broker may be asked again, and by then
others have had the time to become its sender.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

import anyio
import msgspec

from asyncq.errors import (
    AsyncqError,
    BackendUnavailable,
    ConfigurationError,
    QueueFull,
    Refused,
)
from asyncq.language.effects import Send
from asyncq.loggers import get_logger
from asyncq.seams.backend import Backend
from asyncq.seams.ledger import PAGE, SENDER_AWAY, Ledger, Unsent
from asyncq.texts import NAME_LIMIT, shown
from asyncq.worker.obstacles import Obstacles

log = get_logger(__name__)

LATER = 1.0  # seconds until what could not be sent is tried again
SOON = 0.1  # and in a worker that waits for nothing else
FULL = 0.5  # seconds for which a queue is not asked again that did not take what was released
AWAY = SENDER_AWAY + 5.0  # and a broker: the sender's time is over by then, and others have looked
UNKNOWN = 60.0  # and one that this app does not have
NO_ANSWER = 5.0  # and the backend
MOST_TRIED = 100  # latches that are tried again each time, the longest untried first
MOST_OWN = 300  # that wait for it: each has its turn before its sender's time is over
MOST_AT_ONCE = 4  # whose pages are in memory
BACKEND = "the backend"
BROKER = "broker "  # and its name: where what waits is let go

Publish = Callable[[Sequence[Send]], Sequence["asyncio.Future[None]"]]
Refuse = Callable[[Sequence[Send], Refused], Awaitable[None]]


class _NoSuchBroker(ConfigurationError):
    """The latches of a store are sent by each app that has it, and this one cannot."""


class _UnderWay(msgspec.Struct, eq=False):
    since: float  # when the ledger last heard of it: loop time
    ended: anyio.Event


class _Left(msgspec.Struct, eq=False):
    """Of what was to be sent."""

    ids: set[str] = set()
    places: set[str] = set()
    """What is in the way."""
    refused: list[tuple[Sequence[Send], Refused]] = []
    """What will never be sent."""


class Releases:
    """Those that one worker sends, of which it alone is ``sender``."""

    def __init__(
        self,
        backend: Backend,
        publish: Publish,
        refuse: Refuse,
        sender: str,
        *,
        is_eager: bool = False,
    ) -> None:
        self._backend = backend
        self._publish = publish
        self._refuse = refuse
        self._sender = sender
        self._is_eager = is_eager
        self.sent = 0
        """How many messages were taken."""
        self._under_way: dict[str, _UnderWay] = {}
        self._own: dict[str, set[str]] = {}  # latches to be tried again, and what was in the way
        self._trying_again: set[str] = set()
        self._turns = anyio.Semaphore(MOST_AT_ONCE)
        # Of the page of a line that is not confirmed, the ids that were taken: they may have run by
        # the time that the others are taken, and are not sent again.
        self._taken: dict[tuple[str, bool], set[str]] = {}
        self._obstacles = Obstacles()

    async def send(self, latch: str) -> None:
        """Try once to send all that it has released; what does not go is tried again by `run`.

        One caller after the other. What waits to be tried again goes on waiting.
        """
        while (other := self._under_way.get(latch)) is not None:
            await other.ended.wait()
        if latch not in self._own:
            await self._try(latch)

    def send_soon(self, latch: str) -> None:
        """Have `run` send what it has released."""
        self._own.setdefault(latch, set())

    @property
    def unsent(self) -> int:
        """How many latches have something that is not sent, as far as this worker knows."""
        return len(self._own.keys() | self._under_way.keys())

    @property
    def is_at_work(self) -> bool:
        """Whether this worker sends something, or will try to soon."""
        own = self._own.values()
        return bool(self._under_way) or not all(map(self._is_let_go, own))

    @property
    def let_go(self) -> bool:
        """Whether something waits for a broker, and is rather to be sent by others."""
        return any(map(self._is_let_go, self._own.values()))

    async def run(self) -> None:
        """As long as the worker runs: try again what did not go."""
        async with anyio.create_task_group() as group:
            while True:
                await anyio.sleep(SOON if self._is_eager else LATER)
                tried = (own for own, places in self._own.items() if not self._is_let_go(places))
                for latch in list(islice(tried, MOST_TRIED)):
                    if latch not in self._trying_again:
                        self._trying_again.add(latch)
                        group.start_soon(self._try_again, latch)
                await self._keep_time()
                self._obstacles.end(place for places in self._own.values() for place in places)

    def _is_let_go(self, places: set[str]) -> bool:
        """Whether a broker is among these that is not to be asked yet."""
        return not self._obstacles.are_asked(each for each in places if each.startswith(BROKER))

    async def _try_again(self, latch: str) -> None:
        try:
            async with self._turns:
                if latch in self._own and latch not in self._under_way:
                    await self._try(latch)
        finally:
            self._trying_again.discard(latch)

    async def _keep_time(self) -> None:
        """Remain the sender of what takes long to be sent."""
        if (ledger := self._backend.offers.ledger) is None:
            return
        long_ago = _now() - SENDER_AWAY / 4
        long = [(name, each) for name, each in self._under_way.items() if each.since < long_ago]
        for latch, under_way in long:
            under_way.since = _now()
            try:
                await ledger.unsent(latch, self._sender, is_failure=False, limit=1)
            except AsyncqError as error:
                self._no_backend(error)
                return
            # It must survive: `run` is what sends all that could not be sent at once.
            except Exception:
                log.exception("a workflow cannot be looked at while what it has released is sent")

    async def _try(self, latch: str) -> None:
        under_way = self._under_way[latch] = _UnderWay(_now(), anyio.Event())
        obstacles = set[str]()
        try:
            if (ledger := self._backend.offers.ledger) is not None:
                obstacles = await self._send_lines(ledger, latch)
        # It must survive. This one is due again.
        except Exception:
            log.exception("what a workflow has released cannot be sent")
        finally:
            del self._under_way[latch]
            under_way.ended.set()
            self._own.pop(latch, None)
            if obstacles and len(self._own) < MOST_OWN:
                self._own[latch] = obstacles
            else:
                for is_failure in (True, False):
                    self._taken.pop((latch, is_failure), None)

    async def _send_lines(self, ledger: Ledger, latch: str) -> set[str]:
        """Returns what is in the way; nothing: all is sent, or another has become its sender."""
        if self._obstacles.in_the_way(BACKEND):
            return {BACKEND}
        try:
            # On failure first: to that line nothing comes any more when the other is released. So
            # what is released before the last of it is confirmed is found here, and what is
            # released later, by whom it was.
            failed = await self._send_line(ledger, latch, is_failure=True)
            return failed | await self._send_line(ledger, latch, is_failure=False)
        except AsyncqError as error:
            self._no_backend(error)
            return {BACKEND}

    async def _send_line(self, ledger: Ledger, latch: str, *, is_failure: bool) -> set[str]:
        line = latch, is_failure
        while page := await ledger.unsent(latch, self._sender, is_failure=is_failure):
            self._obstacles.works(BACKEND)
            taken = self._taken.get(line, set())
            sends = [send for send in page.sends if send.envelope.id not in taken]
            left = await self._send([_from_now(send, page.released_at) for send in sends])
            done = self._taken[line] = {send.envelope.id for send in page.sends} - left.ids
            for refused, error in left.refused:
                await self._refuse(refused, error)
                ended = {send.envelope.id for send in refused}
                done |= ended
                left.ids -= ended
            if (sent := _sent(page, left.ids)) is not None:
                await ledger.confirm(sent)
            if left.ids:
                return left.places
            if page.stop - page.start < PAGE:
                break  # it was the last, as no line grows
        self._obstacles.works(BACKEND)
        self._taken.pop(line, None)
        return set()

    async def _send(self, sends: Sequence[Send]) -> _Left:
        """Publish; returns what was not taken and may be later."""
        queues: dict[tuple[str, str], list[Send]] = defaultdict(list)
        for send in sends:
            queues[send.broker, send.envelope.queue].append(send)
        left = _Left()
        if len(queues) == 1:  # as nearly always: a task group costs as much as all else here
            [(broker, queue)] = queues
            await self._send_to(BROKER + broker, f"queue {queue}", sends, left)
            return left
        async with anyio.create_task_group() as group:
            for (broker, queue), some in queues.items():
                group.start_soon(self._send_to, BROKER + broker, f"queue {queue}", some, left)
        return left

    async def _send_to(self, broker: str, queue: str, sends: Sequence[Send], left: _Left) -> None:
        ids = {send.envelope.id for send in sends}
        if (obstacle := self._obstacles.in_the_way(broker, queue)) is not None:
            left.ids |= ids
            left.places.add(obstacle)
            return
        try:
            for stored in self._begin_to_publish(sends):
                await stored
        except QueueFull as error:
            self._fails(queue, error, FULL)
            self._obstacles.works(broker)
            left.ids |= ids & error.envelope_ids
            left.places.add(queue)
            self.sent += len(ids - error.envelope_ids)
        except Refused as error:
            self._obstacles.works(broker, queue)
            refused = [send for send in sends if send.envelope.id in error.envelope_ids]
            left.refused.append((refused, error))
            left.ids |= ids
            left.places.add(queue)
        except AsyncqError as error:
            # Each that waits for it would take as long as publishing may.
            self._fails(broker, error, UNKNOWN if isinstance(error, _NoSuchBroker) else AWAY)
            self._obstacles.works(queue)
            left.ids |= ids
            left.places.add(broker)
        else:
            self._obstacles.works(broker, queue)
            self.sent += len(ids)

    def _begin_to_publish(self, sends: Sequence[Send]) -> Sequence["asyncio.Future[None]"]:
        """
        Raises:
            _NoSuchBroker: it is none of this app's, and nothing of this was sent.
        """
        try:
            return self._publish(sends)
        except ConfigurationError as error:
            raise _NoSuchBroker(
                "an app that shares this backend sends to a broker that this app does not have: "
                f"give this app a broker of the name {shown(sends[0].broker, NAME_LIMIT)!r}, or a "
                "backend (or a prefix) that it shares with none that has others"
            ) from error

    def _fails(self, place: str, error: AsyncqError, pause: float) -> None:
        what = f"what workflows have released is not sent to {place}"
        self._obstacles.fails(place, error, pause, what)

    def _no_backend(self, error: AsyncqError) -> None:
        """It does not answer; or has something of one latch that it cannot give."""
        what = f"what workflows have released is not read from {BACKEND}"
        pause = NO_ANSWER if isinstance(error, BackendUnavailable) else 0.0
        self._obstacles.fails(BACKEND, error, pause, what)


def _sent(page: Unsent, left: set[str]) -> Unsent | None:
    """What of a page is sent, up to the first that is left; None: nothing."""
    ids = [send.envelope.id for send in page.sends]
    first = next((at for at, id in enumerate(ids) if id in left), None)
    if first is None:
        return page
    return msgspec.structs.replace(page, stop=page.start + first) if first else None


def _from_now(send: Send, released_at: float) -> Send:
    """What was held counts its times from its release."""
    envelope = send.envelope
    if envelope.eta is None and envelope.expires is None:
        return send
    eta = None if envelope.eta is None else released_at + envelope.eta
    expires = None if envelope.expires is None else released_at + envelope.expires
    return Send(msgspec.structs.replace(envelope, eta=eta, expires=expires), send.broker)


def _now() -> float:
    return asyncio.get_running_loop().time()
