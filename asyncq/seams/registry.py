"""The registry seam: small entries that many read and few change, each by compare-and-set.

An entry is a kind, a name, bytes, and maybe a moment at which it ends: a schedule, a worker that is
there, a mark. Each kind counts its changes, from 1 on and without end, and an entry's version is
the number of the change that wrote it. So versions only grow, and none comes twice, also of a name
that was removed or has ended and is written again.

Who wants to know of changes reads `changes_of` the kind, a topic (`asyncq.seams.topics`): each
change is appended to it in the same atomic step, at ``Place(EPOCH, number)``, and who listens there
is woken. Its numbers leave none out. It is a history of some length only, so a reader

- listens first, lists all pages then, and reads on behind the ``changes`` of the *first* page;
- takes an entry from a change, or from `Registry.get`, only if it has a later version than what the
  reader has; a change that says 0 removes what is older than its place;
- lists anew when a number is missing, or when the topic says nothing for long: a page tells how
  many changes there were, and whatever the reader has not heard of by then it has missed.

That an entry ends is no change, and nobody is told: a reader knows its end beforehand.

What a store keeps must not grow with the changes, nor with entries that have ended: whoever writes
removes a few of those. How long a change takes does not depend on how many there were. Bytes that
other hands have put into the store are no entry: they are left out, and written over by who puts
one with version 0.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from asyncq.language.effects import Append, Hold
from asyncq.language.message import UNREADABLE
from asyncq.seams.topics import Item

PAGE = 100
"""How many entries are listed at a time."""
EPOCH = 1
"""Of the places of all changes."""
MOST_CHANGES = 1000
"""How many changes of a kind are kept."""
KEEP_CHANGES = 3600.0
"""Seconds after the last change for which they are kept."""
CHANGES = "registry/"


def changes_of(kind: str) -> str:
    """The topic on which the changes of a kind are heard."""
    return CHANGES + kind


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An entry as it stands."""

    kind: str
    name: str
    version: int
    """The number of the change that wrote it."""
    data: bytes
    ends: float | None = None
    """Unix seconds, by the clock of the store; from then on there is none. None: it stays."""

    def has_ended(self, now: float) -> bool:
        return self.ends is not None and self.ends <= now


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an item of the topic says."""

    name: str
    version: int
    """Of the entry now, which is the number of the change; 0: it was removed."""


class Page(msgspec.Struct, frozen=True, gc=False):
    """Some of the entries of a kind, at one moment."""

    entries: Sequence[Entry]
    after: str
    """The name to read on after; empty: there are no others. (A page may have fewer entries than
    were asked for, even none, and others follow all the same.)"""
    changes: int
    """How many changes of the kind there have been."""


class Registry(Protocol):
    """Keeps the entries of one store: the backend's.

    A kind is a word of letters, digits and hyphens; a name any text but none at all, without NUL.
    Methods raise `BackendUnavailable` where the store does not answer.
    """

    async def put(
        self,
        kind: str,
        name: str,
        data: bytes,
        *,
        version: int,
        keep: float | None,
        holds: Sequence[Hold] = (),
    ) -> Entry | None:
        """Write an entry if this version of it stands (0: if there is none, or it has ended).

        It ends ``keep`` seconds from now, or never. Returns it as it is then, or None if another
        version stands: nothing was done. To lengthen an entry's time is to put it again.

        ``holds`` (a batch at most) are applied to the store's ledger in the same atomic step,
        exactly if the entry is written. What they release is unsent: the caller sends it (see
        `asyncq.seams.ledger`), and else `Ledger.due` finds it.

        Raises:
            BackendUnavailable: it may have been written. To call again is safe, and returns None if
                it was: then what stands has exactly these data, and a later version than was
                given. So data that two may want to write at once say who writes. Where others have
                changed it since, nobody can tell; its holds are applied then, or never will be by
                this call, and to apply holds of the same names again changes nothing.
            BackendError: it, or a hold, is larger than the store takes.
        """
        ...

    async def remove(self, kind: str, name: str, *, version: int | None) -> bool:
        """Remove an entry if this version of it stands; None: whatever stands.

        Returns whether there was one to remove. To call again is safe.
        """
        ...

    async def get(self, kind: str, names: Sequence[str]) -> Sequence[Entry | None]:
        """The entries of these names, None where there is none."""
        ...

    async def list(self, kind: str, *, after: str = "", limit: int = PAGE) -> Page:
        """Some of the entries, in the order of their names' UTF-8 bytes, behind a name."""
        ...


def change(kind: str, name: str, number: int, *, is_removed: bool = False) -> Append:
    """What is appended to the topic of a kind for its change of this number."""
    item = _encode(Change(name, 0 if is_removed else number))
    return Append(changes_of(kind), EPOCH, number, item, KEEP_CHANGES, MOST_CHANGES)


def read_change(item: Item) -> Change | None:
    """What an item of the topic says; None of what other hands wrote."""
    try:
        return _decode(item.data)
    except UNREADABLE:
        return None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Change).decode
