"""Doubts: which of what is waited for may be nowhere, so that it would be waited for in vain."""

import asyncio

SURE = 1.0  # seconds for which what this client sent is nowhere, until it is known to be unknown
MOST_ABSENT = 10_000  # that are remembered


class Doubts:
    """Of one client. An id is in doubt, then looked for, then found or absent.

    What this client sent may be on its way to us at the moment when it is found nowhere, so it is
    looked for a second time. That it was absent is remembered also while nobody waits: who asks
    again and again, each time for a moment, is to hear of it as well.
    """

    def __init__(self) -> None:
        self._raised: set[str] = set()
        self._absent: dict[str, float] = {}  # and since which loop time that is known

    def raise_for(self, id: str) -> None:
        """Have this looked for with what is read next."""
        self._raised.add(id)

    def take(self) -> set[str]:
        """What is to be looked for."""
        raised, self._raised = self._raised, set()
        return raised

    def restore(self, ids: set[str]) -> None:
        """These could not be looked for."""
        self._raised |= ids

    def was_absent(self, id: str) -> bool:
        return id in self._absent

    def found(self, id: str) -> None:
        self._absent.pop(id, None)

    def is_surely_absent(self, id: str) -> bool:
        """It was found nowhere: whether it will not come any more."""
        now = asyncio.get_running_loop().time()
        if len(self._absent) >= MOST_ABSENT:
            self._absent.clear()
        if now - self._absent.setdefault(id, now) < SURE:
            return False
        del self._absent[id]
        return True
