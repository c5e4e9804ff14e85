"""Waiting for many results at once: `as_completed` and `gather`."""

from typing import Any, cast

import anyio
import pytest
from anyio import fail_after, to_thread

from asyncq.app import App
from asyncq.client.gathering import as_completed, gather
from asyncq.client.result import Result
from asyncq.errors import TaskFailed
from asyncq.language.message import new_id
from tests.client.given import PATIENCE, Gate, until


class Gates:
    """A gate for each of some tasks."""

    def __init__(self, app: App, names: str) -> None:
        self.gates = {name: Gate() for name in names}

        @app.task
        async def wait(name: str) -> str:
            await self.gates[name].pass_through()
            if name.isupper():
                raise ValueError(name)
            return name

        self.task = wait

    async def send(self) -> list[Any]:
        return [await self.task.enqueue(name) for name in self.gates]


def waiting(app: App) -> dict[str, Any]:
    return app.client.waiters._waiting  # pyright: ignore[reportPrivateUsage]


async def test_results_come_in_the_order_in_which_they_end(app: App) -> None:
    gates = Gates(app, "abc")
    order: list[str] = []

    async with app.worker():
        results = await gates.send()
        gates.gates["c"].open()
        with fail_after(PATIENCE):
            async for result in as_completed(results):
                order.append(await result)
                if len(order) < 3:
                    gates.gates["_ba"[len(order)]].open()

    assert order == ["c", "b", "a"]


async def test_a_failure_comes_in_its_turn(app: App) -> None:
    gates = Gates(app, "aB")

    async with app.worker():
        results = await gates.send()
        for gate in gates.gates.values():
            gate.open()
        outcomes: dict[str, str] = {}
        with fail_after(PATIENCE):
            async for result in as_completed(results):
                try:
                    outcomes[result.id] = await result
                except TaskFailed as error:
                    outcomes[result.id] = error.type

    assert [outcomes[result.id] for result in results] == ["a", "ValueError"]


async def test_the_timeout_counts_from_one_end_to_the_next(app: App) -> None:
    gates = Gates(app, "ab")

    async with app.worker():
        results = await gates.send()
        gates.gates["a"].open()
        ended = as_completed(results, timeout=0.2)
        assert await (await anext(ended)) == "a"
        with pytest.raises(TimeoutError, match=r"none of 1 result has an outcome after 0\.2 s"):
            await anext(ended)

        gates.gates["b"].open()
        assert await (await anext(ended)) == "b"
        with pytest.raises(StopAsyncIteration):
            await anext(ended)


async def test_who_is_cancelled_while_the_next_is_awaited_has_it_when_he_asks_again(
    app: App,
) -> None:
    gates = Gates(app, "ab")

    async with app.worker():
        results = await gates.send()
        ended = as_completed(results)
        with anyio.move_on_after(0.05):
            await anext(ended)
        for gate in gates.gates.values():
            gate.open()

        with fail_after(PATIENCE):
            assert sorted([await result async for result in ended]) == ["a", "b"]


@pytest.mark.parametrize("how", ["left", "cancelled", "in a thread"])
async def test_what_is_iterated_over_no_more_is_not_waited_for(app: App, how: str) -> None:
    gates = Gates(app, "ab")

    async def leave() -> None:
        async for _ in as_completed(results):
            break

    async with app.worker():
        results = await gates.send()
        gates.gates["a"].open()
        if how == "left":
            await leave()
        elif how == "cancelled":
            with anyio.move_on_after(0.05):
                async for _ in as_completed(results):
                    pass
        else:
            kept = [as_completed(results)]
            await to_thread.run_sync(kept.clear)

        await until(lambda: not waiting(app))
        gates.gates["b"].open()


async def test_of_nothing_nothing_comes() -> None:
    nothing: list[Result[int]] = []

    assert [result async for result in as_completed(nothing)] == []
    assert await gather() == []


async def test_values_are_gathered_in_the_order_of_the_results(app: App) -> None:
    gates = Gates(app, "abc")

    async with app.worker():
        results = await gates.send()
        for name in "cab":
            gates.gates[name].open()

        assert await gather(*results, timeout=PATIENCE) == ["a", "b", "c"]
        assert await gather(results[1], results[1], timeout=PATIENCE) == ["b", "b"]


async def test_the_first_failure_is_raised_and_the_others_go_on(app: App) -> None:
    gates = Gates(app, "aBc")

    async with app.worker():
        results = await gates.send()
        gates.gates["B"].open()
        with pytest.raises(TaskFailed, match="ValueError: B"):
            await gather(*results, timeout=PATIENCE)
        await until(lambda: not waiting(app))

        gates.gates["a"].open()
        gates.gates["c"].open()
        assert await results[2].get(timeout=PATIENCE) == "c"


async def test_failures_are_put_in_their_places_on_request(app: App) -> None:
    gates = Gates(app, "aBc")

    async with app.worker():
        results = await gates.send()
        for gate in gates.gates.values():
            gate.open()
        a, b, c = await gather(*results, return_exceptions=True, timeout=PATIENCE)

    assert (a, c) == ("a", "c")
    assert isinstance(b, TaskFailed)


async def test_gathering_ends_in_a_timeout_as_a_whole(app: App) -> None:
    gates = Gates(app, "ab")

    async with app.worker():
        results = await gates.send()
        gates.gates["a"].open()
        with pytest.raises(TimeoutError, match=r"1 of 2 results have no outcome after 0\.1 s"):
            await gather(*results, timeout=0.1)

        await until(lambda: not waiting(app))
        gates.gates["b"].open()


async def test_who_is_cancelled_while_gathering_leaves_nothing_behind(app: App) -> None:
    async with app:
        results = [app.result(new_id()) for _ in range(5)]
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: gather(*results))
            await until(lambda: len(waiting(app)) == 5)
            group.cancel_scope.cancel()

        await until(lambda: not waiting(app))


async def test_a_thousand_results_are_gathered(app: App) -> None:
    @app.task
    async def square(n: int) -> int:
        return n * n

    async with app.worker():
        results = await app.enqueue_many(square.s(n) for n in range(1_000))

        assert await gather(*results, timeout=PATIENCE) == [n * n for n in range(1_000)]


async def take_first(result: Result[Any]) -> object:
    return await anext(as_completed([result]))


async def test_what_is_no_result_is_named_with_what_to_write(app: App) -> None:
    @app.task
    async def one() -> int:
        return 1

    async with app:
        unsent: Any = one.enqueue()
        for wait in (gather, take_first):
            with pytest.raises(TypeError, match=r"has sent nothing yet: write 'await task\.enq"):
                await wait(unsent)
            with pytest.raises(TypeError, match=r"waits for results, .* not 'some-id'"):
                await wait(cast("Any", "some-id"))
        unsent.close()


async def test_one_result_without_a_list_is_told_to_be_put_into_one(app: App) -> None:
    @app.task
    async def one() -> int:
        return 1

    async with app:
        result: Any = await one.enqueue()
        with pytest.raises(TypeError, match="takes the results in a list"):
            as_completed(result)
