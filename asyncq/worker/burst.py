"""The burst: a worker that stops by itself once its queues are empty."""

from collections.abc import Hashable

from asyncq.worker.pool import Slots


class Burst:
    """Tells the consumers of one worker when all of them are done.

    One alone cannot know: what another finds may send something to its queue.
    """

    def __init__(self, lines: int, slots: Slots) -> None:
        self._lines = lines
        """How many consumers there are."""
        self._slots = slots
        self._quiet: dict[Hashable, int] = {}  # line: deliveries ever started, as it found nothing
        self._is_over = False

    async def is_over(self, line: Hashable) -> bool:
        """Say that this consumer found nothing while nothing ran, and wait for the others.

        True once all have found nothing since the last start; False after another start: look
        again.
        """
        slots = self._slots
        seen = self._quiet[line] = slots.started
        if len(self._quiet) == self._lines and set(self._quiet.values()) == {seen}:
            self._is_over = True
            slots.changed.set()
        while not self._is_over and slots.started == seen:
            slots.changed.clear()
            await slots.changed.wait()
        return self._is_over
