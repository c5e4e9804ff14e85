"""A burst sends what workflows have released before it is over, or says that it could not."""

import logging
from contextlib import suppress

import pytest
from anyio import fail_after, sleep

from asyncq.app import App
from asyncq.errors import QueueFull
from asyncq.language.effects import Hold
from asyncq.language.message import new_id
from asyncq.language.topology import Queue
from asyncq.seams.ledger import SENDER_AWAY
from tests.chords import chord
from tests.client.given import PATIENCE
from tests.worker.chord_tasks import Tasks, ledger_of
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture


@pytest.fixture
def app(any_app: App) -> App:
    """One with a queue that has room for one message."""
    return App(
        any_app.url.reveal(),
        backend=any_app.backend_url.reveal(),
        queues=[Queue("small", max_length=1)],
    )


async def begin_chord(tasks: Tasks) -> str:
    """Begin one part in the default queue, whose body goes to "small", which is full."""
    root = new_id()
    body = tasks.body.options(queue="small").s(root, 1)
    [hold, part] = chord(tasks.app, root, [tasks.square.s(3)], body)
    assert isinstance(hold, Hold)
    await ledger_of(tasks.app).apply([hold], "a client")
    await tasks.app.client.send([part])[0]  # pyright: ignore[reportArgumentType] - it is a send
    with suppress(QueueFull):
        while True:
            await tasks.failed.options(queue="small").enqueue("in the way")
    return root


async def unsent_of(app: App, root: str) -> int:
    [state] = await ledger_of(app).look([root])
    assert state is not None
    return state.unsent


async def test_a_burst_sends_what_had_no_room_in_a_queue_that_it_empties(app: App) -> None:
    tasks = Tasks(app)
    async with app:
        root = await begin_chord(tasks)

        with fail_after(PATIENCE):
            await app.make_worker(burst=True, queues=["default", "small"]).run()

        assert tasks.ran.count("body") == 1
        assert await unsent_of(app, root) == 0


async def test_a_burst_sends_at_once_what_others_have_left_unsent(any_app: App) -> None:
    tasks = Tasks(any_app)
    async with any_app:
        hold = Hold(new_id(), (), tuple(any_app.client.follow_up(tasks.square.s(2), new_id())))
        assert await ledger_of(any_app).apply([hold], "who dies") == [hold.latch]
        await sleep(SENDER_AWAY + 0.1)

        with fail_after(SENDER_AWAY / 2):
            await any_app.make_worker(burst=True).run()

        assert tasks.ran == ["square 2"]


async def test_a_burst_that_cannot_send_something_ends_and_says_so(
    app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.worker.burst.PATIENCE", 1.0)
    caplog.set_level(logging.INFO, "asyncq")
    tasks = Tasks(app)
    async with app:
        root = await begin_chord(tasks)

        with fail_after(PATIENCE):
            await app.make_worker(burst=True, queues=["default"]).run()

        assert tasks.ran == ["square 3"]
        assert await unsent_of(app, root) == 1
    [line] = [text for text in caplog.messages if "ended, for" in text]
    assert line.endswith("; what 1 workflow has released is not sent")
