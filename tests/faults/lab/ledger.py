"""The ledger: what the producer was told and what each run did, in one file.

Every entry is one line, appended by a single write, so that it survives the SIGKILL of whoever
wrote it and no two entries mix. Moments are of the machine's monotonic clock, which all processes
share.
"""

import os
import time
from pathlib import Path

import msgspec

CHUNK = 1 << 20  # bytes; longer than any line


class Attempted(msgspec.Struct, frozen=True, tag="attempted"):
    """The producer is about to send these."""

    ids: list[str]
    at: float


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """The producer was told that these are kept."""

    ids: list[str]
    at: float


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A worker begins to consume."""

    pid: int
    parent: int
    at: float


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A run of a message began."""

    id: str
    run: str
    attempt: int
    pid: int
    at: float


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """That run came to the end of its task."""

    id: str
    run: str
    at: float


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """That run was cancelled, or raised."""

    id: str
    run: str
    at: float


class Died(msgspec.Struct, frozen=True, tag="died"):
    """A worker process is dead: killed, crashed or stopped."""

    pid: int
    at: float


class Healed(msgspec.Struct, frozen=True, tag="healed"):
    """What was broken on purpose works again."""

    at: float


class Follows(msgspec.Struct, frozen=True, tag="follows"):
    """A run of a message wants these sent, if it ends well."""

    id: str
    ids: list[str]


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """That run is about to send these: they belong to its scope, or to those that it is in."""

    run: str
    ids: list[str]


class Cancelling(msgspec.Struct, frozen=True, tag="cancelling"):
    """That run has cancelled its scope, or left it by an error: it is over."""

    run: str
    at: float


Entry = (
    Begun
    | Cancelling
    | Follows
    | Attempted
    | Accepted
    | Ready
    | Started
    | Ended
    | Broken
    | Died
    | Healed
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class Ledger:
    """Appends entries, and reads what all processes appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._read_to = 0
        self._entries: list[Entry] = []

    def write(self, entry: Entry) -> None:
        os.write(self._fd, _encode(entry) + b"\n")

    def entries(self) -> list[Entry]:
        """All so far, in the order in which they were written."""
        while True:
            chunk = os.pread(self._fd, CHUNK, self._read_to)
            whole = chunk.rfind(b"\n") + 1
            if not whole:
                return self._entries
            self._entries += [_decode(line) for line in chunk[:whole].splitlines()]
            self._read_to += whole

    def close(self) -> None:
        os.close(self._fd)


def now() -> float:
    return time.monotonic()
