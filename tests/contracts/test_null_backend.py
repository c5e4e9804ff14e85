"""The backend that keeps nothing takes all that others take, and says so to who waits."""

from collections.abc import AsyncIterator

import anyio
import pytest
from anyio import fail_after, move_on_after

from asyncq.app import App
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.table import make_backend
from asyncq.errors import UnknownResult
from asyncq.language.message import new_id
from asyncq.seams.backend import Backend
from asyncq.seams.feeds import replies_to
from asyncq.testing.contracts.given import record

PATIENCE = 20.0  # seconds


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with make_backend(Url("null://"), SystemClock()) as backend:
        yield backend


async def test_records_are_taken_and_none_is_kept(backend: Backend) -> None:
    stored = record(new_id(), 1)

    await backend.store_records([stored])
    await backend.store_records([])
    await backend.forget([stored.id])

    assert list(await backend.fetch([stored.id, new_id()])) == [None, None]


async def test_nothing_is_pushed_and_the_driver_says_so_beforehand(backend: Backend) -> None:
    assert backend.offers.tells_nothing
    async with backend.subscribe(replies_to("me")) as replies:
        await backend.store_records([record(new_id(), reply_to="me")])

        with move_on_after(0.05) as waited:
            await replies.receive()

    assert waited.cancelled_caught


async def test_who_waits_for_an_outcome_is_told_at_once_and_the_task_runs() -> None:
    app = App(f"memory://{new_id()}", backend="null://")
    ran: list[int] = []
    done = anyio.Event()

    @app.task
    async def note(number: int) -> None:
        ran.append(number)
        done.set()

    with fail_after(PATIENCE):
        async with app:
            result = await note.enqueue(7)
            with pytest.raises(UnknownResult, match="null://"):
                await result
            async with app.worker():
                await done.wait()

    assert ran == [7]
