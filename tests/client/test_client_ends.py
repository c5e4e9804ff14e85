"""A client that ends for good: whoever waits, sends or works there hears of it at once, and why.

What drivers raise never ends one. It takes an error in the machinery itself, which is put there.
"""

import asyncio
import logging
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client.publisher import Publisher
from asyncq.client.result import record_of
from asyncq.client.waiters import Waiters
from asyncq.errors import BrokerUnavailable
from tests.client.given import PATIENCE, until

Break = Callable[[], None]


class Broken(Exception):
    """What nobody has thought of."""


@pytest.fixture(params=["publisher", "waiters"])
def break_it(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Break:
    """Ends the app's client when it is called, by the one or the other of what runs in it."""
    broken = anyio.Event()
    clients: list[object] = []

    async def run(of: object) -> None:
        clients.append(of)
        await broken.wait()
        if len(clients) > 1:  # of one that came after it
            await anyio.sleep_forever()
        raise Broken("a wheel came off")

    if request.param == "publisher":
        original = Publisher.run

        async def publish(publisher: Publisher) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(run, publisher)
                await original(publisher)

        monkeypatch.setattr(Publisher, "run", publish)
    else:
        monkeypatch.setattr(Waiters, "listen", run)
    return broken.set


async def test_who_waits_and_who_begins_to_hears_what_ended_it(app: App, break_it: Break) -> None:
    @app.task
    async def same(n: int) -> int:
        return n

    with fail_after(PATIENCE):
        async with app:
            waited_for = await same.enqueue(1)
            heard: list[BaseException] = []

            async def wait() -> None:
                try:
                    await waited_for
                except Exception as error:  # noqa: BLE001 - whatever it is
                    heard.append(error)

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(wait)
                await anyio.lowlevel.checkpoint()
                break_it()
            later = app.result("another")
            for handle in (waited_for, later):
                with pytest.raises(Broken, match="a wheel came off"):
                    await handle.get(timeout=PATIENCE)

    assert len(heard) == 3
    assert {type(error) for error in heard} == {Broken}


async def test_who_sends_hears_of_it_and_nothing_hangs(
    app: App, break_it: Break, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    async def same(n: int) -> int:
        return n

    with fail_after(PATIENCE):
        async with app:
            await same.enqueue(1)
            # It listens from when one is waited for.
            waits = asyncio.ensure_future(record_of(await same.enqueue(2)))
            await anyio.lowlevel.checkpoint()
            break_it()
            with pytest.raises(Broken):
                await waits
            for _ in range(2):
                with pytest.raises(Broken):
                    await same.enqueue(3)
            with pytest.raises(Broken):
                await app.enqueue_many(same.s(n) for n in range(5))
        async with app:  # entered anew, it is a client anew
            assert (await app.queues.depth("default")).ready >= 2

    [line] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert line.getMessage() == "the client has failed; nothing more can be sent or awaited"
    assert line.exc_info is not None


async def test_a_worker_of_that_client_ends_with_the_reason_and_is_not_ready(
    app: App, break_it: Break
) -> None:
    @app.task
    async def same(n: int) -> int:
        return n

    with fail_after(PATIENCE):
        async with app:
            worker = app.make_worker()
            ended: list[BaseException] = []

            async def work() -> None:
                try:
                    await worker.run()
                except Exception as error:  # noqa: BLE001 - whatever it is
                    ended.append(error)

            async with anyio.create_task_group() as group:
                group.start_soon(work)
                await until(lambda: worker.is_consuming)
                assert await (await same.enqueue(1)).get(timeout=PATIENCE) == 1
                break_it()

            assert not worker.is_consuming  # what /ready asks
            [error] = ended
            assert "a wheel came off" in repr(error)


async def test_a_block_with_a_worker_ends_at_once_with_the_reason(
    app: App, break_it: Break
) -> None:
    async def work_for_ever() -> None:
        async with app, app.worker() as worker:
            await until(lambda: worker.is_consuming)
            break_it()
            await anyio.sleep_forever()

    with fail_after(PATIENCE), pytest.raises(Broken, match="a wheel came off"):
        await work_for_ever()


async def test_a_client_that_was_left_has_not_failed(app: App) -> None:
    @app.task
    async def same(n: int) -> int:
        return n

    async with app:
        client = app.client
    with fail_after(PATIENCE):
        await client.until_failed()

        with pytest.raises(BrokerUnavailable, match="the app was closed"):
            await client.enqueue(same.s(1))
