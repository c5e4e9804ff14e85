"""The burst: a worker that stops by itself once its queues are empty."""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import anyio

from asyncq.errors import AsyncqError
from asyncq.seams.broker import Broker
from asyncq.texts import counted
from asyncq.worker.completer import Completer
from asyncq.worker.latches import Latches
from asyncq.worker.pool import Slots

LOOK_TIMEOUT = 2.0  # seconds to find out what is left
LOOK = 0.1  # seconds between two looks whether what was released is sent
PATIENCE = 10.0  # seconds to wait for that while nothing is sent or run


class _Progress(NamedTuple):
    """What a burst has done."""

    started: int
    """How many deliveries it ran."""
    settled: int
    """How often something was settled: what follows from it is sent by then."""
    sent: int
    """How many messages that workflows had released."""


NOTHING = _Progress(0, 0, 0)


class Burst:
    """Tells the consumers of one worker when all of them are done.

    One alone cannot know: what another finds may send something to its queue, as may what
    workflows release.
    """

    def __init__(self, lines: int, slots: Slots, latches: Latches) -> None:
        self._lines = lines
        """How many consumers there are."""
        self.completers: list[Completer] = []
        """All that ever settled something for these lines."""
        self._slots = slots
        self._latches = latches
        self._looked: dict[Hashable, _Progress] = {}  # line: all there was, before its last look
        self._quiet: dict[Hashable, _Progress] = {}  # line: all there was, as it found nothing
        self._last = self._progress
        self._last_at = 0.0  # loop time
        self._is_over = False

    async def is_over(self, line: Hashable) -> bool:
        """Say that this consumer found nothing while nothing ran, and wait for the others.

        True once all have found nothing since anything was started, settled or sent; False: look
        again.
        """
        seen = self._progress
        if self._looked.get(line, NOTHING) != seen:  # something may have come after the look
            self._looked[line] = seen
            return False
        self._quiet[line] = seen
        changed = self._slots.changed
        changed.set()
        while not self._is_over and self._progress == seen:
            if self._all_are_quiet() and not self._may_send():
                self._is_over = True
                changed.set()
                break
            changed.clear()
            with anyio.move_on_after(LOOK):
                await changed.wait()
        return self._is_over

    @property
    def _progress(self) -> _Progress:
        settled = sum(each.settled for each in self.completers)
        return _Progress(self._slots.started, settled, self._latches.sent)

    def _all_are_quiet(self) -> bool:
        return len(self._quiet) == self._lines and set(self._quiet.values()) == {self._progress}

    def _may_send(self) -> bool:
        """Whether something may be sent yet, and it has not been waited for in vain."""
        now = anyio.current_time()
        if self._last != self._progress or not self._last_at:
            self._last, self._last_at = self._progress, now
        return self._latches.is_at_work and now - self._last_at < PATIENCE


async def what_waits(
    brokers: Mapping[str, Broker], queues: Mapping[str, Sequence[str]], now: float, unsent: int
) -> str:
    """What a burst that is over leaves undone; empty where that is nothing, or unknown.

    ``queues`` are the worker's, by the names of their ``brokers``, and ``unsent`` is of how many
    workflows it could not send something. What is delayed cannot be counted by every broker
    (RabbitMQ).
    """
    ready = delayed = 0
    due: list[float] = []
    with anyio.move_on_after(LOOK_TIMEOUT), suppress(AsyncqError):
        for name, names in queues.items():
            offers = brokers[name].offers
            if offers.admin is None:
                continue
            for queue in names:
                depth = await offers.admin.depth(queue)
                ready += depth.ready
                delayed += depth.delayed or 0
                if depth.delayed and offers.finder is not None:
                    first = await offers.finder.peek(queue, limit=1, offset=depth.ready)
                    due += [each.due for each in first if each.due is not None]
    said: list[str] = []
    if unsent:
        has = counted(unsent, "workflow has", "workflows have")
        said.append(f"what {has} released is not sent")
    if ready:
        said.append(f"{counted(ready, 'message waits', 'messages wait')} all the same")
    if delayed:
        when = f", the next is due in {max(min(due) - now, 0.0):.1f} s" if due else ""
        said.append(f"{counted(delayed, 'message is delayed', 'messages are delayed')}{when}")
    return ", ".join(said)
