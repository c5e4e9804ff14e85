"""Obstacles: places that do not take what is sent, and when they are asked again."""

import asyncio
import math
from collections.abc import Iterable

import msgspec

from asyncq.outages import Outage

ALONE = 30.0  # seconds for which nobody else asks while one does
QUIET = 5.0  # seconds without a failure after which the log says that all is well again


class _Obstacle(msgspec.Struct, eq=False):
    outage: Outage
    failed_at: float = 0.0  # loop time, as is ``until``
    until: float = 0.0  # it is not asked before, and then by one alone; -inf: it has answered since


class Obstacles:
    """Queues, brokers and the like, by the words that the log has for them."""

    def __init__(self) -> None:
        self._found: dict[str, _Obstacle] = {}

    def in_the_way(self, *places: str) -> str | None:
        """One of these that is not to be asked now. None: ask all, and say what came of each."""
        now = _now()
        found = [(place, self._found[place]) for place in places if place in self._found]
        for place, obstacle in found:
            if obstacle.until > now:
                return place
        for _, obstacle in found:
            if obstacle.until != -math.inf:
                obstacle.until = now + ALONE
        return None

    def are_asked(self, places: Iterable[str]) -> bool:
        """Whether each of these may be asked now, as far as is known. This begins nothing."""
        now = _now()
        return all(
            (obstacle := self._found.get(place)) is None or obstacle.until <= now
            for place in places
        )

    def works(self, *places: str) -> None:
        """These have answered, or were not asked after all."""
        for place in places:
            if (obstacle := self._found.get(place)) is not None:
                obstacle.until = -math.inf

    def fails(self, place: str, error: BaseException, pause: float, what: str) -> None:
        """It is not asked again for so many seconds. ``what`` goes wrong: "tasks are not sent"."""
        if (obstacle := self._found.get(place)) is None:
            outage = Outage(what, what.replace(" not ", " ") + " again")
            obstacle = self._found[place] = _Obstacle(outage)
        obstacle.failed_at = _now()
        obstacle.until = obstacle.failed_at + pause
        obstacle.outage.fail(error)

    def end(self, waited_for: Iterable[str]) -> None:
        """Say of all but these that they work again, if they have answered.

        Not at once: they may be on the brink.
        """
        waiting = set(waited_for)
        quiet_since = _now() - QUIET
        for place, obstacle in list(self._found.items()):
            has_answered = obstacle.until == -math.inf
            if has_answered and place not in waiting and obstacle.failed_at <= quiet_since:
                del self._found[place]
                obstacle.outage.end()


def _now() -> float:
    return asyncio.get_running_loop().time()
