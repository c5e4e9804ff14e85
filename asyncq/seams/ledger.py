"""The ledger seam: latches, which hold messages until all that they wait for has ended.

A latch is a name with parts. Each part is pending, then failed, then ok, and never goes back; when
the last one is ok the latch releases what it holds. A chain is latches of one part, a chord a latch
of many, a node of a graph a latch of as many as it depends on, an outbox a latch of none.

What is held, and the values of the parts, lie here and in no queue. What was released is not sent
by the ledger: it is *unsent* until whoever has published it confirms that, page by page. There are
two *lines* of it, what was held and what is sent on failure, and neither waits for the other.

A latch that has something unsent has one *sender* at a time:

- who released it becomes its sender, and has `SENDER_AWAY` seconds. Each time that it asks for
  something `unsent`, or brings a part again, it has as many from then on (or a fifth less: a store
  need not write that down each time);
- who comes meanwhile is told nothing, and need do nothing: what is unsent is remembered here. That
  holds as well for who releases the other line meanwhile: the sender finds it;
- when the sender's time is over, who comes next is the sender: who brings a part, who asks for
  something unsent, and if nobody does, who is told so by `due`. A sender that comes back too late
  gets nothing any more, but may confirm what it has sent: that is true whoever says so;
- when nothing is unsent any more, it has none. Nor has what a registry released
  (`asyncq.seams.registry`): whoever comes first is its sender.

Apps that share a backend's store (and prefix) share its latches: each of their workers may become
the sender of what another app holds. So they must have brokers of the same names, that mean the
same. Who cannot send, as a broker is away from it alone or is none of its own, lets its time pass
and leaves it to others.

So a sender that dies is no loss, and costs its time and what it takes until somebody looks. What it
had published and not confirmed is published again, under the same ids.

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
SENDER_AWAY = 5.0
"""Seconds for which a sender may be silent until another sends what is unsent."""
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
    """A page of what a latch has released, in its order."""

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
    """Who is told is its sender now. Else it is open for long: do its parts have records?"""


class Missing(NamedTuple):
    """Some of the parts that a latch waits for, and where to read on."""

    ids: Sequence[tuple[str, str]]
    """The name of each part, and the id of its message."""
    cursor: str
    """Empty: there are no others."""


class Ledger(Protocol):
    """Keeps the latches of one store: the backend's.

    ``sender`` is a word that says who asks, a process say, and that nobody else ever is; it is not
    empty. Methods raise `BackendUnavailable` where the store does not answer; to call again is
    safe.
    """

    async def apply(self, effects: Sequence[Hold | Arrive], sender: str) -> Sequence[str]:
        """Carry these out in their order; one after the other, or all at once.

        Returns those of their latches whose sender this one is then.

        Raises:
            BackendError: one is larger than the store takes.
        """
        ...

    async def unsent(
        self, latch: str, sender: str, *, is_failure: bool, limit: int = PAGE
    ) -> Unsent | None:
        """The next of one line that nobody has confirmed; None: there is none, or another sends.

        The sender's time begins anew, also if all that is unsent is in the other line.
        """
        ...

    async def confirm(self, unsent: Unsent) -> None:
        """These are sent, and all before them in their line. To say so again changes nothing."""
        ...

    async def due(
        self, sender: str, limit: int = PAGE, *, lease: float = SENDER_AWAY
    ) -> Sequence[Due]:
        """Latches that somebody should look at, each told to one caller for so many seconds.

        Of what is unsent the caller is the sender then. A latch whose time is over fails here, and
        has unsent what it sends on failure.
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
