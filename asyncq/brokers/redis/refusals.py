"""What to raise where one queue's keys are not what asyncq makes of them."""

from asyncq.brokers.redis.blobs import queue_key
from asyncq.errors import BrokerError, ConfigurationError, QueueUnavailable
from asyncq.stores.redis import RedisSettings
from asyncq.stores.redis_wire import ReplyError

WRONG_TYPE = "WRONGTYPE"


def queue_unavailable(settings: RedisSettings, queue: str, error: ReplyError) -> QueueUnavailable:
    """For a worker, which tries again until somebody has mended it."""
    return QueueUnavailable(queue, _why(settings, queue, error))


def not_sent(settings: RedisSettings, queue: str, error: ReplyError) -> Exception:
    """For who sends, and has to hear of it at once."""
    kind = ConfigurationError if error.code == WRONG_TYPE else BrokerError
    return kind(_why(settings, queue, error))


def _why(settings: RedisSettings, queue: str, error: ReplyError) -> str:
    where = f"queue {queue} in {settings.url!r} cannot be used"
    if error.code != WRONG_TYPE:
        return f"{where}: {error}"
    keys = f"{queue_key(settings, queue)}:*"
    return (
        f"{where}: one of its keys ({keys}) is of another type than asyncq makes it, other hands "
        f"wrote it (WRONGTYPE): rename or delete that key, or take another ?prefix= ({error})"
    )
