"""Whether a message that was delivered before says that a worker died.

Where the connection is the lease, a server that dies takes every lease with it. What was in hand
then comes again, as if each of its workers had died; and while the server dies again and again, the
same messages are in hand each time. But a worker that asks lives.
"""

import math
from collections.abc import Mapping

SETTLED_AFTER = 5.0  # seconds; sooner, what is new may be delivered before what comes again
MOST_IN_A_ROW = 10  # times that a message is spared: one that kills the server must come to an end


class Losses:
    """What one worker knows of one queue whose connection it has lost, more than once perhaps.

    A message that comes again is spared (nobody died with it)

    - if this worker held it when it lost its connection: once for each loss;
    - if any worker held it then, as far as can be told. What comes again comes before what is new:
      until something new comes, all of it was in hand when the server went, or its worker died
      shortly before or after. So the server says how often a message came again: if that is more
      often than this worker has lost its connection, a worker died.

    So a message that kills its worker runs as often as it would have, and once more for each time
    that the server died; and who saw nothing of that spares nothing.
    """

    def __init__(self) -> None:
        self._number = 0  # of losses
        self._in_flight: dict[str, int] = {}  # id: how often in a row, should it come again
        self._may_be_returned = False  # what comes again, whoever had it
        self._back_at = math.inf
        self._linger = 0.0
        self.spared = 0
        """Messages, since the last loss."""

    @property
    def are_over(self) -> bool:
        """Whether all that was in hand when the connection was lost has come again, or will not."""
        return not self._may_be_returned and not self._in_flight

    def lose(self, in_flight: Mapping[str, int], most: int) -> None:
        """The connection is lost, and these were in hand; with how often each was spared before.

        ``most`` are remembered, with what was held before and has not come again.
        """
        self._number += 1
        before = {id: times for id, times in self._in_flight.items() if id not in in_flight}
        self._in_flight = before | {id: times + 1 for id, times in in_flight.items()}
        for id in list(self._in_flight)[: max(len(self._in_flight) - most, 0)]:
            del self._in_flight[id]
        self._may_be_returned = True
        self._back_at = math.inf
        self.spared = 0

    def come_back(self, now: float, linger: float) -> None:
        """Connected again, at this moment (seconds).

        ``linger``: how many seconds the server may take the old connection for alive, whose
        messages come again after new ones then.
        """
        if self._back_at == math.inf:
            self._back_at, self._linger = now, linger

    def spare(self, id: str, returns: int) -> int:
        """How often in a row this message is spared now that it comes again; 0: a worker died.

        ``returns``: how often it did so, as the server counts; 0 if it does not.
        """
        times = self._in_flight.pop(id, 0)
        if not times and self._may_be_returned and returns <= self._number:
            times = 1
        if times > MOST_IN_A_ROW:
            return 0
        self.spared += times > 0
        return times

    def see_new(self, now: float) -> bool:
        """Something came for the first time, or nothing at all though it could: nothing waits to
        come again. Returns whether this is news."""
        since = now - self._back_at
        if since >= self._linger:
            self._in_flight.clear()
        if not self._may_be_returned or since < SETTLED_AFTER:
            return False
        self._may_be_returned = False
        return True
