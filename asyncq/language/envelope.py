"""The envelope: a message as brokers and operators see it, and how one that is dead has failed."""

from asyncq.language.message import Failure, Header
from asyncq.shown import Shown


class Envelope(Header, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A message as a broker sees it: its header, and bytes."""

    body: bytes
    exchange: str = ""
    """Only for a broker that offers exchanges, and only when it is published."""
    routing_key: str = ""
    suspect: bool = False
    """Only for a broker that does not know ids, and only when it is published: a worker that was
    lost may have had this message in its hands. The copy is handed out as a suspect."""


class LastAttempt(Shown, frozen=True, array_like=True):
    """How the last attempt of a message failed, as its dead letter keeps it."""

    error: Failure
    attempt: int = 0
    """Which it was, from 1; 0 where the message could not be read."""
    worker: str = ""
