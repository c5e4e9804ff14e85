"""The client for code without an event loop: how it begins and ends, and where it may be used."""

# pyright: reportPrivateUsage=false

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.to_thread
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client import loop_thread
from asyncq.client.sync import SyncClient
from asyncq.errors import ConfigurationError
from asyncq.language.message import Status
from tests.client.given import PATIENCE


def threads_of_clients() -> int:
    return sum(thread.name == "asyncq-sync" for thread in threading.enumerate())


def wait_until(holds: Callable[[], bool]) -> None:
    """Block until something is so that tells nobody."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_blocks_may_be_nested_and_share_a_thread(app: App) -> None:
    @app.task
    async def one() -> None: ...

    client = app.sync()
    with client as outer:
        with client as inner:
            assert inner is outer
            assert threads_of_clients() == 1
        assert client.enqueue(one.s()).status() is Status.QUEUED

    assert threads_of_clients() == 0


def test_threads_may_enter_one_client_in_any_order(app: App) -> None:
    @app.task
    async def one() -> None: ...

    client = app.sync()

    def use(_: int) -> Status:
        with client:
            return client.enqueue(one.s()).status()

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(use, range(50))) == {Status.QUEUED}
    assert threads_of_clients() == 0


def test_it_may_be_entered_again_and_its_handles_go_on(app: App) -> None:
    @app.task
    async def one() -> None: ...

    client = app.sync()
    with client:
        result = client.enqueue(one.s())
    with client:
        assert result.status() is Status.QUEUED


def test_it_says_that_it_is_not_connected(app: App) -> None:
    @app.task
    async def one() -> None: ...

    client = app.sync()
    with pytest.raises(ConfigurationError, match=r"not connected: use it inside of 'with app"):
        client.enqueue(one.s())
    with client:
        result = client.enqueue(one.s())

    for use in (
        lambda: client.enqueue(one.s()),
        lambda: client.enqueue_many([one.s()]),
        lambda: client.result("some-id"),
        result.get,
        result.status,
        result.progress,
        result.forget,
    ):
        with pytest.raises(ConfigurationError, match="not connected any more: use it inside of"):
            use()


async def test_it_does_not_stop_an_event_loop(app: App) -> None:
    @app.task
    async def one() -> int:
        return 1

    async with app.worker():
        with app.sync() as client:  # as a program's start may do, for its threads
            result = await anyio.to_thread.run_sync(client.enqueue, one.s())
            for use in (lambda: client.enqueue(one.s()), result.get, lambda: client.result("x")):
                with pytest.raises(ConfigurationError, match=r"this client blocks.*await task\."):
                    use()
            assert await anyio.to_thread.run_sync(result.get, PATIENCE) == 1


def test_a_thread_that_waits_hears_that_the_client_was_closed(app: App) -> None:
    @app.task
    async def never() -> None: ...

    with ThreadPoolExecutor(1) as threads:
        with app.sync() as client:
            result = client.enqueue(never.s())
            wait_until(lambda: not _calls(client))
            waits = threads.submit(result.get)
            wait_until(lambda: _calls(client) == 1)
        with pytest.raises(ConfigurationError, match=r"closed|not connected any more"):
            waits.result(PATIENCE)


def test_a_wait_ends_in_time_where_the_loop_does_not_turn(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    async def never() -> None: ...

    monkeypatch.setattr(loop_thread, "LATE", 0.05)
    go_on = threading.Event()
    with app.sync() as client:
        result = client.enqueue(never.s())
        _loop(client).call_soon_threadsafe(go_on.wait)

        with pytest.raises(TimeoutError, match=r"event loop has not answered in 0\.05 s"):
            result.get(timeout=0.05)
        go_on.set()
        assert result.status() is Status.QUEUED
        wait_until(lambda: not _calls(client))  # what nobody waits for is given up


def test_a_thread_that_came_to_harm_is_replaced(app: App) -> None:
    @app.task
    async def never() -> None: ...

    with app.sync() as client, ThreadPoolExecutor(1) as threads:
        result = client.enqueue(never.s())
        wait_until(lambda: not _calls(client))
        waits = threads.submit(result.get)
        wait_until(lambda: _calls(client) == 1)
        thread = client._thread
        assert thread is not None
        thread.loop.call_soon_threadsafe(thread.loop.stop)

        with pytest.raises(ConfigurationError, match="closed"):
            waits.result(PATIENCE)
        wait_until(lambda: thread.is_over)
        assert result.status() is Status.QUEUED


def test_a_client_that_nobody_has_any_more_ends(app: App) -> None:
    client = app.sync().__enter__()
    assert threads_of_clients() == 1
    gone = weakref.ref(client)

    del client
    gc.collect()

    assert gone() is None
    wait_until(lambda: not threads_of_clients())


def test_a_broker_that_is_not_there_is_told_as_the_block_is_entered() -> None:
    with (
        pytest.raises(ConfigurationError, match="there is no folder"),
        App("sqlite:////nowhere/queue.db").sync(),
    ):
        pass
    assert threads_of_clients() == 0


def test_a_plain_task_has_its_message_for_a_parent(app: App) -> None:
    """Also where it sends through a thread."""

    @app.task
    async def leaf() -> str | None:
        from asyncq.client.context import current_context

        return current_context().parent_id

    @app.task
    def root() -> str | None:
        with app.sync() as client:
            return client.enqueue(leaf.s()).get(timeout=PATIENCE)

    async def main() -> None:
        async with app.worker():
            with fail_after(PATIENCE):
                result = await root.enqueue()
                assert await result == result.id

    asyncio.run(main())


def _loop(client: SyncClient) -> asyncio.AbstractEventLoop:
    thread = client._thread
    assert thread is not None
    return thread.loop


def _calls(client: SyncClient) -> int:
    thread = client._thread
    return 0 if thread is None else len(thread._tasks)
