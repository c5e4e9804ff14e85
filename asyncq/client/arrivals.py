"""Arrivals: outcomes that were pushed before anybody asked, kept for the handles that are alive.

Handles are known in batches, as they were made: to know each by itself would cost more than the
other work of an enqueue on it. A batch is alive as long as one of its handles is.
"""

import weakref
from collections import deque
from collections.abc import Sequence

from asyncq.language.message import Failed, Succeeded
from asyncq.language.record import Record

BATCH = 500  # ids that calls one by one share
LARGE = 16 * 1024  # bytes; a larger value is fetched when somebody asks
MOST_KEPT = 100_000  # outcomes that nobody has asked for
RECOUNT = 10_000  # are dropped before it is counted again what is kept
MOST_BYTES = 32 * 1024 * 1024  # of their values
UNSURE = -1  # no epoch: what was sent under an id of the caller's own may never be pushed to us
REMEMBERED = 40  # batches that are kept for a while where an outcome is told once, to nobody else


class Batch:
    """Messages that were sent together, and what came for them."""

    __slots__ = (
        "__weakref__",
        "asked",
        "came",
        "epoch",
        "ids",
        "lost",
        "missed",
        "ref",
        "shared",
        "taken",
    )

    def __init__(self, ids: list[str], epoch: int) -> None:
        self.ids = ids
        self.epoch = epoch
        """Nothing that was pushed since this one began was missed."""
        self.asked = 0
        """The epoch in which all that is missing was asked for."""
        self.came: dict[str, Record] = {}
        """Nobody has asked for these yet."""
        self.missed: dict[str, int] = {}
        """What came and was not kept, with its size in bytes."""
        self.taken: set[str] = set()
        """A handle has these."""
        self.shared: set[str] = set()
        """Of these there may be several handles: what came for one is kept for the others."""
        self.lost = False
        """Outcomes may have been pushed to where nobody listened, and are kept nowhere."""
        self.ref: _Reference

    def take(self, id: str) -> Record | None:
        """What came for this handle; from now on it is the handle's."""
        if self.shared and id in self.shared and (record := self.came.get(id)) is not None:
            if size_of(record) <= LARGE:
                return record
            self.shared.discard(id)  # too large to lie here for who may never ask
        if id not in self.came:
            return None
        record = self.came.pop(id, None)  # not there any more if another thread was faster
        if record is not None:
            self.taken.add(id)
        return record

    def is_for_one(self, id: str) -> bool:
        """Whether there is one handle of this id, and no more."""
        return self.ref.earlier is None and id not in self.shared

    def give(self, id: str) -> None:
        """A handle has what came for this id, wherever it had it from."""
        if self.take(id) is None and id not in self.shared:
            self.taken.add(id)

    def missing(self) -> list[str]:
        """What neither came nor was taken."""
        return [id for id in self.ids if id not in self.came and id not in self.taken]


class _Reference(weakref.ref[Batch]):
    """Knows the ids of a batch when that is gone."""

    __slots__ = ("earlier", "ids")
    ids: Sequence[str]
    earlier: "_Reference | None"
    """Another batch with this one id in it."""


class Arrivals:
    """The batches of one client, by the ids in them."""

    def __init__(self, *, remembers: bool) -> None:
        self.epoch = 0
        """Grows when pushes may have been missed; 0 until subscribed. What was sent and is waited
        for within one epoch needs no reading."""
        self._listening = remembers
        self._batches: dict[str, _Reference] = {}  # empty until somebody listens
        self._named: set[str] = set()  # ids of a caller's own among them
        self._living: set[_Reference] = set()
        self._gone: deque[_Reference] = deque()  # filled wherever the last handle goes, any thread
        self._open = Batch([], UNSURE)  # of what is sent one by one
        self._remembered: deque[Batch] = deque(maxlen=REMEMBERED if remembers else 0)
        self._room = MOST_KEPT
        self._bytes = MOST_BYTES
        self._dropped = 0  # since it was last counted what is kept

    def listen(self) -> None:
        """From now on something may come; who only ever sends is spared the keeping of books."""
        if not self._listening:
            self._listening = True
            # Those under ids of a caller's own last: they know of the others with the same one.
            for batch in sorted(self.living(), key=lambda each: each.epoch == UNSURE):
                if batch.epoch == UNSURE and batch.ids:
                    batch.ref.earlier = self._batches.get(batch.ids[0])
                    self._named.add(batch.ids[0])
                self._batches.update(dict.fromkeys(batch.ids, batch.ref))

    def sent(self, id: str) -> Batch:
        """The batch of a message that is sent by itself."""
        batch = self._open
        if batch.epoch != self.epoch or len(batch.ids) >= BATCH:
            batch = self._open = self.sent_together([])
        batch.ids.append(id)
        if self._listening:
            self._batches[id] = batch.ref
        return batch

    def sent_together(self, ids: list[str], epoch: int | None = None) -> Batch:
        """A batch of messages that are sent in one call, in this epoch if none is given."""
        self._clear()
        batch = Batch(ids, self.epoch if epoch is None else epoch)
        batch.ref = reference = _Reference(batch, self._gone.append)
        reference.ids = ids
        reference.earlier = None
        self._living.add(reference)
        if self._listening:
            if self._named and not self._named.isdisjoint(ids):
                # Each of those gets a batch of its own, which knows of the ones before.
                self._batches.update((id, reference) for id in ids if id not in self._named)
            else:
                self._batches.update(dict.fromkeys(ids, reference))
        self._remembered.append(batch)
        return batch

    def sent_as(self, id: str) -> Batch:
        """The batch of a message under an id of the caller's own, which may have been sent before:
        then what comes for it is for the handles of both."""
        earlier = _living(self._batches.get(id))
        self._named.discard(id)
        batch = self.sent_together([id], UNSURE)
        batch.ref.earlier = earlier
        if self._listening:
            self._named.add(id)
        return batch

    def others(self, batch: Batch) -> list[Batch]:
        """The batches in which this one's id was sent before, as far as they are alive."""
        found: list[Batch] = []
        reference = batch.ref.earlier
        while reference is not None:
            if (other := reference()) is not None:
                found.append(other)
            reference = reference.earlier
        return found

    def find(self, id: str) -> Batch | None:
        """The batch that this id was sent in, if any of its handles is alive."""
        reference = self._batches.get(id)
        return None if reference is None else reference()

    def living(self) -> list[Batch]:
        return [batch for reference in self._living if (batch := reference()) is not None]

    def keep(self, batch: Batch, record: Record, *, wanted: bool = False) -> None:
        """Keep what came for somebody who has not asked yet, if there is room.

        ``wanted``: it was fetched for somebody who is about to ask, however large it is.
        """
        size = size_of(record)
        if not wanted and size > LARGE:
            batch.missed[record.id] = size
            return
        if (self._room <= 0 or self._bytes < size) and not self._found_room(size):
            batch.missed[record.id] = size
            self._dropped += 1
            return
        self._room -= 1
        self._bytes -= size
        batch.came[record.id] = record
        batch.missed.pop(record.id, None)

    def _found_room(self, size: int) -> bool:
        """Count anew what is kept: nobody says so when something of it was taken, or is gone."""
        if self._dropped % RECOUNT > 0:
            return False  # it was counted not long ago
        # Copied in one step: handles take theirs in any thread.
        kept = [record for batch in self.living() for record in list(batch.came.values())]
        self._room = MOST_KEPT - len(kept)
        self._bytes = MOST_BYTES - sum(map(size_of, kept))
        return self._room > 0 and self._bytes >= size

    def _clear(self) -> None:
        """Forget the ids of batches that are gone."""
        batches = self._batches
        while self._gone:
            reference = self._gone.popleft()
            self._living.discard(reference)
            if batches:
                for id in reference.ids:
                    if batches.get(id) is reference:
                        if (earlier := _living(reference.earlier)) is not None:
                            batches[id] = earlier
                        else:
                            del batches[id]
                            self._named.discard(id)


def _living(reference: _Reference | None) -> _Reference | None:
    """The first of these that is not gone."""
    while reference is not None and reference() is None:
        reference = reference.earlier
    return reference


def size_of(record: Record) -> int:
    """Bytes of what a record holds; of a failure, nearly."""
    outcome = record.outcome
    if isinstance(outcome, Succeeded):
        return len(memoryview(outcome.value))
    if isinstance(outcome, Failed):
        return len(outcome.error.message) + len(outcome.error.traceback)
    return 0
