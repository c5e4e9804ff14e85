"""Tasks that had other names before."""

import pytest

import asyncq
from asyncq.app import App
from asyncq.client.shared import shared_tasks
from asyncq.errors import ConfigurationError, InvalidValue
from asyncq.language.message import new_id
from tests.client.given import PATIENCE


async def test_messages_of_a_former_name_are_run_by_the_task_that_had_it() -> None:
    url = f"memory://{new_id()}"
    before, after = App(url), App(url)

    @before.task(name="mail.old")
    async def old(n: int) -> int: ...

    @after.task(name="mail.new", aliases=["mail.old", "mail.older"])
    async def new(n: int) -> int:
        return -n

    async with before, after, after.worker():
        assert await (await old.enqueue(3)).get(timeout=PATIENCE) == -3
        assert await (await new.enqueue(4)).get(timeout=PATIENCE) == -4
    assert list(after.tasks) == ["mail.new"]


def test_each_name_means_one_task() -> None:
    app = App(f"memory://{new_id()}")

    @app.task(name="new", aliases="old")
    async def new() -> None: ...

    assert new.settings.aliases == ("old",)
    with pytest.raises(ConfigurationError, match="task new has the alias old"):

        @app.task(name="old")
        async def one() -> None: ...

    with pytest.raises(ConfigurationError, match="alias new, which belongs to task new already"):

        @app.task(name="two", aliases=["new"])
        async def two() -> None: ...

    with pytest.raises(ConfigurationError, match="alias old, which belongs to task new already"):

        @app.task(name="three", aliases=["old"])
        async def three() -> None: ...

    assert list(app.tasks) == ["new"]


@pytest.mark.parametrize("aliases", [5, [5], ["no spaces"], None])
def test_what_is_no_name_is_refused(aliases: object) -> None:
    app = App(f"memory://{new_id()}")
    with pytest.raises((InvalidValue, ConfigurationError), match=r"aliases|task name"):

        @app.task(aliases=aliases)  # type: ignore[arg-type]
        async def task() -> None: ...


async def test_a_shared_task_has_former_names_in_every_app() -> None:
    name = f"alias-{new_id()}"

    @asyncq.shared_task(name=name, aliases=[f"{name}.old"])
    async def shared() -> str:
        return "shared"

    url = f"memory://{new_id()}"
    app, before = App(url), App(url)
    try:

        @before.task(name=f"{name}.older")
        async def older() -> str: ...

        with pytest.raises(ConfigurationError, match="has the alias"):

            @before.task(name=f"{name}.old")
            async def old() -> str: ...

        async with app, app.worker():
            assert await (await app.enqueue(shared.s())).get(timeout=PATIENCE) == "shared"
    finally:
        shared_tasks.tasks.pop(name, None)
