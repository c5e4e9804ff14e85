"""The tasks of ``asyncq demo``: an app like any other.

While a demo runs, more workers may help it: ``asyncq worker asyncq.cli.demo_tasks:app``.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from asyncq.app import App
from asyncq.config import Config

WEEK = 7 * 86400.0  # seconds; how long an interrupted run can be resumed
BLOCK = 1024 * 1024  # bytes read at a time

app = App(
    os.environ.get("ASYNCQ_BROKER", "sqlite:///asyncq-demo.db"),
    config=Config(
        lease=5.0,  # what a killed demo was holding is free for the next one this soon
        keep_result=WEEK,
    ),
)

QUEUE = "demo"
task = app.task(queue=QUEUE)


class Plan(msgspec.Struct, frozen=True):
    """What one run measures."""

    run: str
    directory: bytes
    limit: int | None


class Totals(msgspec.Struct, frozen=True):
    """What there is in some files."""

    files: int
    size: int
    lines: int
    """Newlines, as ``wc -l`` counts them."""
    digest: bytes
    """Of one file, its SHA-256. Of several, the SHA-256 of their digests in a row."""


@task(name="demo.begin", priority=9)
async def begin(directory: bytes, limit: int | None) -> Plan:
    """Begin a run. Its outcome stays, so it is how an interrupted run is found again."""
    return Plan(secrets.token_hex(6), directory, limit)


@task(name="demo.measure")
def measure(path: bytes) -> Totals:
    """Read one file. A plain function runs in a thread, so the event loop goes on meanwhile.

    Names are bytes, because files may be named by bytes that are no text.
    """
    size = lines = 0
    digest = hashlib.sha256()
    for block in read_blocks(path):
        size += len(block)
        lines += block.count(b"\n")
        digest.update(block)
    return Totals(1, size, lines, digest.digest())


@task(name="demo.add_up", priority=9)
async def add_up(parts: list[Totals]) -> Totals:
    """The totals of all parts together."""
    return Totals(
        files=sum(part.files for part in parts),
        size=sum(part.size for part in parts),
        lines=sum(part.lines for part in parts),
        digest=hashlib.sha256(b"".join(part.digest for part in parts)).digest(),
    )


def read_blocks(path: bytes) -> Iterator[bytes]:
    with Path(os.fsdecode(path)).open("rb") as file:
        while block := file.read(BLOCK):
            yield block
