"""Holds and arrivals as the scripts take them: packed, and their bytes behind."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from asyncq.drivers.redis.connection import lifetime
from asyncq.language.effects import Arrive, Hold, Send

LATEST = 2**43  # Unix seconds: in milliseconds, what a float tells apart

_encode = msgspec.msgpack.Encoder().encode


class Piece:
    """Effects that are carried out in one step."""

    def __init__(self, place: int) -> None:
        """``place``: in ARGV."""
        self._begin = place + 1
        self.effects: list[tuple[Any, ...]] = []
        self.blobs: list[bytes] = []
        self.size = 0

    @property
    def args(self) -> list[bytes]:
        """These and what they refer to, from their place in ARGV on."""
        return [_encode(self.effects), *self.blobs]

    def add(self, effect: Hold | Arrive) -> int:
        """Returns how many bytes that is, about."""
        before = self.size
        if isinstance(effect, Arrive):
            adds = self._put(_encode(effect.adds)) if effect.adds else 0
            value = self._put(effect.value)
            self.effects.append(("arrive", effect.latch, effect.part, effect.ok, value, adds))
        else:
            parts = effect.parts
            count, names = (parts, ()) if isinstance(parts, int) else (0, parts)
            self.size += sum(map(len, names))
            self.effects.append((
                "hold", effect.latch, count, names, effect.policy,
                _moment(effect.until),
                lifetime(effect.keep), self._put_all(effect.sends),
                self._put_all(effect.on_failure), effect.root,
            ))  # fmt: skip
        return self.size - before

    def _put(self, blob: bytes) -> int:
        """Where the script finds it."""
        self.blobs.append(blob)
        self.size += len(blob)
        return self._begin - 1 + len(self.blobs)

    def _put_all(self, sends: Sequence[Send]) -> tuple[int, int]:
        """Where they begin, and how many they are."""
        begin = self._begin + len(self.blobs)
        for send in sends:
            self._put(_encode(send))
        return begin, len(sends)


def _moment(until: float | None) -> int:
    """In milliseconds; 0: there is none, or it never comes."""
    if until is None or not until < LATEST:
        return 0
    return max(math.ceil(max(until, 0.0) * 1000), 1)
