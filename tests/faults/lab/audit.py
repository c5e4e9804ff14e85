"""What an audit finds: where in a store every message is, and what should not be."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

import msgspec

SHOWN = 5  # faults spelled out at most


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """A store at one moment."""

    waiting: AbstractSet[str]
    in_flight: AbstractSet[str]
    suspects: AbstractSet[str]
    """Messages that outlived a worker, wherever they are now."""
    dead: AbstractSet[str]
    faults: list[str]
    """Sentences: a message in no place or in two, a place without a message, and the like."""

    def __str__(self) -> str:
        places = ("waiting", "in_flight", "suspects", "dead")
        counts = ", ".join(f"{len(getattr(self, place))} {place}" for place in places)
        return f"{counts}; {len(self.faults)} faults {self.faults[:SHOWN]}"

    @property
    def is_idle(self) -> bool:
        """Nothing is left to be done."""
        return not self.waiting and not self.in_flight


def misplaced(messages: AbstractSet[str], places: Mapping[str, Iterable[str]]) -> list[str]:
    """What is wrong if each of these messages is to be in exactly one of these places."""
    found: dict[str, list[str]] = {}
    for place, ids in places.items():
        for id in ids:
            found.setdefault(id, []).append(place)
    faults = [f"{id} is in no place" for id in messages if id not in found]
    faults += [f"{id} is in {places}" for id, places in found.items() if len(places) > 1]
    faults += [f"{id} is in {places} and nowhere kept" for id, places in found.items()
               if id not in messages]  # fmt: skip
    return faults
