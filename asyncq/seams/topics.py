"""The topics seam: short histories that one writes and many read, late or as they come.

A topic is a name with items in an order that their writer has chosen: by epoch, then by number.
What comes later than all that is there is appended; anything else is there already (a reply was
lost) or of a run that was overtaken (a zombie's), and nothing happens. The first item of a later
epoch takes the place of all that was there.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec

from asyncq.language.effects import Append

PROGRESS = "progress/"
MOST_PROGRESS = 100
"""How many of what a task has said of its progress are kept."""


def progress_of(id: str) -> str:
    """The topic in which the task of this message says how far it is."""
    return PROGRESS + id


class Place(NamedTuple):
    """Where an item stands in its topic; those of a later run are greater."""

    epoch: int
    number: int


class Item(msgspec.Struct, frozen=True, gc=False):
    """An item as it is read."""

    place: Place
    data: bytes


class Ear(Protocol):
    """Somebody who listens to one topic."""

    async def wait(self) -> None:
        """Return when there may be something that was not there when this was last called.

        It may return early, and does so at least every few seconds: news that got lost cost time,
        never an item.

        Raises:
            BackendUnavailable: it hears nothing any more (a connection was lost): listen anew.
        """
        ...


class Topics(Protocol):
    """Keeps the topics of one store.

    Methods raise `BackendUnavailable` where the store does not answer; to call again is safe.
    """

    async def append(self, appends: Sequence[Append]) -> None:
        """Append what is later than all in its topic; of the rest nothing happens.

        A power cut may take back the last ones, where the store has others for its outcomes.

        Raises:
            BackendError: an item is larger than the store takes.
        """
        ...

    async def read(
        self, topic: str, *, after: Place | None = None, limit: int = 100
    ) -> Sequence[Item]:
        """The next items after a place, the earliest first; what gave way is left out."""
        ...

    async def last(self, topics: Sequence[str]) -> Sequence[Item | None]:
        """The last item of each, None where there is none."""
        ...

    async def forget_topics(self, topics: Sequence[str]) -> None:
        """Remove all items of these; who listens is not told."""
        ...

    def listen(self, topic: str) -> AbstractAsyncContextManager[Ear]:
        """Hear of what is appended; entered, nothing is missed."""
        ...
