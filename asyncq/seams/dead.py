"""What bounds the dead letters of a queue, and how drivers keep what is known of each.

A driver is made with `DeadLimits` and holds to them wherever it buries a message: whatever is over
the bounds then gives way, the oldest first, a bounded number at a time.
"""

import time

import msgspec

from asyncq.config import DEFAULTS
from asyncq.language.envelope import LastAttempt
from asyncq.language.message import UNREADABLE
from asyncq.loggers import get_logger

log = get_logger(__name__)

TRIM_BITE = 1000  # dead letters that give way in one step at most; more than one step brings in
CALM = 3600.0  # seconds without any that gives way, after which the next is news again

pack_last = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LastAttempt).decode


class DeadLimits:
    """How many dead letters each queue keeps, and for how long; says so when some give way."""

    def __init__(
        self, most: int = DEFAULTS.max_dead_letters, keep: float = DEFAULTS.keep_dead_letters
    ) -> None:
        self.most = most
        self.keep = keep
        """Seconds."""
        # By queue, on the monotonic clock: when any gave way last. Written by whatever thread.
        self._gave_way_at: dict[str, float] = {}

    def note(self, queue: str, count: int) -> None:
        """So many of a queue's dead letters gave way: logged when it begins, not each time."""
        if count <= 0:
            return
        now = time.monotonic()
        before = self._gave_way_at.get(queue)
        self._gave_way_at[queue] = now
        if before is None or now - before > CALM:
            log.warning(
                "the oldest dead letters of queue %s are dropped: it keeps %d of them, not "
                "longer than %g d (max_dead_letters, keep_dead_letters)",
                queue,
                self.most,
                self.keep / 86400,
            )


def unpack_last(packed: object) -> LastAttempt | None:
    """What is known of the last attempt; None where nothing is, or other hands wrote there."""
    if not isinstance(packed, bytes) or not packed:
        return None
    try:
        return _decode(packed)
    except UNREADABLE:
        return None
