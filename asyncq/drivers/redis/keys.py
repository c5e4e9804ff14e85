"""The names of a queue's keys in Redis, and the bounds of its dead letters as scripts take them."""

from asyncq.drivers.redis.connection import RedisSettings
from asyncq.seams.dead import DeadLimits


def queue_key(settings: RedisSettings, queue: str) -> str:
    """What every key of this queue begins with; the braces keep them in one slot."""
    return f"{settings.prefix}:{{{queue}}}"


def dead_bounds(limits: DeadLimits) -> tuple[int, int]:
    """How many dead letters to keep, and for how many milliseconds, as scripts take it."""
    return limits.most, int(limits.keep * 1000)
