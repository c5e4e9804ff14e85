"""What becomes of a latch when parts arrive: for stores that have it done by Python.

Redis does the same in ``latches.lua`` and ``latch_apply.lua``; `asyncq.seams.ledger` says what is
promised.
"""

from typing import NamedTuple, Protocol

import msgspec

from asyncq.language.effects import Arrive, Hold, Policy
from asyncq.language.message import derived_id
from asyncq.seams.ledger import (
    FAILED,
    FIRST_AUDIT,
    LONGEST_AUDIT,
    OK,
    PENDING,
    SENDER_AWAY,
    LatchState,
    Part,
    Unsent,
)

MOST_DIGITS = 15  # of the number of a part
SAME_MOMENT = 0.001  # seconds that two times may differ by
MOST_AUDITS = 30  # that are counted
NEVER = float("inf")


class Parts(Protocol):
    """The parts of one latch, where they lie."""

    def get(self, name: str, /) -> Part | None: ...

    def __setitem__(self, name: str, part: Part, /) -> None: ...


class Page(NamedTuple):
    """Some of what is released: places in what was held."""

    start: int
    stop: int
    released_at: float


class Latch(msgspec.Struct, gc=False):
    """One latch, but for its parts and what it holds. Times are in Unix seconds."""

    count: int
    """How many numbered parts it has."""
    missing: int
    policy: Policy
    until: float | None
    keep: float
    root: str
    held: int
    """How many messages are sent when it is released."""
    held_on_failure: int
    opened_at: float
    failed: int = 0
    released_at: float | None = None
    failed_at: float | None = None
    is_over: bool = False
    sent: int = 0
    """How many of those that were released are confirmed."""
    sent_on_failure: int = 0
    audits: int = 0
    look_at: float = NEVER
    """When somebody should look at it. With something unsent: when its sender's time is over."""
    forget_at: float = NEVER
    sender: str = ""
    """Who sends what is unsent; empty: whoever comes first."""

    @classmethod
    def of(cls, hold: Hold, now: float) -> "Latch":
        """A new one; its named parts are still to be put."""
        count = hold.parts if isinstance(hold.parts, int) else 0
        missing = count if isinstance(hold.parts, int) else len(set(hold.parts))
        latch = cls(
            count, missing, hold.policy, hold.until, hold.keep, hold.root,
            len(hold.sends), len(hold.on_failure), now,
        )  # fmt: skip
        latch.settle(now)
        return latch

    @property
    def unsent(self) -> int:
        """How many messages are released and not confirmed."""
        unsent = self.held - self.sent if self.released_at is not None else 0
        if self.failed_at is not None:
            unsent += self.held_on_failure - self.sent_on_failure
        return unsent

    def state_at(self, now: float) -> LatchState:
        seen = msgspec.structs.replace(self)
        seen.lapse(now)
        return LatchState(
            missing=seen.missing,
            failed=seen.failed,
            is_released=seen.released_at is not None,
            has_failed=seen.failed_at is not None,
            is_over=seen.is_over,
            unsent=seen.unsent,
        )

    def arrive(self, parts: Parts, arrive: Arrive, now: float) -> None:
        """A part has ended."""
        self.lapse(now)
        if self.is_over:
            return
        name, state = arrive.part, OK if arrive.ok else FAILED
        known = parts.get(name)
        if known is None and self.is_numbered(name):
            known = Part()
        before = PENDING if known is None else known.state
        if state <= before:
            return
        if known is None or not known.is_member:
            parts[name] = Part(state, False, arrive.value, arrive.adds)
            return
        parts[name] = Part(state, True, arrive.value)
        self._count(before, -1)
        self._count(state, +1)
        if self.released_at is None:
            self._add(parts, arrive.adds)
        self.settle(now)

    def _add(self, parts: Parts, names: tuple[str, ...]) -> None:
        """It has these parts, too; what has arrived as one of them counts, with what that adds."""
        left = list(reversed(names))
        while left:
            name = left.pop()
            known = parts.get(name)
            if self.is_numbered(name) or (known is not None and known.is_member):
                continue
            part = known or Part()
            parts[name] = Part(part.state, True, part.value)
            self._count(part.state, +1)
            left += reversed(part.adds)

    def _count(self, state: int, change: int) -> None:
        if state == PENDING:
            self.missing += change
        elif state == FAILED:
            self.failed += change

    def settle(self, now: float) -> None:
        """Release what is to be released, and say when to look at it next, or to forget it."""
        was_unsent = self.unsent > 0  # then its sender finds what comes to that
        if self.failed and self.policy == "fail" and self.failed_at is None:
            self.failed_at = now
        is_complete = not self.missing and (not self.failed or self.policy == "collect")
        if is_complete and self.released_at is None:
            self.released_at = now
        if not was_unsent:
            self.plan(now)

    def lapse(self, now: float) -> None:
        """If its time is over, it fails."""
        if self.until is not None and self.until <= now and self.released_at is None:
            self.is_over = True
            if self.failed_at is None:
                self.failed_at = now
                self.plan(now)

    def plan(self, now: float) -> None:
        """Say when to look at it next, or to forget it. What is unsent has just been released."""
        self.sender = ""
        is_closed = self.released_at is not None or self.failed_at is not None
        if self.unsent:
            self.look_at, self.forget_at = now + SENDER_AWAY, NEVER
        elif is_closed:
            self.look_at, self.forget_at = NEVER, now + self.keep
        else:
            pause = min(FIRST_AUDIT * 2 ** min(self.audits, MOST_AUDITS), LONGEST_AUDIT)
            # It counts from the last arrival, more or less: it need not move each time.
            if not pause / 2 <= self.look_at - now <= pause:
                self.look_at = min(now + pause, NEVER if self.until is None else self.until)

    def is_for(self, sender: str, now: float) -> bool:
        """Whether something is unsent, and this one may be its sender."""
        return self.unsent > 0 and (self.sender in ("", sender) or self.look_at <= now)

    def take(self, sender: str, now: float, lease: float) -> bool:
        """Make this one the sender for so long, if it may be; returns whether it is."""
        if not self.is_for(sender, now):
            return False
        self.sender, self.look_at = sender, now + lease
        return True

    def look(self, sender: str, now: float, lease: float) -> bool:
        """This one looks at it, which is due; returns whether it is its sender."""
        self.lapse(now)
        if self.unsent:
            return self.take(sender, now, lease)
        self.audits = min(self.audits + 1, MOST_AUDITS)
        self.plan(now)
        return False

    def page(self, limit: int, *, is_failure: bool) -> "Page | None":
        """The next of one line that is released and not confirmed."""
        start, held, at = self.sent, self.held, self.released_at
        if is_failure:
            start, held, at = self.sent_on_failure, self.held_on_failure, self.failed_at
        if at is None or start >= held:
            return None
        return Page(start, min(start + limit, held), at)

    def confirm(self, sent: Unsent, now: float) -> bool:
        """These are sent; returns whether it has released them (and not one of its name before)."""
        at = self.failed_at if sent.is_failure else self.released_at
        if at is None or abs(at - sent.released_at) > SAME_MOMENT:
            return False
        if sent.is_failure:
            self.sent_on_failure = max(self.sent_on_failure, min(sent.stop, self.held_on_failure))
        else:
            self.sent = max(self.sent, min(sent.stop, self.held))
        if not self.unsent:
            self.plan(now)
        return True

    def is_numbered(self, name: str) -> bool:
        """Whether it is the number of one of its parts."""
        return (
            len(name) <= MOST_DIGITS
            and name.isascii()
            and name.isdigit()
            and int(name) < self.count
            and str(int(name)) == name
        )

    def id_of(self, part: str) -> str | None:
        """The id of the message of a part; None: nobody knows it."""
        if not self.is_numbered(part):
            return part
        return derived_id(self.root, part) if self.root else None
