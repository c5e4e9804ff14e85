"""The parts of `asyncq.logs`: whose record it is, on a line or as JSON."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from anyio import to_thread

from asyncq.app import App
from asyncq.logs import JsonFormatter, LineFormatter, TaskFilter
from tests.client.given import PATIENCE

log = logging.getLogger("shop.tests")


class Shown:
    """A handler as a user would write it, and what it has shown."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(formatter)
        self.handler.addFilter(TaskFilter())

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def shown(request: pytest.FixtureRequest) -> Iterator[Shown]:
    """Whatever is logged below ``shop.tests``, by the formatter that the test asks for."""
    shown = Shown(request.param)
    level = log.level
    log.addHandler(shown.handler)
    log.setLevel(logging.DEBUG)
    yield shown
    log.removeHandler(shown.handler)
    log.setLevel(level)


lines = pytest.mark.parametrize("shown", [LineFormatter()], indirect=True, ids=["lines"])
as_json = pytest.mark.parametrize("shown", [JsonFormatter()], indirect=True, ids=["json"])
attributes = pytest.mark.parametrize(
    "shown",
    [logging.Formatter("%(asctime)s %(asyncq_task)s|%(asyncq_id)s|%(message)s", datefmt="at")],
    indirect=True,
    ids=["own"],
)


@attributes
async def test_a_record_knows_its_task_in_coroutines_threads_and_their_children(
    app: App, shown: Shown
) -> None:
    @app.task(name="mail")
    async def mail() -> None:
        log.info("coroutine")
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
        await to_thread.run_sync(log.info, "thread of a coroutine")

    async def child() -> None:
        await anyio.lowlevel.checkpoint()
        log.info("child")

    @app.task(name="sync")
    def sync() -> None:
        log.info("thread")

    log.info("before")
    async with app.worker():
        one, other = await mail.enqueue(), await sync.enqueue()
        await one.get(timeout=PATIENCE)
        await other.get(timeout=PATIENCE)
    log.info("after")

    assert set(shown.text.splitlines()) == {
        "at ||before",
        f"at mail|{one.id}|coroutine",
        f"at mail|{one.id}|child",
        f"at mail|{one.id}|thread of a coroutine",
        f"at sync|{other.id}|thread",
        "at ||after",
    }


@lines
async def test_a_line_has_time_level_process_logger_and_the_task(app: App, shown: Shown) -> None:
    @app.task(name="mail")
    async def mail() -> None:
        log.warning("slow")

    async with app.worker():
        result = await mail.enqueue()
        await result.get(timeout=PATIENCE)
    log.info("outside")

    one, other = shown.text.splitlines()
    date, time, level, process, logger, rest = one.split(maxsplit=5)
    assert datetime.fromisoformat(f"{date} {time.replace(',', '.')}")
    assert (level, logger) == ("WARNING", "shop.tests:")
    assert int(process) > 1
    assert rest == f"[mail {result.id}] slow"
    assert other.endswith("shop.tests: outside")


@lines
def test_no_record_forges_another_or_steers_the_terminal(shown: Shown) -> None:
    forged = "first\n2026-11-27 12:00:00 CRITICAL 1 root: forged\r\x1b[2J\u2028\x9b"
    try:
        raise ValueError(forged)  # noqa: TRY301 - for its traceback
    except ValueError:
        log.exception("no %s", forged)
    log.info("x" * 100_000)

    first, *below, last = shown.text.splitlines()
    assert "no first\\n2026-11-27 12:00:00 CRITICAL 1 root: forged\\r\\x1b[2J" in first
    assert below
    assert all(line.startswith("    ") for line in below)
    assert any("CRITICAL 1 root: forged" in line for line in below)
    assert not {"\x1b", "\x9b", "\r", "\u2028"} & set(shown.text)
    assert len(last.encode()) == 8 * 1024


@as_json
def test_a_record_is_one_json_object_with_what_it_was_given(shown: Shown) -> None:
    before = datetime.now(UTC)
    try:
        raise ValueError("a\nb")  # noqa: TRY301 - for its traceback
    except ValueError:
        log.exception("no\n%s", "way", extra={"customer": "ann", "ratio": 0.5, "what": object})

    [record] = shown.objects
    assert datetime.fromisoformat(record.pop("time")).timestamp() >= before.timestamp() - 0.001
    exception = record.pop("exception")
    assert exception.startswith("Traceback (most recent call last)")
    assert exception.endswith("ValueError: a\nb")
    assert isinstance(record.pop("process"), int)
    assert record == {
        "level": "error",
        "logger": "shop.tests",
        "message": "no\nway",
        "task": None,
        "id": None,
        "extra": {"customer": "ann", "ratio": "0.5", "what": "<class 'object'>"},
    }


@as_json
async def test_json_names_the_task_and_its_message(app: App, shown: Shown) -> None:
    @app.task(name="mail")
    async def mail() -> None:
        log.info("sent")

    async with app.worker():
        result = await mail.enqueue()
        await result.get(timeout=PATIENCE)

    [record] = shown.objects
    assert (record["task"], record["id"]) == ("mail", result.id)


@as_json
def test_what_is_large_is_cut_and_still_json(shown: Shown) -> None:
    log.info("\x00" * 100_000, extra={f"key{n}": "x" * 10_000 for n in range(100)})

    [record] = shown.objects
    assert len(record["message"]) == 8 * 1024
    assert len(record["extra"]) == 50
    assert {len(value) for value in record["extra"].values()} == {1024}
