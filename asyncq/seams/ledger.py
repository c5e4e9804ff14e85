"""The ledger seam: latches, which hold messages until all that they wait for has ended.

A latch is a name with parts. Each part is pending, then failed, then ok, and never goes back; when
the last one is ok the latch releases what it holds. A chain is latches of one part, a chord a latch
of many, a node of a graph a latch of as many as it depends on, an outbox a latch of none.

What is held, and the values of the parts, lie here and in no queue. What was released is not sent
by the ledger: it is *unsent* until whoever has published it confirms that. Normally that is who
brought the last part: `apply` returns the latches that have something unsent, also to who brings a
part for the second time. So a worker that dies in between is no loss: its message is not settled
yet, and the next one brings the part again. `due` finds what nobody is at work on any more.

What is applied twice, or late, changes nothing:

- the first `Hold` of a name stands, also when the latch has released and for as long after as it
  says (``keep``);
- an `Arrive` of a part that is ok, or failed as before, is ignored, and so is one at a latch that
  nobody knows, or whose time (``until``) is over;
- a part that nobody has named yet may arrive: it counts from when it is added. That is how a parent
  names its children at its own end, and never before: they may be quicker. Only a part that has not
  arrived may add others, so that what was complete never becomes incomplete again.

A part that failed may become ok (its message was sent again from the dead letters): the latch then
releases what it holds after all, though what is sent on failure has been sent.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from asyncq.language.effects import Arrive, Hold, Send

PAGE = 100
"""How many messages of a release are sent at a time."""
SENDER_AWAY = 15.0
"""Seconds after a release until somebody else than who caused it looks whether it is sent."""
FIRST_AUDIT, LONGEST_AUDIT = 60.0, 3600.0
"""Seconds for which a latch is open until somebody looks why; twice as long each time."""

PENDING, FAILED, OK = 0, 1, 2


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A part of a latch, or what arrived as one that may be added yet."""

    state: int = PENDING
    """`PENDING`, `FAILED` or `OK`."""
    is_member: bool = True
    value: bytes = b""
    adds: tuple[str, ...] = ()
    """Of one that has arrived and was not added yet: what it adds then."""


class LatchState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far a latch is."""

    missing: int
    """How many parts are pending."""
    failed: int
    is_released: bool
    """All have arrived: what it holds is sent, or being sent."""
    has_failed: bool
    """What is sent on failure is sent, or being sent. It may be released yet."""
    is_over: bool
    """Its time had passed before it was released."""
    unsent: int
    """How many messages were released and are not confirmed."""


class Unsent(msgspec.Struct, frozen=True, gc=False):
    """Some of what a latch has released, in its order."""

    latch: str
    is_failure: bool
    """It is from ``on_failure``."""
    start: int
    """The place of the first of these in what was held."""
    sends: Sequence[Send]
    released_at: float
    """Unix seconds: what their ``eta`` and ``expires`` count from."""
    stop: int
    """The place behind the last of these. (What other hands have spoiled is left out.)"""


class Due(NamedTuple):
    """A latch that somebody should look at."""

    latch: str
    has_unsent: bool
    """What it has released is to be sent. Else it is open for long: do its parts have records?"""


class Missing(NamedTuple):
    """Some of the parts that a latch waits for, and where to read on."""

    ids: Sequence[tuple[str, str]]
    """The name of each part, and the id of its message."""
    cursor: str
    """Empty: there are no others."""


class Ledger(Protocol):
    """Keeps the latches of one store: the backend's.

    Methods raise `BackendUnavailable` where the store does not answer; to call again is safe.
    """

    async def apply(self, effects: Sequence[Hold | Arrive]) -> Sequence[str]:
        """Carry these out in their order; one after the other, or all at once.

        Returns those of their latches that have something unsent.

        Raises:
            BackendError: one is larger than the store takes.
        """
        ...

    async def unsent(self, latch: str, limit: int = PAGE) -> Unsent | None:
        """The next of what it has released and nobody has confirmed; None if there is none."""
        ...

    async def confirm(self, unsent: Unsent) -> None:
        """These are sent."""
        ...

    async def due(self, limit: int = PAGE, *, lease: float = SENDER_AWAY) -> Sequence[Due]:
        """Latches that somebody should look at, each told to one caller for so many seconds.

        A latch whose time is over fails here, and has unsent what it sends on failure.
        """
        ...

    async def missing(self, latch: str, cursor: str = "", limit: int = PAGE) -> Missing:
        """Some of the parts that are pending, from the first or from a cursor on.

        Parts that are named by their number, of a latch without a ``root``, are left out: nobody
        knows their messages.
        """
        ...

    async def parts(self, latch: str, names: Sequence[str]) -> Sequence[Part | None]:
        """The parts of these names, None where nothing is known of one (a numbered part is known
        once it has arrived)."""
        ...

    async def look(self, latches: Sequence[str]) -> Sequence[LatchState | None]:
        """How far each is, None where there is none, or no more."""
        ...

    async def forget_latches(self, latches: Sequence[str]) -> None:
        """Remove these, with all that they hold."""
        ...
