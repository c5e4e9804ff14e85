"""Expectations: who waits for an outcome, as the client's waiters know them."""

from abc import ABC, abstractmethod
from typing import Protocol

from asyncq.client.arrivals import Batch
from asyncq.language.message import Record


class Waited(Protocol):
    """Where an expectation waits."""

    def leave(self, expectation: "Expectation", /) -> None: ...


class Expectation(ABC):
    """Somebody waits for one outcome.

    It is told once, at once, and in the client's event loop. Where many are waited for, a future
    for each would cost more than all else that is done for it.
    """

    __slots__ = ("at", "id", "sent")

    def __init__(self, id: str, sent: Batch | None) -> None:
        self.id = id
        self.sent = sent
        """The batch in which this client sent the message; None if it did not."""
        self.at: Waited | None = None
        """Where it waits, as long as it does."""

    @abstractmethod
    def meet(self, record: Record) -> None:
        """This is how it ended."""

    @abstractmethod
    def disappoint(self, error: BaseException) -> None:
        """It will not come, and this is why."""

    def leave(self) -> None:
        """Wait no more."""
        if self.at is not None:
            self.at.leave(self)
