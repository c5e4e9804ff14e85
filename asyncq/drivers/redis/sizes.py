"""Values that are larger than the server takes, where all it says is that the connection is closed.

Asked only after that has happened: what is small enough pays nothing for it.
"""

from collections.abc import Iterable

from asyncq.drivers.redis.connection import Link
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import AsyncqError, Refused
from asyncq.texts import counted

ALWAYS_TAKEN = 1024 * 1024  # bytes; proto-max-bulk-len cannot be set lower
USUAL = 512 * 1024 * 1024  # bytes, where nobody may ask


async def too_large(link: Link, sizes: Iterable[tuple[str, int]]) -> Refused | None:
    """Why the server will never take one of these ids with their sizes in bytes, if so it is."""
    suspects = {id: size for id, size in sizes if size > ALWAYS_TAKEN}
    if not suspects:
        return None
    most = await _most(link)
    for id, size in suspects.items():
        if size > most:
            return Refused(
                id,
                f"it has {counted(size, 'byte')} and the server takes {most} in one value "
                "(proto-max-bulk-len): pass a reference (a path, a key) instead, or raise that in "
                "redis.conf",
            )
    return None


async def _most(link: Link) -> int:
    try:
        reply = await link("CONFIG", "GET", "proto-max-bulk-len")
    except (AsyncqError, ReplyError):  # a hosted server lets nobody ask
        return USUAL
    return int(reply[1]) if len(reply) == 2 else USUAL  # noqa: PLR2004 - a name and its value
