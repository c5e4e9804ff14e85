"""The record: an outcome as it is kept, with what follows from it."""

import msgspec

from asyncq.language.effects import Effect
from asyncq.language.message import Outcome


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An outcome as a backend keeps it. The first one stored for an id stands."""

    id: str
    outcome: Outcome
    task: str = ""
    attempt: int = 1
    started_at: float = 0.0
    finished_at: float = 0.0
    worker: str = ""
    keep: float = 3600.0
    """Seconds until the backend may forget it."""
    reply_to: str | None = None
    """Where a client may be waiting for it."""
    effects: tuple[Effect, ...] | None = ()
    """What follows from it, as whoever ran the message has it; None: its writer did not have the
    message, so that who holds it derives them."""
    begun: tuple[str, ...] = ()
    """What its task has sent within the scopes that it belongs to: their owner waits for these."""
