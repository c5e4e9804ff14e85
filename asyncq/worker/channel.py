"""What a worker process and its supervisor say to each other, and the socket they say it over.

One line of JSON for each. The supervisor begins, with the `Orders`; from the worker come `Hello`, a
`Holding` for each lease before anything is claimed under it, a `Heartbeat` four times a second, and
`Goodbye`.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

HEARTBEAT_EVERY = 0.25  # seconds between two signs of life of a worker's loop
CHUNK = 64 * 1024  # bytes


class Orders(msgspec.Struct, frozen=True, kw_only=True, tag="orders"):
    """What the worker is to do: the options of ``asyncq worker``."""

    app: str
    queues: Sequence[str] = ()
    concurrency: int | None = None
    max_waiting: int | None = None
    grace: float | None = None
    lease: float | None = None
    burst: bool = False
    log_level: str | None = None
    """None: not given, so that an app which configures its log decides."""
    log_format: str = "text"
    log_setup: bool = True
    """Whether the worker may add to how the app configures its log."""
    require_broker: bool = False
    """Fail when the broker or the backend does not answer at the start, instead of waiting."""
    processes: int = 1
    introduce: bool = False
    """Print what is about to run."""
    python_path: str | None = None
    """``$PYTHONPATH`` as the user has set it."""


class Renewed(msgspec.Struct, frozen=True, tag="renewed"):
    """The lease lasts until then, by `time.monotonic`, which all processes share."""

    incarnation: str
    until: float


class Lost(msgspec.Struct, frozen=True, tag="lost"):
    """The lease had ended when it was to be renewed."""

    incarnation: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Drain (1), or cancel what runs (2)."""

    level: int


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The app is loaded and connected, and `stalls.ASK` is answered from here on."""

    thread: int
    """The one that the event loop runs in."""
    grace: float
    stall_limit: float
    worker: str = ""
    """Its name in the log, and in the records of what it ran."""


class Holding(msgspec.Struct, frozen=True, kw_only=True, tag="holding"):
    """A lease began: renew it, and release it should this process die."""

    url: str
    """The broker's; it may hold a password."""
    incarnation: str
    queues: Sequence[str]
    seconds: float

    def __repr__(self) -> str:
        return f"Holding({self.incarnation!r}, {self.queues!r}, {self.seconds!r})"


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """The event loop turns."""

    started: int
    """How many deliveries were ever run."""
    memory: int
    """Resident bytes."""
    stood: float = 0.0
    """The longest time that it did not turn, in seconds, since the heartbeat before."""
    running: tuple[str, ...] = ()
    """If that was long, some of the messages that it had at hand."""
    at_work: bool = False
    """It consumes, but for queues that refuse it."""
    refused: tuple[str, ...] = ()
    """Those."""
    worn: str = ""
    """Why it should be replaced, if it should."""


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The process is about to end with this code."""

    code: int = 0
    why: str | None = None
    """The error, if that is why."""


def import_path() -> str:
    """The ``$PYTHONPATH`` with which another interpreter imports as this one does."""
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path)


FromParent = Orders | Renewed | Lost | Stop
FromWorker = Hello | Holding | Heartbeat | Goodbye

M = TypeVar("M")

_encode = msgspec.json.Encoder().encode


class Channel(Generic[M]):
    """One end of the socket; ``M`` is what comes in. Belongs to one event loop."""

    def __init__(self, end: socket.socket, incoming: Any) -> None:
        end.setblocking(False)
        self._socket = end
        self._decode = msgspec.json.Decoder(incoming).decode
        self._read = b""
        self._unsent = b""

    @property
    def is_jammed(self) -> bool:
        """Whether the other side has not taken for long what was said."""
        return bool(self._unsent)

    def tell(self, message: msgspec.Struct | None) -> None:
        """Say this, or only what is left to say; at once, as far as the socket takes it.

        A process that dies afterwards has said it all the same. Where nobody listens any more,
        nothing happens: who listens on this side finds out.
        """
        if message is not None:
            self._unsent += _encode(message) + b"\n"
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
        self._unsent = self._unsent[sent:]

    async def receive(self) -> Sequence[M]:
        """What has come in, at least something; nothing when the other side is gone."""
        while True:
            try:
                chunk = await asyncio.get_running_loop().sock_recv(self._socket, CHUNK)
            except ConnectionError:
                return ()
            if not chunk:
                return ()
            if messages := self._take_in(chunk):
                return messages

    def receive_rest(self) -> Sequence[M]:
        """What is there already."""
        messages: list[M] = []
        while True:
            try:
                chunk = self._socket.recv(CHUNK)
            except OSError:
                return messages
            if not chunk:
                return messages
            messages += self._take_in(chunk)

    def close(self) -> None:
        self._socket.close()

    def _take_in(self, chunk: bytes) -> list[M]:
        *lines, self._read = (self._read + chunk).split(b"\n")
        return [self._decode(line) for line in lines]
