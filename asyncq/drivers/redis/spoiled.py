"""What to raise where one queue's keys are not what asyncq makes of them."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

from asyncq.drivers.redis.connection import Link, RedisSettings, load_script
from asyncq.drivers.redis.keys import queue_key
from asyncq.drivers.redis.wire import ReplyError
from asyncq.errors import AsyncqError, BrokerError, ConfigurationError, QueueUnavailable

WRONG_TYPE = "WRONGTYPE"

_ODD_KEYS = load_script("asyncq.drivers.redis", "odd_keys")


class Queues:
    """Explains what the server says of one queue's keys; asks over ``link`` which they are."""

    def __init__(self, settings: RedisSettings, link: Link) -> None:
        self._settings = settings
        self._link = link

    async def unavailable(
        self, queue: str, error: ReplyError, incarnation: str = ""
    ) -> QueueUnavailable:
        """For a worker, which tries again until somebody has mended it."""
        return QueueUnavailable(queue, await self._why(queue, error, incarnation))

    async def not_sent(self, queue: str, error: ReplyError) -> Exception:
        """For who sends, and has to hear of it at once."""
        kind = ConfigurationError if error.code == WRONG_TYPE else BrokerError
        return kind(await self._why(queue, error))

    @asynccontextmanager
    async def explaining(self, queue: str) -> AsyncGenerator[None]:
        """Around what is asked of a queue by an operator, or swept."""
        try:
            yield
        except ReplyError as error:
            raise await self.unavailable(queue, error) from error

    async def _why(self, queue: str, error: ReplyError, incarnation: str = "") -> str:
        where = f"queue {queue} in {self._settings.url!r} cannot be used"
        if error.code != WRONG_TYPE:
            return f"{where}: {error}"
        odd: Sequence[bytes] = ()
        # What is wrong is known already; which key it is helps, and is not worth another error.
        with suppress(AsyncqError, ReplyError):
            base = queue_key(self._settings, queue)
            odd = await self._link.script(_ODD_KEYS, base, incarnation)
        which = ", ".join(text.decode(errors="replace") for text in odd)
        if not which:
            which = f"one of its keys ({queue_key(self._settings, queue)}:*) is of another type"
        return (
            f"{where}: {which}; other hands wrote it (WRONGTYPE): rename or delete that key, or "
            "take another ?prefix="
        )
