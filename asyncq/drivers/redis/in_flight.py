"""What one Redis consumer has in its hands, as far as it knows."""

from collections.abc import Iterable, Sequence

import anyio

from asyncq.seams.quarantine import Quarantine


def name_of(raw: bytes) -> str:
    """An id that other hands made may be anything; it must not take the worker down."""
    return raw.decode(errors="backslashreplace")


class InFlight:
    """What was claimed and is not known to be settled, claim by claim.

    One id may be in two claims: it was given back, the reply to that was lost, and it came again.
    """

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine
        self._claims: dict[int, set[str]] = {}
        self._unheard: set[int] = set()  # claims whose reply never came
        self._suspects: set[str] = set()  # in the quarantine
        self.claim = 0
        """The number of the last claim; the token of its deliveries."""
        self.quarantine_left = anyio.Event()
        """Set, and another, whenever a suspect is settled."""

    def begin_claim(self) -> int:
        self.claim += 1
        self._unheard.add(self.claim)
        return self.claim

    def take_in(self, ids: Sequence[str], suspects: int) -> None:
        """The last claim brought these; the first of them are suspects."""
        self._unheard.discard(self.claim)
        if ids:
            self._claims[self.claim] = set(ids)
            self._suspects.update(ids[:suspects])

    def settled(self, claim: int, ids: Iterable[str]) -> None:
        if (left := self._claims.get(claim)) is not None:
            left.difference_update(ids)
            if not left:
                del self._claims[claim]
        if self._suspects and (leaving := self._suspects.intersection(ids)):
            self._suspects -= leaving
            self._quarantine.leave(len(leaving))
            self.quarantine_left.set()
            self.quarantine_left = anyio.Event()

    def strays(self, found: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Of the ids that the store says are in flight, each with its claim: what is not.

        First those that never arrived; then those that were settled, by a server whose place was
        taken by one that had not heard of it yet.
        """
        unheard: list[bytes] = []
        settled: list[bytes] = []
        for raw, number in zip(found[::2], found[1::2], strict=True):
            claim = int(number)
            if claim in self._unheard:
                unheard.append(raw)
            elif name_of(raw) not in self._claims.get(claim, ()):
                settled.append(raw)
        return unheard, settled

    def gave_back_strays(self) -> None:
        self._unheard.clear()

    def clear(self) -> None:
        """All goes back."""
        self._quarantine.leave(len(self._suspects))
        self._suspects.clear()
        self._claims.clear()
