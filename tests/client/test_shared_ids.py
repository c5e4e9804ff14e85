"""Several handles of one id: each has what came for it, and none asks for it again."""

from collections.abc import Sequence

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client.arrivals import UNSURE, Arrivals
from asyncq.client.result import Result
from asyncq.drivers.memory.backend import MemoryBackend
from asyncq.errors import UnknownResult
from asyncq.language.record import Record
from tests.client.given import PATIENCE, until
from tests.client.test_arrivals import record_of


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the backend was asked for."""
    asked: list[str] = []
    fetch = MemoryBackend.fetch

    async def noted(backend: MemoryBackend, ids: Sequence[str]) -> Sequence[Record | None]:
        asked.extend(ids)
        return await fetch(backend, ids)

    monkeypatch.setattr(MemoryBackend, "fetch", noted)
    return asked


def has_come(result: Result[int]) -> bool:
    return "succeeded" in repr(result)


async def test_two_handles_of_an_id_of_ones_own_both_have_what_was_pushed(
    app: App, fetched: list[str]
) -> None:
    may_end = anyio.Event()

    @app.task
    async def same(n: int) -> int:
        if n:
            await may_end.wait()
        return n

    with fail_after(PATIENCE):
        async with app, app.worker():
            assert await (await same.enqueue(0)).get(timeout=PATIENCE) == 0
            first = await same.options(id="mine").enqueue(1)
            second = await same.options(id="mine").enqueue(1)
            third, other = await app.enqueue_many(
                [same.options(id="mine").s(1), same.options(id="another").s(2)]
            )
            may_end.set()
            await until(lambda: all(map(has_come, (first, second, third, other))))
            fetched.clear()

            assert (await first, await second, await first, await third) == (1, 1, 1, 1)
            assert await other == 2

    assert not fetched


async def test_a_handle_made_by_its_id_leaves_the_first_what_it_takes(
    app: App, fetched: list[str]
) -> None:
    @app.task
    async def same(n: int) -> int:
        return n

    with fail_after(PATIENCE):
        async with app, app.worker():
            assert await (await same.enqueue(0)).get(timeout=PATIENCE) == 0
            first = await same.enqueue(1)
            second, third = app.result(first.id), same.result(first.id)
            await until(lambda: has_come(second))
            fetched.clear()

            assert (await second, await first, await third) == (1, 1, 1)

    assert not fetched


async def test_what_was_forgotten_comes_from_no_handle(app: App) -> None:
    @app.task
    async def same(n: int) -> int:
        return n

    with fail_after(PATIENCE):
        async with app, app.worker():
            assert await (await same.enqueue(0)).get(timeout=PATIENCE) == 0
            first = await same.enqueue(1)
            second = app.result(first.id)
            await until(lambda: has_come(second))
            await first.forget()

            for handle in (first, second, first):
                with pytest.raises(UnknownResult):
                    await handle.get(timeout=PATIENCE)


def test_the_earlier_handle_is_told_when_the_later_one_is_gone() -> None:
    arrivals = Arrivals(remembers=False)
    arrivals.listen()
    first = arrivals.sent_as("mine")
    second = arrivals.sent_as("mine")
    assert arrivals.others(second) == [first]

    del second
    arrivals.sent_together([], UNSURE)  # when something is sent, it is cleared away

    assert arrivals.find("mine") is first
    arrivals.keep(first, record_of("mine"))
    assert first.take("mine") is not None


def test_those_that_were_sent_before_anybody_listened_know_of_each_other() -> None:
    arrivals = Arrivals(remembers=False)
    together = arrivals.sent_together(["mine", "other"], 1)
    alone = arrivals.sent_as("mine")

    arrivals.listen()

    assert arrivals.find("mine") is alone
    assert arrivals.others(alone) == [together]
    assert arrivals.find("other") is together


def test_ids_that_are_sent_again_and_again_leave_nothing_behind() -> None:
    arrivals = Arrivals(remembers=False)
    arrivals.listen()
    last = arrivals.sent_as("mine")
    for _ in range(1000):
        last = arrivals.sent_as("mine")

    assert len(arrivals.living()) == 1
    assert arrivals.others(last) == []
