"""Publishing: envelopes from many callers become few calls to the broker.

Batches are natural, never timed: what is there is sent at once, and what comes while a send is
under way goes with the next one.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

import anyio
import msgspec

from asyncq.errors import BrokerUnavailable, Refused
from asyncq.language.envelope import Envelope
from asyncq.outages import Outage
from asyncq.seams.broker import MAX_BATCH, Broker


class _Waiting(msgspec.Struct, eq=False):
    envelopes: Sequence[Envelope]
    stored: "asyncio.Future[None]"
    give_up: float  # loop time


class Publisher:
    """Sends envelopes until the broker has them, or their time is up."""

    def __init__(self, broker: Broker, timeout: float) -> None:
        self._broker = broker
        self._timeout = timeout
        self._pending: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._closed: BaseException | None = None
        self._outage = Outage("publishing is interrupted", "publishing goes on")
        self._loop = asyncio.get_running_loop()  # to ask for it takes a system call

    def submit(self, envelopes: Sequence[Envelope]) -> "asyncio.Future[None]":
        """A future that is done once the broker keeps all of these, at most a batch.

        It ends in `BrokerUnavailable` if that took longer than the publish time-out (they may have
        been stored), and in `Refused` for one that the broker will never take.
        """
        loop = self._loop
        stored: asyncio.Future[None] = loop.create_future()
        if self._closed is not None:
            stored.set_exception(self._closed)
            return stored
        self._pending.append(_Waiting(envelopes, stored, loop.time() + self._timeout))
        self._news.set()
        return stored

    async def run(self) -> None:
        """Send what was submitted, until cancelled; whoever cancels it knows why, and closes it."""
        while True:
            if not self._pending:
                self._news.clear()
                await self._news.wait()
            if pause := await self._send(self._next_batch()):
                await anyio.sleep(pause)

    def close(self, failure: BaseException | None = None) -> None:
        """Nothing is sent any more: whoever waits, or begins to, hears of that, and why."""
        if self._closed is None:
            self._closed = failure or BrokerUnavailable("the app was closed")
            why = failure or BrokerUnavailable("the app was closed before the broker had answered")
            for waiting in self._pending:
                if not waiting.stored.done():
                    waiting.stored.set_exception(why)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        room = MAX_BATCH
        while self._pending and len(self._pending[0].envelopes) <= room:
            waiting = self._pending.popleft()
            if not waiting.stored.done():
                batch.append(waiting)
                room -= len(waiting.envelopes)
        return batch

    async def _send(self, batch: list[_Waiting]) -> float:
        """Returns the seconds to wait for the broker, if it is away."""
        if not batch:
            return 0.0
        parts = [batch]  # the next one last
        while parts:
            part = parts.pop()
            try:
                await self._publish([e for waiting in part for e in waiting.envelopes])
            except BrokerUnavailable as error:
                if error.envelope_ids:
                    _release([w for w in part if not _is_among(w, error.envelope_ids)])
                self._keep([*parts, part], error)
                return self._outage.fail(error)
            # A component that must survive: what a driver raises is for its callers to hear, and no
            # reason to end what else the app does.
            except Exception as error:  # noqa: BLE001
                parts += _blame(part, error)
            except BaseException:
                self._keep([*parts, part])
                raise
            else:
                _release(part)
        if self._outage.error is not None:
            self._outage.end()
        return 0.0

    async def _publish(self, envelopes: Sequence[Envelope]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._broker.publish(envelopes)
        except TimeoutError as error:
            silence, reason = f"no answer from the broker in {self._timeout} s", self._outage.error
            if reason is not None:  # it may have said before what is wrong, and that explains more
                said = str(reason)
                silence = said if said.startswith(silence) else f"{silence}; before that: {said}"
            raise BrokerUnavailable(silence) from error

    def _keep(self, parts: list[list[_Waiting]], error: BrokerUnavailable | None = None) -> None:
        """Put these back at the head, the last of them first; whose time is up hears the error."""
        now = self._loop.time()
        for waiting in (waiting for part in parts for waiting in reversed(part)):
            if waiting.stored.done():
                continue
            if error is not None and now > waiting.give_up:
                waiting.stored.set_exception(error)
            else:
                self._pending.appendleft(waiting)


def _blame(batch: list[_Waiting], error: Exception) -> list[list[_Waiting]]:
    """Tell those at fault, as far as that is known; the others are to be sent again, last first.

    An error that names no envelope may still be over one of them: each half is tried by itself,
    down to the caller that it is about, and nobody else hears of it.
    """
    ids = error.envelope_ids if isinstance(error, Refused) else frozenset[str]()
    guilty = [waiting for waiting in batch if _is_among(waiting, ids)]
    if len(batch) == 1:
        guilty = batch
    for waiting in guilty:
        if not waiting.stored.done():
            waiting.stored.set_exception(error)
    others = [waiting for waiting in batch if not waiting.stored.done()]
    if guilty:
        return [others] if others else []
    middle = len(others) // 2
    return [half for half in (others[middle:], others[:middle]) if half]


def _release(batch: list[_Waiting]) -> None:
    for waiting in batch:
        if not waiting.stored.done():
            waiting.stored.set_result(None)


def _is_among(waiting: _Waiting, ids: frozenset[str]) -> bool:
    return any(envelope.id in ids for envelope in waiting.envelopes)
