"""Copies of what outcomes and latches are in, taken at one moment and put back at another."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

AOF = "appendonly.aof"


def back_up(backend: str, directory: Path) -> Callable[[], None]:
    """Copy the store of this URL as it is now; returns what puts the copy in its place.

    That is called when nobody has the store open. Blocks.
    """
    if backend.startswith("redis"):
        return _back_up_redis(directory)
    return _back_up_file(Path(backend.removeprefix("sqlite:///")))


def _back_up_redis(directory: Path) -> Callable[[], None]:
    """Its log is only ever appended to: a copy is what was written until then."""
    log = directory / AOF
    kept = log.read_bytes()

    def put_back() -> None:
        log.write_bytes(kept)

    return put_back


def _back_up_file(path: Path) -> Callable[[], None]:
    copy = path.with_suffix(".kept")
    with closing(sqlite3.connect(path)) as file, closing(sqlite3.connect(copy)) as other:
        file.backup(other)

    def put_back() -> None:
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
        copy.rename(path)

    return put_back
