"""The stores under test, by the scheme of their URL. Another broker is a file and a line here."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from asyncq.language.envelope import Envelope
from tests.faults.lab.audit import Audit
from tests.faults.lab.rabbit_bed import rabbit_bed
from tests.faults.lab.redis_bed import redis_bed
from tests.faults.lab.sqlite_bed import sqlite_bed


class Bed(Protocol):
    """A store of our own, seen from behind."""

    scheme: str
    keeps_hold: bool
    """What a worker holds stays its own when its connection is lost. Else it runs again."""
    knows_ids: bool
    """An audit tells which messages are where. Else it tells how many."""

    @property
    def is_locked(self) -> bool:
        """Whether somebody who stands still keeps everybody else from writing. Blocks."""
        ...

    url: str
    impatient_url: str
    """Its URL for a worker that is to be missed as soon as its lease of a second is over."""
    backend: str
    """Where outcomes are kept: its own URL, if it keeps them itself."""
    other_backend: str
    """A store for outcomes that is not the broker's."""

    def audit(self) -> Audit:
        """Where everything is, at one moment. Blocks."""
        ...

    def put_raw(self, id: bytes, blob: bytes) -> None:
        """Put bytes into the queue as somebody who is not asyncq."""
        ...

    def wrap(self, envelope: Envelope) -> bytes:
        """The bytes that it keeps an envelope as."""
        ...

    def unwrap(self, id: str, blob: bytes) -> Envelope:
        """What these bytes are delivered as."""
        ...

    def put_newer(self, envelope: Envelope) -> None:
        """Put it into the queue as a later asyncq might: with a field that this one has not."""
        ...

    def fill(self) -> None:
        """Leave it no room for anything more."""
        ...

    def make_room(self) -> None: ...


class ServerBed(Bed, Protocol):
    """A store behind a network, which can be broken, and which can break."""

    port: int
    words: dict[str, bytes]
    """What a step looks like on the wire: publish, claim, settle, give_back."""
    durable_after: float
    """Seconds that a new queue takes until it survives a crash of the server."""
    resumes_within: float
    """Seconds from its being there again until tasks run again."""

    def url_through(self, port: int) -> str:
        """Its URL for those who go through a proxy at this port."""
        ...

    def connections(self) -> int:
        """How many clients it has. Blocks."""
        ...

    def pause(self) -> None:
        """Let the server stand still: its connections stay, and nobody answers."""
        ...

    def resume(self) -> None: ...

    def crash(self) -> None: ...

    def restore(self) -> None:
        """Start it again on what it kept; returns when it answers."""
        ...


Fixture = Callable[[str], Any]  # what pytest has under this name


def _rabbit_bed(directory: Path, fixture: Fixture) -> AbstractContextManager[ServerBed]:
    # A node takes seconds to start: they share one, and each has a virtual host.
    return rabbit_bed(fixture("rabbitmq_server"), directory)


BEDS: dict[str, Callable[[Path, Fixture], AbstractContextManager[Bed]]] = {
    "redis": lambda directory, _: redis_bed(directory),
    "sqlite": lambda directory, _: sqlite_bed(directory),
    "rabbitmq": _rabbit_bed,
}
SERVER_BEDS: dict[str, Callable[[Path, Fixture], AbstractContextManager[ServerBed]]] = {
    "redis": lambda directory, _: redis_bed(directory),
    "rabbitmq": _rabbit_bed,
}
