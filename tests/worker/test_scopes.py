"""Scopes: what is begun within ends within, on whatever broker and backend."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest

import asyncq
from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.result import Result
from asyncq.client.scope import Scope
from asyncq.client.task import Task
from asyncq.errors import (
    ConfigurationError,
    InvalidValue,
    RetryLater,
    Snooze,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
)
from asyncq.language import scopes
from asyncq.language.message import Status, new_id
from asyncq.language.policies import Retry
from asyncq.worker import executor
from tests.client.given import PATIENCE, new_app, until
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture

DAY = 86400.0
AT_ONCE = 2.0  # seconds


class Tree:
    """Tasks that begin others, and what became of them."""

    def __init__(self, app: App) -> None:
        self.ran: list[str] = []
        self.cancelled: Counter[str] = Counter()
        self.is_free = asyncio.Event()
        self.leaf: Task[[str], str] = app.task(name="leaf")(self._leaf)
        self.hold: Task[[str], str] = app.task(name="hold")(self._hold)
        self.grow: Task[[int, int], int] = app.task(name="grow")(self._grow)

    async def _leaf(self, name: str) -> str:
        self.ran.append(name)
        return name

    async def _hold(self, name: str) -> str:
        self.ran.append(name)
        try:
            await self.is_free.wait()
        except asyncio.CancelledError as error:
            self.cancelled[str(error)] += 1
            raise
        return name

    async def _grow(self, levels: int, width: int) -> int:
        """A tree of tasks, whose last ones wait until they are let go."""
        self.ran.append(f"level {levels}")
        for n in range(width):
            if levels > 1:
                await self.grow.enqueue(levels - 1, width)
            else:
                await self.hold.enqueue(f"leaf {n}")
        return levels


class Broken(Exception):
    """What a block is left by."""


@asynccontextmanager
async def left_by_an_error() -> AsyncGenerator[Scope]:
    """A scope whose block raises at its end."""
    with suppress(Broken):
        async with asyncq.scope() as scope:
            yield scope
            raise Broken


async def test_left_normally_it_waits_for_all_children_of_children_included(any_app: App) -> None:
    tree = Tree(any_app)
    async with any_app, any_app.worker():
        with anyio.fail_after(PATIENCE):
            async with asyncq.scope() as scope:
                await tree.grow.enqueue(2, 2)
                asyncio.get_running_loop().call_later(1.0, tree.is_free.set)
            assert tree.is_free.is_set()
        assert Counter(tree.ran) == {"level 2": 1, "level 1": 2, "leaf 0": 2, "leaf 1": 2}
        assert not tree.cancelled
        assert repr(scope) == "<scope of 7 tasks, left>"


async def test_left_by_an_error_it_cancels_the_tree_wherever_it_is(any_app: App) -> None:
    tree = Tree(any_app)
    async with any_app, any_app.worker():
        async with left_by_an_error():
            await tree.grow.enqueue(2, 2)
            later = await tree.leaf.options(delay=DAY).enqueue("later")
            outside = await tree.leaf.options(delay=0.5, scope=None).enqueue("outside")
            await until(lambda: len(tree.ran) == 7)
            left = time.monotonic()
        await until(lambda: tree.cancelled.total() == 4)
        assert time.monotonic() - left < AT_ONCE
        assert list(tree.cancelled) == ["its scope was left by an error"]
        with pytest.raises(TaskCancelled, match="its scope was left by an error"):
            await later.get(timeout=AT_ONCE)  # and not in a day
        assert await outside.get(timeout=PATIENCE) == "outside"


async def test_what_waits_never_starts_once_its_scope_was_left(any_app: App) -> None:
    """Also what nobody knows of but who began it."""
    tree = Tree(any_app)
    async with any_app:
        async with left_by_an_error():
            waiting = await any_app.enqueue_many(tree.leaf.s(str(n)) for n in range(3))
        async with any_app.worker():
            for result in waiting:
                with pytest.raises(TaskCancelled, match="left by an error"):
                    await result.get(timeout=PATIENCE)
            assert await (await tree.leaf.enqueue("another")).get(timeout=PATIENCE) == "another"
    assert tree.ran == ["another"]


async def test_failures_are_raised_together_when_all_have_ended(any_app: App) -> None:
    tree = Tree(any_app)

    @any_app.task
    async def fail(text: str) -> None:
        raise ValueError(text)

    @any_app.task
    async def send_two() -> None:
        await fail.enqueue("the child of a child")
        await tree.leaf.enqueue("one")

    @any_app.task
    async def forget() -> None:
        raise asyncq.Ignore("nobody needs it")

    async with any_app, any_app.worker():
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - it is raised by the block's end
            async with asyncq.scope():
                await fail.enqueue("the first")
                await send_two.enqueue()
                await forget.enqueue()
                await tree.leaf.enqueue("two")
                await tree.leaf.options(expires=0).enqueue("expires")
    failed, others = caught.value.split(TaskFailed)
    assert failed is not None
    assert others is not None
    assert sorted(each.message for each in failed.exceptions if isinstance(each, TaskFailed)) == [
        "the child of a child",
        "the first",
    ]
    assert [type(each) for each in others.exceptions] == [TaskExpired]
    assert sorted(tree.ran) == ["one", "two"]
    assert str(caught.value) == "3 of 7 tasks of a scope failed (3 sub-exceptions)"


async def test_values_and_failures_are_collected(any_app: App) -> None:
    tree = Tree(any_app)

    @any_app.task
    async def fail(text: str) -> None:
        raise ValueError(text)

    @any_app.task
    async def send_one() -> str:
        await fail.enqueue("of a child")
        return "sent"

    async with any_app, any_app.worker():
        async with asyncq.scope(collect=True) as scope:
            await fail.enqueue("own")
            await send_one.enqueue()
            await any_app.enqueue_many(tree.leaf.s(name) for name in "ab")
        own, sent, *leaves, child = scope.outcomes
    assert isinstance(own, TaskFailed)
    assert own.message == "own"
    assert [sent, *leaves] == ["sent", "a", "b"]
    assert isinstance(child, TaskFailed)
    assert child.message == "of a child"


async def test_what_has_ended_is_collected_though_there_is_no_time_for_all(any_app: App) -> None:
    tree = Tree(any_app)
    async with any_app, any_app.worker():
        scope = asyncq.scope(timeout=2.0, collect=True)
        with suppress(TimeoutError):
            async with scope:
                await tree.hold.enqueue("b")
                await tree.leaf.enqueue("a")
                with pytest.raises(RuntimeError, match="once the scope is left"):
                    scope.outcomes  # noqa: B018 - it raises
        held, leaf = scope.outcomes
    assert leaf == "a"
    assert isinstance(held, TaskCancelled)
    assert held.reason == "the time of its scope was over"


async def test_more_than_is_kept_of_earlier_attempts_is_said(
    any_app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "MOST_BEGUN", 2)
    tree = Tree(any_app)

    @any_app.task
    async def send_three() -> None:
        context = asyncq.current_context()
        for n in range(3):
            await tree.leaf.enqueue(f"{context.attempt} {n}")
        if context.attempt == 1:
            raise RetryLater(0.0)

    async with any_app, any_app.worker():
        async with asyncq.scope() as scope:
            await send_three.enqueue()
        assert repr(scope) == "<scope of 6 tasks, left>"  # of the first three the last two
    assert "its scope does not wait for 1 task of an earlier attempt's" in caplog.text


async def test_its_time_is_over(any_app: App) -> None:
    tree = Tree(any_app)
    async with any_app, any_app.worker():
        began = time.monotonic()
        with pytest.raises(
            TimeoutError, match=r"the scope was not left in 0\.5 s: what it had begun"
        ):
            async with asyncq.scope(timeout=0.5):
                await tree.grow.enqueue(1, 3)
        assert time.monotonic() - began < 0.5 + AT_ONCE
        await until(lambda: tree.cancelled.total() == 3)
        assert list(tree.cancelled) == ["the time of its scope was over"]


async def test_its_block_is_cancelled(any_app: App) -> None:
    """In the block, and where it waits for all."""
    tree = Tree(any_app)

    async def run(*, waits: bool) -> None:
        async with asyncq.scope():
            await tree.hold.enqueue("a")
            if not waits:
                await anyio.sleep_forever()

    async with any_app, any_app.worker():
        async with anyio.create_task_group() as group:
            group.start_soon(partial(run, waits=True))
            group.start_soon(partial(run, waits=False))
            await until(lambda: len(tree.ran) == 2)
            group.cancel_scope.cancel()
        await until(lambda: tree.cancelled.total() == 2)
        assert list(tree.cancelled) == ["its scope was cancelled"]


async def test_an_inner_scope_ends_alone_and_with_the_outer_one(any_app: App) -> None:
    tree = Tree(any_app)
    async with any_app, any_app.worker():
        async with left_by_an_error():
            await tree.hold.enqueue("outer")
            async with left_by_an_error():
                await tree.hold.enqueue("inner")
                await until(lambda: len(tree.ran) == 2)
            await until(lambda: tree.cancelled.total() == 1)
            with suppress(Broken):
                async with asyncq.scope():
                    await tree.grow.enqueue(1, 2)
                    await until(lambda: len(tree.ran) == 5)
                    raise Broken
        await until(lambda: tree.cancelled.total() == 4)


async def test_scopes_nest_in_tasks(any_app: App) -> None:
    """One that a task opens ends with those that its message belongs to."""
    tree = Tree(any_app)
    seen: list[int] = []

    @any_app.task
    async def own(levels: int) -> None:
        async with asyncq.scope():
            if levels > 1:
                await own.enqueue(levels - 1)
            await tree.hold.enqueue(f"hold {levels}")
        seen.append(levels)

    async with any_app, any_app.worker():
        async with left_by_an_error():
            await own.enqueue(3)
            await until(lambda: len(tree.ran) == 3)
        await until(lambda: tree.cancelled.total() == 3)
        assert seen == []
        tree.is_free.set()
        async with asyncq.scope():
            await own.enqueue(3)
    assert seen == [1, 2, 3]


async def test_a_retry_stays_in_its_scope_and_so_does_what_it_has_begun(any_app: App) -> None:
    tree = Tree(any_app)

    @any_app.task(retry=Retry(times=1, base=0.01))
    async def fail_once(ctx: Context) -> None:
        await tree.leaf.enqueue(f"of attempt {ctx.attempt}")
        if ctx.attempt == 1:
            raise OSError("once")

    @any_app.task
    async def come_back(ctx: Context) -> None:
        if len(tree.ran) < 4:
            await tree.leaf.enqueue("snoozing")
            raise Snooze(0.01) if len(tree.ran) % 2 else RetryLater(0.01)

    async with any_app, any_app.worker():
        async with asyncq.scope() as scope:
            await fail_once.enqueue()
        assert sorted(tree.ran) == ["of attempt 1", "of attempt 2"]
        assert repr(scope) == "<scope of 3 tasks, left>"
        async with asyncq.scope():
            await come_back.enqueue()
        count = len(tree.ran)
        await anyio.sleep(0.1)
        assert len(tree.ran) == count >= 4

        @any_app.task(retry=Retry(times=1, base=DAY, jitter=False))
        async def fail() -> None:
            tree.ran.append("fails")
            raise OSError

        async with left_by_an_error():
            result = await fail.enqueue()
            await until(lambda: "fails" in tree.ran)
        with pytest.raises(TaskCancelled, match="left by an error"):
            await result.get(timeout=PATIENCE)


async def test_what_is_sent_at_the_end_of_a_task_belongs_to_its_scope(any_app: App) -> None:
    tree = Tree(any_app)

    @any_app.task
    async def work(ctx: Context) -> None:
        async with asyncq.scope():
            await ctx.enqueue_after(tree.leaf.s("after"))
            await ctx.enqueue_after(tree.leaf.options(scope=None).s("outside"))
            await tree.leaf.enqueue("within")
        tree.ran.append("left")

    async with any_app, any_app.worker():
        async with asyncq.scope() as scope:
            await work.enqueue()
        assert tree.ran[:2] == ["within", "left"]
        assert "after" in tree.ran
        assert scope.name is not None
        await until(lambda: "outside" in tree.ran)
        assert repr(scope) == "<scope of 2 tasks, left>"


async def test_what_goes_to_an_exchange_is_others_business(any_app: App) -> None:
    tree = Tree(any_app)
    news = asyncq.Exchange(f"news-{new_id()}", "fanout")
    names = [f"{name}-{new_id()}" for name in ("one", "two")]
    queues = [asyncq.Queue(name, bindings=[asyncq.Binding(news)]) for name in names]
    app = App(any_app.url.reveal(), backend=any_app.backend_url.reveal(), queues=queues)

    @app.task(name="read")
    async def read() -> None:
        tree.ran.append("read")

    async with app, app.worker(queues=names):
        async with left_by_an_error():
            await read.options(exchange=news.name).enqueue()
            await app.enqueue_many([read.options(exchange=news.name).s()])
        await until(lambda: len(tree.ran) == 4)


@pytest.mark.parametrize("by_name", [False, True])
async def test_somebody_else_cancels_all_of_a_scope(any_app: App, by_name: bool) -> None:
    tree = Tree(any_app)
    async with any_app, any_app.worker():
        waits = any_app.result(new_id())
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - it is raised by the block's end
            async with asyncq.scope() as scope:
                await tree.grow.enqueue(1, 2)
                waits = await tree.leaf.options(delay=1.0).enqueue("never")
                await until(lambda: len(tree.ran) == 3)
                given = scope.name if by_name else scope
                assert await any_app.cancel(scope=given, reason="the tenant left") == {}
                await until(lambda: tree.cancelled.total() == 2)
        assert list(tree.cancelled) == ["the tenant left"]
        assert all(isinstance(each, TaskCancelled) for each in caught.value.exceptions)
        assert len(caught.value.exceptions) == 3
        assert await waits.status() is Status.CANCELLED
    assert "never" not in tree.ran


async def test_the_block_may_cancel_what_it_needs_no_more(any_app: App) -> None:
    tree = Tree(any_app)
    async with any_app, any_app.worker():
        async with asyncq.scope():
            first, second = [await tree.hold.enqueue(name) for name in "ab"]
            await until(lambda: len(tree.ran) == 2)
            await first.cancel("slower")
            await any_app.cancel([second])
        async with asyncq.scope() as scope:
            await tree.grow.enqueue(1, 2)
            await until(lambda: len(tree.ran) == 5)
            await scope.cancel("enough")
            with pytest.raises(RuntimeError, match="was cancelled: what is to go on without it"):
                await tree.leaf.enqueue("too late")
        await until(lambda: tree.cancelled.total() == 4)
        assert tree.cancelled["enough"] == 2
        assert repr(scope) == "<scope of 3 tasks, left>"
        with pytest.raises(RuntimeError, match="this scope was left"):
            await scope.cancel()


async def test_a_block_that_cancels_does_not_wait_until_what_is_delayed_is_due(
    any_app: App,
) -> None:
    """Nor for what only those tell of that end by that."""
    tree = Tree(any_app)

    @any_app.task
    async def send_later() -> None:
        await tree.leaf.options(delay=DAY).enqueue("never")
        await tree.hold.enqueue("child of a child")
        await tree.hold.options(scope=None).enqueue("sent")
        await tree.is_free.wait()

    async with any_app, any_app.worker():
        async with asyncq.scope() as scope:
            await tree.leaf.options(delay=DAY).enqueue("never")
            await send_later.enqueue()
            await until(lambda: len(tree.ran) == 2)
            began = time.monotonic()
            await scope.cancel("enough")
        assert time.monotonic() - began < AT_ONCE
        assert repr(scope) == "<scope of 4 tasks, left>"
        tree.is_free.set()
    assert "never" not in tree.ran


async def test_what_a_task_sends_at_its_end_may_be_there_a_little_later(any_app: App) -> None:
    """Another worker may send it, if the first one dies."""
    tree, coming = Tree(any_app), new_id()

    @any_app.task
    async def end_first() -> None:
        asyncq.current_context().begun = [coming]

    async def send_it(first: Result[None]) -> None:
        await first
        await anyio.sleep(1.0)  # how late it is, is a part of the experiment
        await tree.leaf.options(id=coming, scope=None).enqueue("late")

    async with any_app, any_app.worker(), anyio.create_task_group() as group:
        async with asyncq.scope(collect=True) as scope:
            first = await end_first.enqueue()
            group.start_soon(send_it, first)
        assert tree.ran == ["late"]
        assert scope.outcomes == [None]


async def test_a_scope_that_is_left_from_elsewhere_is_no_place_any_more(any_app: App) -> None:
    tree = Tree(any_app)

    async def within() -> AsyncGenerator[Scope]:
        async with asyncq.scope() as scope:
            yield scope

    async with any_app, any_app.worker():
        async with asyncq.scope() as outer:
            generator = within()
            await anext(generator)
            await tree.leaf.enqueue("inside")
            async with anyio.create_task_group() as group:  # as the event loop does, some time
                group.start_soon(generator.aclose)
            with suppress(TaskCancelled):
                await (await tree.leaf.enqueue("outside")).get(timeout=PATIENCE)
        assert "outside" in tree.ran
        assert repr(outer) == "<scope of 1 task, left>"


async def test_nothing_is_sent_in_a_scope_that_was_left(any_app: App) -> None:
    tree = Tree(any_app)
    was_left = asyncio.Event()

    async def send_later() -> None:
        await was_left.wait()
        with pytest.raises(RuntimeError, match=r"was left: .* options\(scope=None\)"):
            await tree.leaf.enqueue("too late")

    async with any_app, any_app.worker():
        async with anyio.create_task_group() as group:
            async with asyncq.scope():
                await tree.leaf.enqueue("in time")
                group.start_soon(send_later)
            was_left.set()
        await tree.leaf.enqueue("outside")
        await until(lambda: "outside" in tree.ran)
    assert "too late" not in tree.ran


async def test_what_is_sent_while_all_are_waited_for_is_waited_for_as_well(any_app: App) -> None:
    tree = Tree(any_app)

    async def send_more() -> None:
        await until(lambda: "first" in tree.ran)
        await tree.leaf.enqueue("second")
        tree.is_free.set()

    async with any_app, any_app.worker(), anyio.create_task_group() as group:
        async with asyncq.scope():
            await tree.hold.enqueue("first")
            group.start_soon(send_more)
        assert "second" in tree.ran


async def test_a_plain_function_sends_within_the_scope_of_its_task(any_app: App) -> None:
    tree = Tree(any_app)

    @any_app.task
    def blocking() -> None:
        with any_app.sync() as client:
            client.enqueue(tree.hold.s("held"))
            client.enqueue(tree.leaf.options(scope=None).s("outside"))

    if any_app.url.scheme == "memory" or "memory" in str(any_app.backend_url):
        pytest.skip("its client is in another loop, and the store is not there")
    async with any_app, any_app.worker():
        with pytest.raises(TimeoutError):
            async with asyncq.scope(timeout=2.0):
                await blocking.enqueue()
        await until(lambda: tree.cancelled.total() == 1)
        assert sorted(tree.ran) == ["held", "outside"]


async def test_an_embedded_worker_belongs_to_no_scope(any_app: App) -> None:
    tree = Tree(any_app)

    async with any_app, asyncq.scope() as scope, any_app.worker():
        outside = await tree.grow.options(scope=None).enqueue(1, 1)
        assert await outside.get(timeout=PATIENCE) == 1
        await until(lambda: "leaf 0" in tree.ran)
        assert repr(scope) == "<scope of 0 tasks, open>"


async def test_a_letter_of_a_scope_that_was_left_is_replayed(any_app: App) -> None:
    seen: list[int] = []

    @any_app.task
    async def fail() -> int:
        seen.append(1)
        if len(seen) == 1:
            raise OSError("once")
        return len(seen)

    async with any_app, any_app.worker():
        async with asyncq.scope(collect=True):
            result = await fail.enqueue()
        with anyio.fail_after(PATIENCE):
            while not await any_app.dead.replay("default", [result.id]):  # noqa: ASYNC110
                await anyio.sleep(0.02)  # it is a letter a moment later
        assert await result.get(timeout=PATIENCE) == 2


async def test_scopes_leave_nothing_behind(any_app: App) -> None:
    tree = Tree(any_app)
    async with any_app:
        registry = any_app.client.backend.offers.registry
        assert registry is not None
        async with any_app.worker():
            for _ in range(5):
                async with asyncq.scope():
                    await tree.leaf.enqueue("a")
        left = (await registry.list(scopes.KIND)).entries
        assert len(left) == 1  # that we are there
        assert left[0].ends is not None
    async with any_app:
        registry = any_app.client.backend.offers.registry
        assert registry is not None
        assert (await registry.list(scopes.KIND)).entries == []


async def test_a_scope_in_which_nothing_is_sent_asks_nobody(any_app: App) -> None:
    async with asyncq.scope(timeout=1.0) as scope:
        pass
    assert scope.name is None
    async with left_by_an_error():
        pass


async def test_what_makes_no_sense_says_so() -> None:
    app = new_app()
    tree = Tree(app)
    with pytest.raises(InvalidValue, match="timeout"):
        asyncq.scope(timeout=-1)
    with pytest.raises(InvalidValue, match="None, to belong to no scope"):
        tree.leaf.options(scope="other")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    scope = asyncq.scope()
    assert repr(scope) == "<scope, not entered>"
    with pytest.raises(RuntimeError, match=r"asyncq.scope\(collect=True\) alone"):
        scope.outcomes  # noqa: B018 - it raises
    with pytest.raises(RuntimeError, match="is not entered"):
        await scope.cancel()
    async with scope:
        with pytest.raises(RuntimeError, match="entered once"):
            async with scope:
                pass
        with pytest.raises(InvalidValue, match="a text of at most 1000 characters"):
            await scope.cancel(7)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    async with app:
        for wrong in ("", "no such", scope, 7):
            with pytest.raises(InvalidValue, match="a scope in which something was sent"):
                await app.cancel(scope=wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidValue, match="what is cancelled"):
            await app.cancel([new_id()], scope=scope)
    for _ in range(scopes.MOST_NESTED):
        await asyncq.scope().__aenter__()
    with pytest.raises(ConfigurationError, match="nested at most 8 deep"):
        await asyncq.scope().__aenter__()


async def test_a_backend_that_keeps_no_scopes_says_so() -> None:
    app = App(f"memory://{new_id()}", backend="null://")
    tree = Tree(app)
    async with app:
        with pytest.raises(ConfigurationError, match=r"keeps nothing of the kind: .*scope=None"):
            async with asyncq.scope():
                await tree.leaf.enqueue("a")
        async with asyncq.scope():
            await tree.leaf.options(scope=None).enqueue("a")


async def test_many_scopes_at_once_and_many_tasks_in_one(any_app: App) -> None:
    tree = Tree(any_app)

    async def request(n: int) -> None:
        async with asyncq.scope():
            await tree.leaf.enqueue(str(n))

    async with any_app, any_app.worker():
        async with anyio.create_task_group() as group:
            for n in range(50):
                group.start_soon(request, n)
        assert len(tree.ran) == 50
        async with asyncq.scope() as scope:
            await any_app.enqueue_many(tree.leaf.s(str(n)) for n in range(2500))
        assert len(tree.ran) == 2550
        assert repr(scope) == "<scope of 2500 tasks, left>"


def test_a_name_says_who_opened_it() -> None:
    owner = new_id()
    for task in (None, "a~task", new_id()):
        assert scopes.owner_of(scopes.name_of(task, owner, 3)) == owner
    odd: list[dict[str, Any]] = [{}, {scopes.SCOPE: 3}, {scopes.SCOPE: []}, {scopes.SCOPE: ["a b"]}]
    for wrong in odd:
        assert scopes.names_in(wrong) == ()
    many = [scopes.name_of(None, owner, n) for n in range(9)]
    assert scopes.names_in({scopes.SCOPE: many}) == ()
    assert scopes.names_in({scopes.SCOPE: many[:8]}) == tuple(many[:8])
    assert scopes.names_in({scopes.SCOPE: [*many[:2], b"x"]}) == ()
