"""SQLite under test: its tables as an auditor reads them, and as an intruder writes them."""

import shutil
import sqlite3
import subprocess
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from asyncq.language.envelope import Envelope
from asyncq.seams.packing import pack, unpack
from tests.faults.lab.audit import Audit, misplaced
from tests.faults.lab.tasks import QUEUE

PLACES = ("ready", "delayed", "held", "dead")
PATIENCE = 30.0  # seconds to wait for others' locks
BRIEFLY = 1.0  # ... where they may never be given up
SMALL = 64 * 1024 * 1024  # bytes; a larger disk is nobody's to fill


class SqliteBed:
    """A database file of our own."""

    scheme = "sqlite"
    keeps_hold = True
    knows_ids = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._filler = path.with_name("filler")
        self.url = self.backend = self.impatient_url = f"sqlite:///{path}"
        self.other_backend = f"sqlite:///{path.with_name('outcomes.db')}"

    @property
    def is_locked(self) -> bool:
        return is_locked(self.url)

    def audit(self) -> Audit:
        with closing(self._connect()) as file:
            file.execute("BEGIN")  # all of it is of one moment
            messages: dict[int, str] = dict(file.execute("SELECT seq, id FROM messages"))
            suspects = {id for (id,) in file.execute("SELECT id FROM messages WHERE suspect")}
            found = {
                place: [messages.get(seq, f"number {seq}")
                        for (seq,) in file.execute(f"SELECT seq FROM {place}")]
                for place in PLACES
            }  # fmt: skip
            ended = {
                id
                for (id,) in file.execute(
                    "SELECT id FROM messages JOIN records USING (id)"
                    " WHERE seq NOT IN (SELECT seq FROM dead)"
                )
            }
            [strays] = file.execute(
                "SELECT count(*) FROM held WHERE lease NOT IN (SELECT number FROM leases)"
            ).fetchone()
        faults = misplaced(set(messages.values()), found)
        faults += [f"{id} has ended and is still here" for id in ended]
        if strays:
            faults.append(f"{strays} held without a lease")
        return Audit(
            waiting={*found["ready"], *found["delayed"]},
            in_flight={*found["held"]},
            suspects=suspects - {*found["dead"]},
            dead={*found["dead"]},
            faults=faults,
        )

    def put_raw(self, id: bytes, blob: bytes) -> None:
        """Put bytes into the queue as somebody who is not asyncq."""
        with closing(self._connect()) as file:
            file.execute("BEGIN IMMEDIATE")
            [seq] = file.execute("SELECT next FROM counter").fetchone()
            file.execute("UPDATE counter SET next = next + 1")
            # The id as text of these very bytes, which need not be text at all.
            file.execute(
                "INSERT INTO messages (seq, queue, id, rank, envelope)"
                " VALUES (?, ?, CAST(? AS TEXT), 9, ?)",
                (seq, QUEUE, id, blob),
            )
            file.execute(
                "INSERT INTO ready (queue, rank, place, seq) VALUES (?, 9, ?, ?)", (QUEUE, seq, seq)
            )
            file.execute("COMMIT")

    def wrap(self, envelope: Envelope) -> bytes:
        return pack(envelope)

    def unwrap(self, id: str, blob: bytes) -> Envelope:
        return unpack(blob, id, QUEUE)

    def put_newer(self, envelope: Envelope) -> None:
        fields = msgspec.msgpack.decode(self.wrap(envelope))
        self.put_raw(envelope.id.encode(), msgspec.msgpack.encode([*fields, {"since": "later"}]))

    def fill(self) -> None:
        """Its folder has to be a small file system of its own; see `small_disk`."""
        assert shutil.disk_usage(self._path.parent).total < SMALL, "this disk is not ours to fill"
        with self._filler.open("ab", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))

    def make_room(self) -> None:
        self._filler.unlink()

    def _connect(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
        file.text_factory = _text
        return file


@contextmanager
def sqlite_bed(directory: Path) -> Generator[SqliteBed]:
    yield SqliteBed(directory / "queue.db")


@contextmanager
def small_disk(directory: Path, size: int) -> Generator[None]:
    """Have this folder be a file system of so many bytes.

    Raises:
        PermissionError: this user may not mount one.
    """
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def is_locked(url: str) -> bool:
    """Whether somebody keeps everybody else from writing to the file of this URL. Blocks."""
    path = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, timeout=BRIEFLY, isolation_level=None)) as file:
        try:
            file.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False


def count_latches(url: str) -> int:
    """How many rows the file of this URL has of latches. Blocks."""
    tables = ("latches", "latch_parts", "latch_sends")
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=PATIENCE)) as file:
        return sum(file.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
