"""The app as something that is entered: by whom, how often, and what it never says."""

import logging
import traceback
from typing import Any

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.errors import ConfigurationError
from asyncq.language.message import new_id
from asyncq.language.topology import Queue
from tests.client.given import PATIENCE, new_app

SECRET = "s3cr3t-w0rd"


async def test_who_enters_first_may_leave_first(app: App) -> None:
    inside, leave = anyio.Event(), anyio.Event()

    @app.task
    async def one() -> None: ...

    async def first() -> None:
        async with app:
            inside.set()
            await leave.wait()

    async def second() -> None:
        await inside.wait()
        async with app:
            leave.set()
            await anyio.wait_all_tasks_blocked()
            await one.enqueue()

    with fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            group.start_soon(second)


async def test_who_enter_at_once_share_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[MemoryBroker] = []
    enter = MemoryBroker.__aenter__

    async def count(self: MemoryBroker) -> MemoryBroker:
        entered.append(self)
        return await enter(self)

    monkeypatch.setattr(MemoryBroker, "__aenter__", count)
    app = new_app()
    both = anyio.Event()

    async def use() -> None:
        async with app:
            if app.client.entered == 2:
                both.set()
            await both.wait()

    with fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(use)
            group.start_soon(use)

    assert len(entered) == 1


async def test_an_app_may_be_entered_again(app: App) -> None:
    @app.task
    async def one() -> int:
        return 1

    for _ in range(3):
        async with app, app.worker():
            assert await (await one.enqueue()).get(timeout=PATIENCE) == 1
        with pytest.raises(ConfigurationError, match="not connected"):
            await one.enqueue()


async def test_an_error_in_the_block_comes_out_as_itself(app: App) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app, app:
            _ = 1 / 0


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@127.0.0.1:1/0",
        f"redis://:{SECRET}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={SECRET}",
        f"rediss://user:{SECRET}@127.0.0.1:1/0",
        f"redis://user:%40{SECRET}/with?signs@127.0.0.1:1/0",
        f"nonsense://user:{SECRET}@host/0",
    ],
)
async def test_a_password_shows_in_no_repr_log_or_error(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []

    with caplog.at_level(logging.DEBUG):
        try:
            app = App(url)
            said += [repr(app), str(app.url), repr(app.url), f"{app.url}", f"{app.url!r}"]
            said += [repr(app.backend_url), repr(vars(app))]
            with fail_after(PATIENCE):
                async with app:
                    said.append("connected")
        except Exception as error:  # noqa: BLE001 - any
            said += [repr(error), *traceback.format_exception(error)]

    assert SECRET not in "\n".join(said)
    assert SECRET not in caplog.text
    assert "connected" not in said


def test_the_password_reaches_the_library_that_connects() -> None:
    url = f"redis://user:{SECRET}@127.0.0.1:1/0?prefix={new_id()}"

    assert App(url).url.reveal() == url


def test_the_broker_is_given_or_of_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ASYNCQ_BROKER", raising=False)
    assert App().url == "sqlite:///asyncq.db"

    monkeypatch.setenv("ASYNCQ_BROKER", "memory://of-the-environment")
    assert App().url == "memory://of-the-environment"
    assert App("memory://given").url == "memory://given"


async def test_a_scheme_that_no_driver_takes_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"no broker driver for .*kafka.*redis://"):
        async with App("kafka://host"):
            pass
    with pytest.raises(ConfigurationError, match=r"no backend driver for .*null://"):
        async with App("memory://x", backend="kafka://host"):
            pass


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"broker": "memory://a", "brokers": {"default": "memory://b"}}, "not both"),
        ({"brokers": {"eu": "memory://b"}}, "needs one named default.*there is eu"),
        ({"brokers": {}}, "needs one named default"),
        ({"brokers": {"default": "memory://b", "eu": []}}, "broker eu has no URL"),
        ({"queues": [Queue("mail", broker="eu")]}, "queue mail: there is no broker 'eu'.*default"),
        ({"routes": {"*": Queue("mail", broker="eu")}}, "queue mail: there is no broker 'eu'"),
        ({"queues": [Queue("mail"), Queue("mail")]}, "declared twice"),
    ],
    ids=str,
)
def test_brokers_and_queues_that_do_not_fit_are_refused_at_once(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        App(**options)


def test_several_brokers_have_names_and_the_default_ones_store_the_outcomes() -> None:
    app = App(brokers={"eu": "memory://eu", "default": "memory://here"})

    assert app.urls == {"eu": ("memory://eu",), "default": ("memory://here",)}
    assert app.url == app.backend_url == "memory://here"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("rabbitmq://host", "write amqp://"),
        ("valkey://host", "write redis://"),
        ("postgres://host/db", "cannot be used yet"),
        ("reddis://host", "do you mean redis"),
        ("localhost:6379", "no broker driver"),
        ("sqlite://file.db", "sqlite:///file.db"),
        ("localhost:6379", "did you mean redis://localhost:6379"),
        ("user@rabbit:5672", "did you mean amqp://user@rabbit:5672"),
        ("tasks.db", "write sqlite:///tasks.db"),
        ("redis://host:port/0", "no port that can be"),
        ("redis://host:99999/0", "no port that can be"),
        ("redis://host/zero", "a database of Redis is a number"),
        ("redis://host/0?prefx=a", "do you mean prefix"),
        ("amqp://host?heartbeat=soon", "heartbeat is from 0 to 65535"),
        ("amqp://host?heartbeat=-1", "heartbeat is from 0 to 65535"),
        ("amqp://host?prefetch=0", "prefetch is from 1 to 65535"),
        ("amqps://host?verify=maybe", "verify is yes or no"),
        ("amqp://host?heartbeet=5", "do you mean heartbeat"),
        ("sqlite:///a.db?synchronous=never", "synchronous is full or normal"),
        ("sqlite:///a.db?sync=full", "unknown option sync"),
        ("sqlite:///a#b.db", "write %3F for a"),
        ("sqlite:///what?.db", "write %3F for a"),
        ("sqlite:///a.db?synchronous", "options, name=value"),
        ("redis://host:6379/0#1", "%23 for a #"),
        ("amqp://host/a#b", "%23 for a #"),
    ],
)
def test_a_url_is_checked_when_the_app_is_made(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        App(url)
    with pytest.raises(ConfigurationError, match=complaint.replace("broker", "backend")):
        App("memory://", backend=url)
