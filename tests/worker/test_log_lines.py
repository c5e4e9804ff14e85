"""What the log says of a task: by which end it came, its error, and whose message it was."""

import logging
import logging.config
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import anyio
import pytest

from asyncq.app import App
from asyncq.errors import RetryLater, TaskExpired, TaskFailed
from asyncq.language.message import Status
from asyncq.language.policies import Retry
from asyncq.loggers import get_logger
from tests.client.given import PATIENCE, Gate, until_status

AT_ONCE = Retry(times=2, base=0.0)
FORGED = "no way\n2026-01-01 00:00:00 CRITICAL root: \x1b[2J all is lost"


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncq")


def attributes(record: logging.LogRecord) -> tuple[Any, Any]:
    return record.__dict__["asyncq_task"], record.__dict__["asyncq_id"]


async def run(app: App, task: Any, *args: object) -> tuple[str, str]:
    """The id of a call that fails, and why it did."""
    async with app.worker():
        result = await task.enqueue(*args)
        with pytest.raises(TaskFailed) as caught:
            await result.get(timeout=PATIENCE)
    return result.id, str(caught.value)


async def test_each_failed_attempt_says_which_it_was_of_how_many_and_why(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="mail", retry=AT_ONCE)
    async def mail(to: str) -> None:
        raise ValueError(f"no {to}")

    id, _ = await run(app, mail, "ann")

    lines = [record.getMessage() for record in caplog.records if "failed in" in record.getMessage()]
    assert lines == [
        f"task mail[{id}] failed in attempt 1 of 3, next attempt in 0.0 s: ValueError: no ann",
        f"task mail[{id}] failed in attempt 2 of 3, next attempt in 0.0 s: ValueError: no ann",
        f"task mail[{id}] failed in attempt 3 of 3: ValueError: no ann",
    ]
    about_it = [record for record in caplog.records if id in record.getMessage()]
    assert {attributes(record) for record in about_it} == {("mail", id)}


async def test_only_the_last_failure_brings_its_traceback_below_its_line(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(retry=AT_ONCE)
    async def fail() -> None:
        try:
            int("inner")
        except ValueError as error:
            raise LookupError("outer") from error

    await run(app, fail)

    *_, last = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert caplog.text.count("Traceback (most recent call last)") == 2  # and its cause
    assert last.exc_info is not None
    assert isinstance(last.exc_info[1], LookupError)  # for handlers that send it elsewhere
    trace = (last.exc_text or "").splitlines()
    assert all(line.startswith("    ") for line in trace)
    assert trace[-1] == "    LookupError: outer"
    assert any("invalid literal" in line for line in trace)
    assert not any("executor.py" in line for line in trace)


async def test_what_a_task_raises_forges_no_line_of_the_log(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(retry=Retry(times=1, base=0.0))
    async def fail() -> None:
        raise ValueError(FORGED)

    id, _ = await run(app, fail)

    assert "no way\\n2026-01-01 00:00:00 CRITICAL root: \\x1b[2J all is lost" in caplog.text
    assert "\x1b" not in caplog.text
    assert not any(line.startswith("2026-01-01") for line in caplog.text.splitlines())
    assert id in caplog.text


async def test_a_megabyte_of_error_is_a_few_kilobytes_of_log(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(retry=Retry(times=1, base=0.0))
    async def fail() -> None:
        raise ValueError("ü\n" * 500_000)

    await run(app, fail)

    assert len(caplog.text.encode()) < 64 * 1024
    assert max(len(line.encode()) for line in caplog.text.splitlines()) < 8 * 1024


async def test_every_other_end_names_task_and_message(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    times = 0

    @app.task(name="again")
    async def again() -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise RetryLater(0.01)

    @app.task(name="late")
    async def late() -> None: ...

    @app.task(name="add")
    async def add(x: int) -> int:
        return x

    async with app:
        delayed = await again.enqueue()
        expired = await late.options(expires=0.0).enqueue()
        wrong = await app.enqueue(add.s(1))
        async with app.worker():
            await delayed.get(timeout=PATIENCE)
            with pytest.raises(TaskExpired):
                await expired.get(timeout=PATIENCE)
            await until_status(wrong, Status.SUCCEEDED)

    text = "\n".join(record.getMessage() for record in caplog.records)
    assert f"task again[{delayed.id}] asked to run again in 0.0 s (attempt 1)" in text
    assert f"task late[{expired.id}] expired 0." in text
    assert f"task add[{wrong.id}] received: attempt 1, queue default" in text
    assert f"task add[{wrong.id}] succeeded in 0." in text


async def test_tasks_that_succeed_are_not_mentioned_above_debug(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    async def add(x: int) -> int:
        return x

    with caplog.at_level(logging.INFO, "asyncq"):
        async with app.worker():
            result = await add.enqueue(1)
            await result.get(timeout=PATIENCE)

    assert result.id not in caplog.text


@pytest.mark.parametrize("broken", ["handler", "filter", "factory"])
async def test_logging_that_raises_ends_neither_task_nor_worker(
    app: App, broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raised = 0

    def fail(*_: object, **__: object) -> Any:
        nonlocal raised
        raised += 1
        raise RuntimeError("the disk of the log is full")

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fail()

    handler = Broken() if broken == "handler" else logging.StreamHandler()
    if broken == "filter":
        handler.addFilter(fail)
    if broken == "factory":
        monkeypatch.setattr(logging, "_logRecordFactory", fail)
    logger = logging.getLogger("asyncq")
    logger.addHandler(handler)

    @app.task(retry=Retry(times=1, base=0.0))
    async def task(succeeds: bool) -> str:
        if not succeeds:
            raise ValueError
        return "done"

    try:
        async with app.worker():
            failing, fine = await task.enqueue(False), await task.enqueue(True)
            with pytest.raises(TaskFailed, match="ValueError"):
                await failing.get(timeout=PATIENCE)
            assert await fine.get(timeout=PATIENCE) == "done"
    finally:
        logger.removeHandler(handler)

    assert raised >= 2
    assert "the disk of the log is full" in capsys.readouterr().err


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """What a test configures ends with it."""
    loggers = [
        logger
        for logger in (logging.getLogger(), *logging.Logger.manager.loggerDict.values())
        if isinstance(logger, logging.Logger)
    ]
    before = [
        (logger, logger.level, logger.handlers[:], logger.disabled, logger.propagate)
        for logger in loggers
    ]
    yield
    for logger, level, handlers, disabled, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.disabled = disabled
        logger.propagate = propagate


@pytest.mark.usefixtures("logging_restored")
def test_dict_config_silences_asyncq_only_when_it_says_so() -> None:
    log, other = get_logger("asyncq.worker.tasks"), logging.getLogger("somebody.else")

    logging.config.dictConfig({"version": 1})  # disables what exists, by default

    assert (other.disabled, log.disabled) == (True, False)
    logging.config.dictConfig({"version": 1, "loggers": {"asyncq": {"level": "CRITICAL"}}})
    assert not log.isEnabledFor(logging.ERROR)
    logging.config.dictConfig({"version": 1, "loggers": {"asyncq": {"level": "DEBUG"}}})
    assert log.isEnabledFor(logging.ERROR)
    log.disabled = True
    assert not log.isEnabledFor(logging.ERROR)


def test_every_logger_of_the_package_is_one_of_ours() -> None:
    import_module("asyncq.cli.main")  # and nearly everything with it

    plain = [
        name
        for name, logger in logging.Logger.manager.loggerDict.items()
        if name.startswith("asyncq.") and type(logger) is logging.Logger
    ]

    assert plain == [], "write log = get_logger(__name__), of asyncq.loggers"


def test_a_record_names_the_line_that_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        get_logger("asyncq.of.a.test").info("here")

    [record] = caplog.records
    assert record.pathname == __file__
    assert record.funcName == test_a_record_names_the_line_that_logged.__name__


async def test_a_worker_that_ends_says_how_many_tasks_came_to_which_end(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(retry=Retry(times=1, base=0.0))
    async def work(succeeds: bool) -> None:
        if not succeeds:
            raise ValueError

    async with app:
        await app.enqueue_many(work.s(n > 1) for n in range(5))
        await work.options(expires=0.0).enqueue(True)
        worker = app.make_worker(burst=True)
        await worker.run()

    [line] = [text for text in caplog.messages if "ended, for" in text]
    assert line == (
        f"worker {worker.name} ended, for its queues are empty: "
        "8 tasks: 3 succeeded, 2 failed, 2 to be retried, 1 expired"
    )


async def test_what_a_stopping_worker_requeues_is_named_and_counted(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    @app.task(name="work")
    async def work() -> None:
        gate.open()
        await anyio.sleep_forever()

    async with app, app.worker(grace=0.0):
        result = await work.enqueue()
        await gate.pass_through()

    assert f"task work[{result.id}] was cancelled and requeued" in caplog.text
    assert " ended: 1 task: 0 succeeded, 1 requeued" in caplog.text
