"""What SQLite cannot do just now is an outage that names the file and says what to do."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from asyncq.drivers.sqlite.connection import translated
from asyncq.errors import BrokerUnavailable


def fill(path: str) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE t (blob)")
        file.execute("PRAGMA max_page_count = 3")
        file.execute("INSERT INTO t VALUES (randomblob(100000))")


def lock(path: str) -> None:
    with (
        closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other,
        closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as file,
    ):
        other.execute("BEGIN EXCLUSIVE")
        file.execute("BEGIN IMMEDIATE")


def write_where_nobody_may(path: str) -> None:
    sqlite3.connect(path).close()
    Path(path).touch()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        file.execute("CREATE TABLE t (blob)")


def open_in_no_folder(path: str) -> None:
    with closing(sqlite3.connect(f"{path}/there/is/none.db")) as file:
        file.execute("CREATE TABLE t (blob)")


def read_what_is_none(path: str) -> None:
    Path(path).write_bytes(b"no database, but long enough to be read as one " * 100)
    with closing(sqlite3.connect(path)) as file:
        file.execute("SELECT * FROM sqlite_master")


@pytest.mark.parametrize(
    ("fail", "remedy"),
    [
        (fill, "make room on its disk"),
        (lock, "another program has had its write lock"),
        (write_where_nobody_may, "has to be able to write the file and its folder"),
        (open_in_no_folder, "see that its folder is there"),
        (read_what_is_none, "restore it or name another file"),
    ],
)
def test_what_goes_wrong_in_a_file_comes_with_what_to_do(
    tmp_path: Path, fail: Callable[[str], None], remedy: str
) -> None:
    path = str(tmp_path / "q.db")

    with pytest.raises(BrokerUnavailable) as caught, translated(path, BrokerUnavailable):
        fail(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert remedy in str(caught.value)
