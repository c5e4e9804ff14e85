"""Fetching a queue's suspects: what outlived a worker, as many as the quarantine has room for.

They are in a queue of their own, and nothing of it is pushed: a consumer looks there now and then
while its worker may have some, and takes those that may run beside what it has.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

import anyio
import pamqp.commands as amqp

from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.aftermath import Aftermath
from asyncq.drivers.rabbitmq.parcels import Received, unwrap
from asyncq.drivers.rabbitmq.wire import Ask, Content
from asyncq.seams.broker import Delivery, Lease
from asyncq.seams.quarantine import NO_ADMISSION, Admission

LOOK = 0.25  # seconds between two looks for suspects
MOST_FETCHED = 20  # at a time


class Hands(Protocol):
    """What the consumer that fetches them has in hand, with what it was pushed."""

    async def set_aside(self, deliveries: Sequence[Received]) -> None:
        """Put them behind the other suspects."""
        ...

    def hold(self, fetched: Sequence[Received]) -> None:
        """Note them among what is unsettled."""
        ...


class Suspects:
    """Those of one queue that one consumer has in hand, and when it looks for others."""

    def __init__(self, queue: str, lease: Lease, ask: Ask, hands: Hands) -> None:
        self._queue = queue
        self._quarantine = lease.quarantine
        self._ask = ask
        self._hands = hands
        self._aftermath = Aftermath(
            names.suspects(queue), lease.quarantine.losses(names.suspects(queue))
        )
        self._loop = asyncio.get_running_loop()
        self._fetched: dict[int, Received] = {}  # those that nobody was handed yet
        self._tags: set[int] = set()  # of those in the quarantine
        self._next_look = 0.0  # loop time
        self.are_being_fetched = False
        """One may have come whose tag is not known yet."""

    def __contains__(self, tag: int) -> bool:
        return tag in self._tags or tag in self._fetched

    def begin(self, linger: float) -> None:
        """They may be fetched from now on; ``linger`` as in `Aftermath.begin`."""
        self._aftermath.begin(linger)

    @property
    def unseen(self) -> Iterable[Received]:
        """Those that were fetched and not handed to anybody."""
        return self._fetched.values()

    @property
    def are_due(self) -> bool:
        """Whether to look for some without waiting for anything."""
        return not self._next_look

    def look_again(self) -> None:
        """There are others: look for them at once."""
        self._next_look = 0.0

    async def take(self, limit: int) -> list[Delivery]:
        """Suspects that there is room for in the quarantine, if it is time to look."""
        found = list[Received]()
        if limit <= 0 or self._loop.time() < self._next_look:
            return []
        admission = self._quarantine.reserve()
        if admission == NO_ADMISSION:
            return []
        self.are_being_fetched = True
        try:
            # Shielded: what was fetched and is not heard of would be in nobody's hands as long as
            # we live. It ends: what is asked has a deadline.
            with anyio.CancelScope(shield=True):
                found = await self._fetch(limit, admission)
        finally:
            self.are_being_fetched = False
            self._tags.update(item.tag for item in found)
            self._quarantine.occupy(admission, [item.crashes for item in found])
        return [
            Delivery(
                envelope=item.envelope,
                crashes=item.crashes,
                suspect=True,
                again=True,
                token=(self._hands, item.tag),
            )
            for item in found
        ]

    def settle(self, tags: Sequence[int]) -> bool:
        """These deliveries ended; returns whether that makes room for others in the quarantine."""
        for tag in tags:
            self._fetched.pop(tag, None)
        leaving = self._tags.intersection(tags)
        self._tags -= leaving
        return self._leave_quarantine(len(leaving))

    def leave(self) -> None:
        """Nothing is in hand any more."""
        self._fetched.clear()
        self._leave_quarantine(len(self._tags))
        self._tags.clear()

    async def _fetch(self, limit: int, admission: Admission) -> list[Received]:
        """Fetch suspects while they fit; what does not goes behind the others."""
        wanted = 1  # whether others may come beside the first is known when it is here
        while True:
            is_dry = await self._get(wanted) < wanted
            fits, others = self._sort(limit, admission)
            if is_dry or others or len(fits) == limit or fits[-1].crashes >= admission.together:
                break
            wanted = min(limit - len(fits), MOST_FETCHED)
        lost = any(item.redelivered for item in others)
        if others:
            await self._hands.set_aside(others)
        for item in fits:
            del self._fetched[item.tag]
        self._next_look = self._loop.time() + LOOK if (is_dry or others) and not lost else 0.0
        return fits

    async def _get(self, count: int) -> int:
        """Fetch up to so many of the queue's suspects; returns how many there were."""
        question = amqp.Basic.Get(queue=names.suspects(self._queue))
        answers = await self._ask(*[question] * count)
        contents = [answer for answer in answers if isinstance(answer, Content)]
        came = [unwrap(content, self._queue) for content in contents]
        if not self._aftermath.is_over:
            came = [self._aftermath.judge(*each) for each in zip(came, contents, strict=True)]
            if len(came) < count:
                self._aftermath.see_new()
        self._fetched |= {item.tag: item for item in came}
        self._hands.hold(came)
        return len(came)

    def _sort(self, limit: int, admission: Admission) -> tuple[list[Received], list[Received]]:
        """What was fetched: those that there is room for, and the others."""
        fits: list[Received] = []
        others: list[Received] = []
        for item in self._fetched.values():
            is_joinable = not fits or fits[-1].crashes < admission.together
            may_come = item.crashes < admission.together or (admission.alone and not fits)
            if not item.redelivered and is_joinable and may_come and len(fits) < limit:
                fits.append(item)
            else:
                others.append(item)
        return fits, others

    def _leave_quarantine(self, count: int) -> bool:
        self._quarantine.leave(count)
        if not count or not self._quarantine.is_empty:
            return False
        self.look_again()
        return True
