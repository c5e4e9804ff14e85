"""What is particular to the registry in SQLite: what it costs and leaves, and spoiled rows."""

import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from anyio import create_task_group, fail_after, wait_all_tasks_blocked

from asyncq.drivers.sqlite import connection as files
from asyncq.drivers.sqlite import entries
from asyncq.drivers.sqlite.backend import SqliteBackend
from asyncq.seams.registry import MOST_CHANGES, Change, Entry, changes_of
from asyncq.testing.contracts.entries import KIND, get, heard, list_all, put
from asyncq.testing.contracts.given import FAR, PATIENCE, now
from tests.contracts.sqlite_given import backend, path, url

__all__ = ["backend", "path", "url"]  # fixtures


@pytest.fixture
def file(path: Path) -> Generator[sqlite3.Connection]:
    """The file, as other hands have it."""
    with closing(files.connect(str(path))) as file:
        yield file


def change_many(file: sqlite3.Connection, versions: dict[str, int], count: int) -> None:
    file.execute("BEGIN")
    for turn in range(count):
        name = f"e{turn % 50}"
        entry, _ = entries.put(
            file, KIND, name, b"x", now(), version=versions.get(name, 0), keep=FAR
        )
        assert entry is not None
        versions[name] = entry.version
    file.execute("COMMIT")


def steps_of_a_change(file: sqlite3.Connection, versions: dict[str, int]) -> int:
    """What SQLite has to do for one, in tens of the steps of its machine."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    file.set_progress_handler(step, 10)
    change_many(file, versions, 1)
    file.set_progress_handler(None, 0)
    return steps


def rows_of(file: sqlite3.Connection, table: str) -> int:
    return file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


async def test_a_change_costs_and_leaves_the_same_however_many_there_were(
    backend: SqliteBackend, file: sqlite3.Connection
) -> None:
    versions: dict[str, int] = {}
    change_many(file, versions, MOST_CHANGES + 100)
    before, pages = steps_of_a_change(file, versions), file.execute("PRAGMA page_count").fetchone()

    change_many(file, versions, 5000)

    assert steps_of_a_change(file, versions) < before + 20
    assert file.execute("PRAGMA page_count").fetchone()[0] <= pages[0] + 5
    assert rows_of(file, "entries") == 50
    assert rows_of(file, "topic_items") == MOST_CHANGES


async def test_what_another_process_writes_meanwhile_stands_and_is_heard(
    backend: SqliteBackend, file: sqlite3.Connection
) -> None:
    late: list[Entry | None] = []

    async def write() -> None:
        late.append(await backend.put(KIND, "a", b"late", version=0, keep=None))

    async with backend.listen(changes_of(KIND)) as ear:
        file.execute("BEGIN IMMEDIATE")
        entry, _ = entries.put(file, KIND, "a", b"first", now(), version=0, keep=None)
        with fail_after(PATIENCE):
            async with create_task_group() as group:
                group.start_soon(write)
                await wait_all_tasks_blocked()
                file.execute("COMMIT")
            while not (changes := await heard(backend)):
                await ear.wait()

    assert late == [None]
    assert await get(backend, "a") == entry
    assert changes == [(1, Change("a", 1))]


async def test_entries_that_have_ended_take_no_room(
    backend: SqliteBackend, file: sqlite3.Connection
) -> None:
    at = now()
    for number in range(300):
        entries.put(file, KIND, f"e{number}", b"x", at + number, version=0, keep=5.0)

    assert rows_of(file, "entries") < 10


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("version", "text"),
        ("version", -1),
        ("version", 1.5),
        ("ends", "text"),
        ("ends", b"bytes"),
        ("data", "text"),
        ("data", 7),
        ("name", b"bytes"),
    ],
)
async def test_an_entry_that_makes_no_sense_is_none_and_gives_way_to_one(
    backend: SqliteBackend, file: sqlite3.Connection, column: str, value: Any
) -> None:
    await put(backend, "a")
    other = await put(backend, "b")
    file.execute(f"UPDATE entries SET {column} = ? WHERE name = 'a'", (value,))

    assert await get(backend, "a") is None
    assert await list_all(backend, limit=1) == [other]
    assert not await backend.remove(KIND, "a", version=None)

    entry = await put(backend, "a", b"new")
    assert await list_all(backend) == [entry, other]


async def test_a_name_that_is_no_text_is_left_out(
    backend: SqliteBackend, file: sqlite3.Connection
) -> None:
    entry = await put(backend, "a")
    file.execute("UPDATE entries SET name = CAST(x'ff' AS TEXT)")
    other = await put(backend, "b")

    assert await list_all(backend, limit=1) == [other]
    assert await get(backend, "a") is None
    assert (await put(backend, "a")).version > entry.version


@pytest.mark.parametrize("changes", ["text", b"bytes", -1, 1.5, 2**62, None])
async def test_a_count_that_makes_no_sense_is_taken_up_again(
    backend: SqliteBackend, file: sqlite3.Connection, changes: Any
) -> None:
    for name in "abc":
        await put(backend, name)
    await backend.remove(KIND, "c", version=None)
    if changes is None:
        file.execute("DELETE FROM entry_kinds")
    else:
        file.execute("UPDATE entry_kinds SET changes = ?", (changes,))

    entry = await put(backend, "a", version=1)

    assert entry.version == 5
    assert [number for number, _ in await heard(backend)] == [1, 2, 3, 4, 5]
    assert (await backend.list(KIND)).changes == 5
