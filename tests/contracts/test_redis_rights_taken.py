"""Passwords and rights that change under who is connected: said, waited for, and well again."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client import waiters
from asyncq.config import Config
from asyncq.drivers.redis.connection import Link
from asyncq.errors import ConfigurationError
from tests.client.given import until
from tests.contracts.redis_given import soon, warnings
from tests.contracts.test_redis_refusals import PATIENCE, asking
from tests.servers import start_redis

__all__ = ["soon"]  # a fixture

pytestmark = pytest.mark.usefixtures("soon")
ALL = ("on", ">secret", "~*", "&*", "+@all")
Commands = Sequence[tuple[str, ...]]
CUT = (("CLIENT", "KILL", "USER", "bob"),)


@asynccontextmanager
async def bobs_server(directory: Path) -> AsyncGenerator[tuple[App, Link]]:
    """An app that is known there as bob, and a connection that is not."""
    with start_redis(directory) as server:
        where = f"127.0.0.1:{server.port}/0"
        async with asking(f"redis://{where}") as open_to_all:
            await open_to_all("ACL", "SETUSER", "bob", *ALL)
            await open_to_all("ACL", "SETUSER", "root", "on", ">root", "~*", "&*", "+@all")
        async with asking(f"redis://root:root@{where}") as root:
            yield App(f"redis://bob:secret@{where}", config=Config(publish_timeout=5.0)), root


async def tell(root: Link, commands: Commands) -> None:
    for command in commands:
        await root(*command)


@pytest.mark.parametrize(
    ("taken", "given", "said"),
    [
        pytest.param(
            [("ACL", "DELUSER", "bob")], [("ACL", "SETUSER", "bob", *ALL)],
            r"refuses us: user or password is wrong", id="the user is deleted",
        ),
        pytest.param(
            [("ACL", "SETUSER", "bob", "resetpass", ">other"), *CUT],
            [("ACL", "SETUSER", "bob", "resetpass", ">secret")],
            r"refuses us: user or password is wrong", id="another password",
        ),
        pytest.param(
            [("ACL", "SETUSER", "bob", "off"), *CUT], [("ACL", "SETUSER", "bob", "on")],
            r"or the user is disabled", id="disabled",
        ),
        pytest.param(
            [("ACL", "SETUSER", "bob", "-evalsha", "-eval")], [("ACL", "SETUSER", "bob", *ALL)],
            r"lacks rights for EVAL(SHA)? on 'asyncq:{default}'", id="no scripts",
        ),
        pytest.param(
            [("ACL", "SETUSER", "bob", "resetkeys", "~asyncq:r:*", "~asyncq:queues")],
            [("ACL", "SETUSER", "bob", "~*")],
            r"lacks rights for EVAL(SHA)? on 'asyncq:{default}'", id="not this queue",
        ),
        pytest.param(
            [("ACL", "SETUSER", "bob", "resetkeys", "~asyncq:{*", "~asyncq:queues")],
            [("ACL", "SETUSER", "bob", "~*")],
            r"lacks rights for EVAL(SHA)? on 'asyncq:{default}'", id="no records",
        ),
    ],
)  # fmt: skip
async def test_worker_and_client_say_what_was_taken_and_go_on_when_it_is_given_back(
    tmp_path: Path, taken: Commands, given: Commands, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bobs_server(tmp_path) as (app, root):
        may_end = anyio.Event()
        runs: list[int] = []

        @app.task
        async def note(number: int) -> int:
            runs.append(number)
            if number == 1:
                await may_end.wait()
            return number

        async with app, app.worker() as worker:
            await until(lambda: worker.is_consuming)
            running = await note.enqueue(1)
            await until(lambda: runs == [1])

            await tell(root, taken)
            with fail_after(PATIENCE), pytest.raises(ConfigurationError, match=said) as refused:
                await note.enqueue(2)
            may_end.set()
            await until(lambda: re.search(said, warnings(caplog)) is not None)
            await tell(root, given)

            with fail_after(PATIENCE):
                assert await running.get(timeout=PATIENCE) == 1
                assert await (await note.enqueue(3)).get(timeout=PATIENCE) == 3
                await until(lambda: worker.is_consuming)

    assert "secret" not in str(refused.value)
    assert "secret" not in caplog.text
    assert runs == [1, 3]


async def test_a_password_that_is_set_where_there_was_none_is_waited_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bobs_server(tmp_path) as (bob, root):
        app = App(f"redis://{bob.url.reveal().partition('@')[2]}")

        @app.task
        async def same(number: int) -> int:
            return number

        async with app, app.worker() as worker:
            assert await (await same.enqueue(1)).get(timeout=PATIENCE) == 1
            kills = [("CLIENT", "KILL", "TYPE", kind) for kind in ("normal", "pubsub")]
            await tell(root, [("CONFIG", "SET", "requirepass", "x"), *kills])
            with pytest.raises(ConfigurationError, match=r"wants a password .*redis://:password@"):
                await same.enqueue(2)
            await until(lambda: "queue default is not consumed" in caplog.text)
            await until(lambda: "wants a password" in warnings(caplog))
            await tell(root, [("CONFIG", "SET", "requirepass", "")])

            assert await (await same.enqueue(3)).get(timeout=PATIENCE) == 3
            await until(lambda: worker.is_consuming)


async def test_without_rights_on_channels_results_come_late_and_both_sides_say_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "REREAD", 0.5)
    async with bobs_server(tmp_path) as (app, root):

        @app.task
        async def same(number: int) -> int:
            return number

        async with app, app.worker():
            assert await (await same.enqueue(1)).get(timeout=PATIENCE) == 1
            await tell(root, [("ACL", "SETUSER", "bob", "resetchannels")])

            assert await (await same.enqueue(2)).get(timeout=PATIENCE) == 2
            await until(lambda: "lacks rights for SUBSCRIBE" in warnings(caplog))
            await tell(root, [("ACL", "SETUSER", "bob", "&*")])
            await until(lambda: "waiting for results goes on after" in caplog.text)

            assert await (await same.enqueue(3)).get(timeout=PATIENCE) == 3

    assert "reach their clients late" in warnings(caplog)
    assert "settling tasks is interrupted" not in caplog.text
