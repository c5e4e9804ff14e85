"""What is seen of handles and calls in a shell, a debugger, a log: one short line, always."""

from typing import Any

import pytest

import asyncq
from asyncq import App, testing
from asyncq.client.task import TaskOptions
from asyncq.language.message import new_id
from asyncq.language.signature import NO_OPTIONS, CallOptions
from asyncq.reprs import LONGEST

app = App("memory://")


@app.task(name="shop.add")
async def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="shop.refuse")
async def refuse() -> None:
    raise ValueError("no\nway" + "!" * 500)


class Odd:
    """Raises whatever it is asked."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error


class Long:
    def __repr__(self) -> str:
        return "x" * 1_000_000


class Steering:
    def __repr__(self) -> str:
        return "\x1b[2J\n"


ODD: list[Any] = [
    Odd(ValueError()),
    Odd(SystemExit()),
    Odd(GeneratorExit()),
    Long(),
    Steering(),
    [Long()] * 1000,
    {"key" * 1000: "v" * 100_000},
    10**6000,
    [[[[[[[[]]]]]]]],
]


def test_a_call_shows_as_it_is_written() -> None:
    assert repr(add.s(1, y=2)) == "<call shop.add(1, y=2)>"
    assert (
        repr(add.options(queue="mail", delay=5).s(1))
        == "<call shop.add(1), queue='mail', delay=5.0>"
    )
    assert repr(add.options(priority=9)) == "<task shop.add, priority=9>"
    assert repr(add) == "<task shop.add>"


def test_options_show_those_that_were_given() -> None:
    assert repr(NO_OPTIONS) == "CallOptions()"
    assert repr(CallOptions(id="a", expires=1.5)) == "CallOptions(id='a', expires=1.5)"
    assert repr(TaskOptions(queue="mail", dead_letter=False)) == (
        "TaskOptions(queue='mail', dead_letter=False)"
    )


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_whatever_is_in_a_call_its_repr_is_one_short_line(value: Any) -> None:
    calls: list[asyncq.Signature[Any]] = [
        asyncq.Signature("shop.add", (value,) * 50),
        asyncq.Signature("shop.add", (), {"k" * 50: value, "j": value}),
        asyncq.Signature("x" * 500, (), {}, CallOptions(headers={"a": value}, id="i" * 500)),
    ]

    for call in calls:
        shown = repr(call)
        assert shown.startswith("<call ")
        assert shown.endswith(">")
        assert len(shown) <= LONGEST
        assert shown.isprintable()


async def test_a_handle_shows_its_task_where_that_is_known() -> None:
    async with testing.run(app, worker=False):
        sent = await add.enqueue(1)

        assert repr(sent) == repr(add.result(sent.id)) == f"<Result {sent.id} of shop.add>"
        assert repr(app.result(sent.id)) == f"<Result {sent.id}>"
        assert repr(app.result("i" * 128)) == f"<Result {'i' * 128}>"


async def test_a_handle_shows_the_end_that_it_has_seen() -> None:
    async with testing.run(app):
        succeeds, fails = await add.enqueue(1), await refuse.enqueue()

        assert await succeeds == 1
        assert repr(succeeds) == f"<Result {succeeds.id} of shop.add: succeeded>"
        with pytest.raises(asyncq.TaskFailed):
            await fails
        assert repr(fails).startswith(
            f"<Result {fails.id} of shop.refuse: failed, ValueError: no\\nway!!"
        )
        assert len(repr(fails)) == LONGEST

        async for ended in asyncq.as_completed([succeeds]):
            assert repr(ended) == repr(succeeds)


def test_a_handle_that_blocks_shows_the_same() -> None:
    own = App(f"memory://{new_id()}")

    with own.sync() as client:
        handle = client.result("some-id")
        shown = repr(handle)

    assert shown == "<SyncResult some-id>"
    assert repr(handle) == shown
