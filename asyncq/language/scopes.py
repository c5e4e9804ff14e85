"""Scopes: the names that a message bears of those it belongs to, and how they are known to stand.

A scope has a name, and so has its *owner*: a client, that is a process which sends. Both are
entries in the backend's registry. The scope's is there from its first message until it is left; the
owner's ends by itself unless its process renews it. A message runs as long as both stand, of each
scope that it belongs to: so nothing has to be remembered of scopes that are over, and a process
that was killed needs nobody to clean up after it.

The name of a scope says which task has opened it (none did, in a script or a web request), and then
its owner: so a task that is run again finds what its earlier run has opened.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from asyncq.language.message import MESSAGE_ID, UNREADABLE

SCOPE = "asyncq-scope"
"""The header with the names, the outermost first."""
BEGUN = "asyncq-begun"
"""The header with the ids of what earlier attempts have sent within its scopes."""
KIND = "scope"
"""What scopes and owners are called in a registry."""
MOST_NESTED = 8
MOST_BEGUN = 1000
"""Ids that a message carries of its earlier attempts, the latest; others are not waited for."""
KEEP_SCOPE = 86400.0
"""Seconds for which a scope stands unless its owner says so again."""
KEEP_OVER = 600.0
"""Seconds for which it is said why a scope is over; it is over also then."""
KEEP_NEWS = 60.0
"""Seconds for which it is told to workers that it is over; they find that by themselves as well."""
LOOKS = 6
"""How often in the time of a lease owners say that they are there, and workers look for them."""
STANDS = b""
IT_IS_OVER = "its scope is over"
"""The reason where nobody has said one."""
_NAME = re.compile(r"(?:[!-~]{1,128} )?[0-9a-f]{32} [0-9]{1,15}")


class Over(msgspec.Struct, frozen=True):
    """Why a scope is over, as its entry says."""

    reason: str


def name_of(task_id: str | None, owner: str, number: int) -> str:
    """``task_id`` is of the message whose task opens it."""
    return f"{task_id} {owner} {number}" if task_id else f"{owner} {number}"


def opened_by(task_id: str) -> str:
    """What the names begin with of all that this message's runs have opened."""
    return f"{task_id} "


def is_opened_in_task(name: str) -> bool:
    _, *others = name.split(" ")
    return len(others) > 1


def owner_of(name: str) -> str:
    return name.rsplit(" ", 2)[-2]


def is_name(name: str) -> bool:
    """Whether this may be a scope's."""
    return _NAME.fullmatch(name) is not None


def names_in(headers: Mapping[str, Any]) -> tuple[str, ...]:
    """The scopes that a message with these headers belongs to; none if other hands wrote them."""
    found = headers.get(SCOPE)
    if not isinstance(found, list | tuple) or not 0 < len(found) <= MOST_NESTED:  # pyright: ignore[reportUnknownArgumentType]
        return ()
    names = tuple(each for each in found if isinstance(each, str))  # pyright: ignore[reportUnknownVariableType]
    return names if len(names) == len(found) and all(map(is_name, names)) else ()  # pyright: ignore[reportUnknownArgumentType]


def begun_in(headers: Mapping[str, Any]) -> tuple[str, ...]:
    """What earlier attempts of a message have sent within its scopes."""
    found = headers.get(BEGUN)
    if not isinstance(found, list | tuple):
        return ()
    some = found[:MOST_BEGUN]  # pyright: ignore[reportUnknownVariableType]
    return tuple(each for each in some if isinstance(each, str) and MESSAGE_ID.fullmatch(each))  # pyright: ignore[reportUnknownVariableType]


def why_over(data: bytes) -> str | None:
    """The reason, if this is the entry of a scope that is over; None of one that stands."""
    if data == STANDS:
        return None
    try:
        return _decode(data).reason
    except UNREADABLE:
        return ""


def over(reason: str) -> bytes:
    return _encode(Over(reason))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Over).decode
