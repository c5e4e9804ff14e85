"""A worker of before latches: it does not know where a message ends, nor carries that on.

This is what asyncq was until messages had a version 2: the field that says so was not there, so
that an envelope which it wrote again had lost it.
"""

from typing import Any, ClassVar

import msgspec

from asyncq.codecs import native
from asyncq.seams import packing
from asyncq.worker.latches import Latches

BEFORE = "LAB_BEFORE"  # the environment variable that makes it one


class _Packed(msgspec.Struct, array_like=True):
    priority: int
    body: bytes
    eta: float | None = None
    expires: float | None = None
    reply_to: str | None = None
    sent_at: float = 0.0
    headers: dict[str, Any] = {}
    again: bool = False
    ends: ClassVar[tuple[()]] = ()


async def _look_after_nothing(self: Latches) -> None:
    del self


def become_old() -> None:
    """Before anything was packed or unpacked."""
    native.VERSION = native.WITHOUT_ENDS
    packing.__dict__["_decode"] = msgspec.msgpack.Decoder(_Packed).decode
    Latches.look_after = _look_after_nothing
