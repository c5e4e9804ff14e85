"""Faults that a test has asked for, and that have not happened yet."""

from collections import deque


class Faults:
    """Told by `Run`, and carried out where each happens."""

    def __init__(self) -> None:
        self.publishing: deque[Exception] = deque()
        """What the next calls to enqueue raise."""
        self.storing: deque[Exception] = deque()
        """What the next attempts to store an outcome raise."""
        self.outcomes_to_lose = 0
        self.deliveries_to_repeat = 0

    def raise_for_publishing(self) -> None:
        if self.publishing:
            raise self.publishing.popleft()

    def raise_for_storing(self) -> None:
        if self.storing:
            raise self.storing.popleft()

    def takes_outcome(self) -> bool:
        """Whether the outcome at hand is to be lost."""
        is_lost = self.outcomes_to_lose > 0
        self.outcomes_to_lose -= is_lost
        return is_lost

    def repeats_delivery(self) -> bool:
        """Whether the delivery at hand is to come again."""
        is_repeated = self.deliveries_to_repeat > 0
        self.deliveries_to_repeat -= is_repeated
        return is_repeated
