"""Why something failed, where the server has to be asked for it: a queue's keys, a value's size.

Asked only after that has happened: what goes well pays nothing for it.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress

from asyncq.drivers.redis.connection import Link, Script
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import AsyncqError, BrokerError, ConfigurationError, QueueUnavailable, Refused
from asyncq.texts import counted

ALWAYS_TAKEN = 1024 * 1024  # bytes; proto-max-bulk-len cannot be set lower
USUAL = 512 * 1024 * 1024  # bytes, where nobody may ask
WRONG_TYPE = "WRONGTYPE"

_ODD_KEYS = Script("odd_keys")


async def too_large(link: Link, sizes: Iterable[tuple[str, int]]) -> Refused | None:
    """Why the server will never take one of these ids with their sizes in bytes, if so it is.

    All it says of such a one is that the connection is closed.
    """
    suspects = {id: size for id, size in sizes if size > ALWAYS_TAKEN}
    if not suspects:
        return None
    most = USUAL
    with suppress(AsyncqError, ReplyError, IndexError):  # a hosted server lets nobody ask
        most = int((await link("CONFIG", "GET", "proto-max-bulk-len"))[1])
    for id, size in suspects.items():
        if size > most:
            return Refused(
                id,
                f"it has {counted(size, 'byte')} and the server takes {most} in one value "
                "(proto-max-bulk-len): pass a reference (a path, a key) instead, or raise that in "
                "redis.conf",
            )
    return None


async def queue_unavailable(
    link: Link, queue: str, error: ReplyError, incarnation: str = ""
) -> QueueUnavailable:
    """For a worker, which tries again until somebody has mended it."""
    return QueueUnavailable(queue, await _why(link, queue, error, incarnation))


async def not_sent(link: Link, queue: str, error: ReplyError) -> Exception:
    """For who sends, and has to hear of it at once."""
    kind = ConfigurationError if error.code == WRONG_TYPE else BrokerError
    return kind(await _why(link, queue, error))


@asynccontextmanager
async def explaining(link: Link, queue: str) -> AsyncGenerator[str]:
    """Around what is asked of a queue by an operator, or swept; as what its keys begin with."""
    try:
        yield link.store.queue_key(queue)
    except ReplyError as error:
        raise await queue_unavailable(link, queue, error) from error


async def _why(link: Link, queue: str, error: ReplyError, incarnation: str = "") -> str:
    where = f"queue {queue} in {link.store.url!r} cannot be used"
    if error.code != WRONG_TYPE:
        return f"{where}: {error}"
    base, odd = link.store.queue_key(queue), list[bytes]()
    # What is wrong is known already; which key it is helps, and is not worth another error.
    with suppress(AsyncqError, ReplyError):
        odd = await link.script(_ODD_KEYS, base, incarnation)
    which = ", ".join(text.decode(errors="replace") for text in odd)
    if not which:
        which = f"one of its keys ({base}:*) is of another type"
    return (
        f"{where}: {which}; other hands wrote it (WRONGTYPE): rename or delete that key, or "
        "take another ?prefix="
    )
