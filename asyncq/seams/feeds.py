"""Feeds: topics that are heard only.

What is pushed to a feed comes to everybody who is subscribed at that moment, in the order of who
pushed it, and is kept for nobody. Pushing is best effort: who cannot do without an item has another
way to learn of it, and is told when some may have been missed.

The outcomes that a client waits for are a feed. It has one subscriber, for whom a store may keep
for a moment what comes while he is cut off, and items of it are pushed by whoever stores a record.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from asyncq.language.record import Record
from asyncq.seams.records import BLOBS, RECORDS, ItemType

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

REPLY = "reply"


class Feed(Generic[T]):
    """One feed: what it is about, whose it is, and what its items are.

    Within one process an item may come as the object that was pushed: nobody changes it.
    """

    __slots__ = ("items", "key", "kind")

    def __init__(self, kind: str, key: str, items: ItemType[T]) -> None:
        self.kind = kind
        """A word without a slash."""
        self.key = key
        """At most 200 bytes, with the kind."""
        self.items = items

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.key}"

    @property
    def is_for_one(self) -> bool:
        """Whether it has one subscriber, who is known by its key."""
        return self.kind == REPLY


def replies_to(address: str) -> Feed[Record]:
    """The outcomes whose records have this ``reply_to``."""
    return Feed(REPLY, address, RECORDS)


WRITTEN_FOR_OTHERS = Feed("ends", "written-for-others", RECORDS)
"""Outcomes that somebody has stored who did not have the message, and knows no ``reply_to``."""


def feed_of_blobs(kind: str, key: str) -> Feed[bytes]:
    """A feed whose items are bytes."""
    return Feed(kind, key, BLOBS)


class Subscription(Protocol[T_co]):
    """One subscriber's ear at a feed."""

    async def receive(self) -> Sequence[T_co]:
        """Wait for the next items.

        An empty batch means that some may have been missed. What is pushed and is no item is left
        out, and logged.

        Raises:
            BackendUnavailable: it hears nothing any more (a connection was lost): subscribe anew.
        """
        ...
