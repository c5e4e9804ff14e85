"""A file that is removed, moved or replaced while it is open: nothing is accepted into nowhere."""

import math
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.clock import SystemClock
from asyncq.config import Config, Url
from asyncq.drivers.sqlite import forks
from asyncq.drivers.sqlite.broker import SqliteBroker
from asyncq.drivers.sqlite.connection import FileMoved
from asyncq.drivers.sqlite.forks import Access
from asyncq.drivers.sqlite.reader import Reader
from asyncq.errors import BackendUnavailable, BrokerUnavailable
from asyncq.language.message import new_id
from asyncq.seams.broker import Lease
from tests.client.given import until
from tests.contracts.rabbit_given import MAIL, PATIENCE, envelope


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "queue.db"


def broker_of(file: Path) -> SqliteBroker:
    return SqliteBroker(Url(f"sqlite:///{file}"), SystemClock())


def make_app(file: Path) -> App:
    app = App(f"sqlite:///{file}", config=Config(publish_timeout=0.3))

    @app.task(name="same")
    async def same(number: int) -> int:
        return number

    return app


def remove(file: Path) -> None:
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()


def is_there(file: Path) -> bool:
    return file.exists()


def move_it(file: Path) -> None:
    file.rename(file.with_suffix(".aside"))


def move_its_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name("aside"))


@pytest.mark.parametrize("go", [remove, move_it, move_its_folder])
async def test_what_would_go_nowhere_is_refused_and_the_log_says_why(
    file: Path, go: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(file)
    async with app, app.worker() as worker:
        assert await (await app.tasks["same"].enqueue(1)).get(timeout=PATIENCE) == 1
        await until(lambda: worker.is_consuming)

        go(file)

        with fail_after(PATIENCE), pytest.raises(BrokerUnavailable) as refused:
            await app.tasks["same"].enqueue(2)
        await until(lambda: not worker.is_consuming)
        with pytest.raises((BrokerUnavailable, BackendUnavailable)):
            await app.result(new_id()).status()
        assert not is_there(file)
        await until(lambda: "cannot be read, trying again" in caplog.text)

    assert f"{file}: it was removed or moved away while it was open" in str(refused.value)
    assert "put it back, or restart what uses it" in str(refused.value)
    assert "queue default is not consumed, trying again" in caplog.text
    assert caplog.text.count("cannot be read, trying again") == 1


class Poll:
    """Waits for something in the file, and is told when it cannot be read."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def pause(self) -> float:
        return math.inf

    def look(self, connection: sqlite3.Connection) -> None:
        raise AssertionError

    def give_up(self) -> None:
        self.told.set()


def test_who_waits_hears_of_it_even_where_nothing_was_read_before(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writing, poll = Access(str(file)), Poll()
    with writing:
        writing.open()
    move_it(file)
    reader = Reader(str(file))
    reader.watch(poll)
    try:
        assert poll.told.wait(PATIENCE)
    finally:
        reader.stop()
        reader.join()
        writing.close()
    assert f"{file} cannot be read, trying again: it was removed or moved away" in caplog.text


async def test_a_file_that_is_put_back_goes_on_with_all_that_was_in_it(file: Path) -> None:
    app = make_app(file)
    async with app, app.worker() as worker:
        await until(lambda: worker.is_consuming)
        move_its_folder(file)
        with pytest.raises(BrokerUnavailable):
            await app.tasks["same"].enqueue(1)
        file.parent.with_name("aside").rename(file.parent)

        assert await (await app.tasks["same"].enqueue(2)).get(timeout=PATIENCE) == 2
        await until(lambda: worker.is_consuming)


async def test_what_is_sent_while_the_file_is_away_for_a_moment_waits_for_it(file: Path) -> None:
    app = make_app(file)
    async with app, broker_of(file) as other:
        await app.tasks["same"].enqueue(1)
        move_it(file)
        back = threading.Timer(0.1, file.with_suffix(".aside").rename, [file])
        back.start()
        await app.tasks["same"].enqueue(2)
        back.join()

        assert (await other.depth("default")).ready == 2


async def test_another_file_in_its_place_is_refused_until_all_begin_anew(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    restored, aside = file.with_name("restored.db"), file.with_name("aside.db")
    async with make_app(restored) as other:
        await other.tasks["same"].options(id="restored").enqueue(7)
    app = make_app(file)
    async with app, app.worker() as worker:
        assert await (await app.tasks["same"].enqueue(1)).get(timeout=PATIENCE) == 1
        os.rename(file, aside)
        os.rename(restored, file)
        with pytest.raises(BrokerUnavailable, match=r"replaced by another.*-wal and -shm"):
            await app.tasks["same"].enqueue(2)
        await until(lambda: not worker.is_consuming)
    for log in ("-wal", "-shm"):
        os.unlink(f"{file}{log}")

    async with app, app.worker():
        assert await app.result("restored").get(timeout=PATIENCE) == 7
        assert await (await app.tasks["same"].enqueue(3)).get(timeout=PATIENCE) == 3


async def test_the_first_file_put_back_is_whole(file: Path) -> None:
    restored, aside = file.with_name("restored.db"), file.with_name("aside.db")
    async with make_app(restored):
        pass
    async with broker_of(file) as broker, broker_of(file) as other:
        await broker.publish([envelope(str(n), queue="mail") for n in range(100)])
        os.rename(file, aside)
        os.rename(restored, file)
        for asked in (broker.publish([envelope("lost", queue="mail")]), other.depth("mail")):
            with pytest.raises(BrokerUnavailable, match="replaced by another file"):
                await asked
        os.rename(file, restored)
        os.rename(aside, file)
        await broker.publish([envelope("new", queue="mail")])

    async with broker_of(file) as broker:
        assert (await broker.depth("mail")).ready == 101
        assert await broker.find(["lost"]) == [None]


def remove_its_log(file: Path) -> None:
    for log in ("-wal", "-shm"):
        os.unlink(f"{file}{log}")


async def test_a_file_whose_log_is_removed_takes_nothing_more_and_is_whole_once_all_have_left(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(file)
    async with app, app.worker() as worker, broker_of(file) as other:
        assert await (await app.tasks["same"].enqueue(1)).get(timeout=PATIENCE) == 1
        await other.publish([envelope(str(n), queue="mail") for n in range(100)])

        remove_its_log(file)

        with fail_after(PATIENCE), pytest.raises(BrokerUnavailable, match="its log, the -wal"):
            await app.tasks["same"].options(id="lost").enqueue(2)
        with pytest.raises(BrokerUnavailable, match="do not kill them"):
            async with broker_of(file):
                pass
        await until(lambda: not worker.is_consuming)

    assert caplog.text.count("cannot be read, trying again") == 1
    async with app, app.worker(), broker_of(file) as broker:
        assert (await broker.depth("mail")).ready == 100
        assert await (await app.tasks["same"].enqueue(3)).get(timeout=PATIENCE) == 3


async def test_a_lease_is_not_renewed_in_a_file_that_is_gone(file: Path) -> None:
    async with broker_of(file) as broker, broker.consume(MAIL, Lease("worker", 15.0)):
        renewer = broker.renewer()
        assert renewer.renew("worker", ["mail"], 15.0)

        remove(file)
        with pytest.raises(BrokerUnavailable, match="removed or moved away"):
            renewer.renew("worker", ["mail"], 15.0)
        renewer.close()


def test_a_commit_into_a_file_that_was_replaced_meanwhile_does_not_count(file: Path) -> None:
    access = Access(str(file))
    with access:
        access.open().execute("CREATE TABLE t (a)")
        shutil.copy(file, file.with_suffix(".copy"))
        os.replace(file.with_suffix(".copy"), file)

        with pytest.raises(FileMoved, match="replaced by another file"):
            access.check()
    access.close()


def test_a_file_that_is_closed_while_it_is_looked_at_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One store of a process closes it, in its own thread, as the next one opens it."""
    path = str(tmp_path / "tasks.db")
    for named in ("file_at", "log_of"):
        leaving = forks.Access(path)
        with leaving:
            leaving.open()
        real = getattr(forks, named)

        def late(path: str, leaving: forks.Access = leaving, real: Any = real) -> Any:
            leaving.close()
            return real(path)

        with monkeypatch.context() as patch:
            patch.setattr(forks, named, late)
            leaving.check()
