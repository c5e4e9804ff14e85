"""The burst: a worker that stops by itself once its queues are empty."""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress

import anyio

from asyncq.errors import AsyncqError
from asyncq.seams.broker import Broker
from asyncq.texts import counted
from asyncq.worker.completer import Completer
from asyncq.worker.pool import Slots

LOOK_TIMEOUT = 2.0  # seconds to find out what is left


class Burst:
    """Tells the consumers of one worker when all of them are done.

    One alone cannot know: what another finds may send something to its queue.
    """

    def __init__(self, lines: int, slots: Slots) -> None:
        self._lines = lines
        """How many consumers there are."""
        self.completers: list[Completer] = []
        """All that ever settled something for these lines."""
        self._slots = slots
        self._quiet: dict[Hashable, tuple[int, int]] = {}  # line: progress, as it found nothing
        self._is_over = False

    async def is_over(self, line: Hashable) -> bool:
        """Say that this consumer found nothing while nothing ran, and wait for the others.

        True once all have found nothing since something was started, or settled, for the last
        time; False after another time: look again.
        """
        slots = self._slots
        seen = self._quiet[line] = self._progress
        self._is_over = set(self._quiet.values()) == {seen} and len(self._quiet) == self._lines
        slots.changed.set()
        while not self._is_over and self._progress == seen:
            slots.changed.clear()
            await slots.changed.wait()
        return self._is_over

    @property
    def _progress(self) -> tuple[int, int]:
        """How much was started and settled: what follows from an end is sent by then."""
        return self._slots.started, sum(each.settled for each in self.completers)


async def what_waits(
    brokers: Mapping[str, Broker], queues: Mapping[str, Sequence[str]], now: float
) -> str:
    """What a burst that is over leaves in its queues; empty where that is nothing, or unknown.

    ``queues`` are the worker's, by the names of their ``brokers``. What is delayed cannot be
    counted by every broker (RabbitMQ).
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
    if ready:
        said.append(f"{counted(ready, 'message waits', 'messages wait')} all the same")
    if delayed:
        when = f", the next is due in {max(min(due) - now, 0.0):.1f} s" if due else ""
        said.append(f"{counted(delayed, 'message is delayed', 'messages are delayed')}{when}")
    return ", ".join(said)
