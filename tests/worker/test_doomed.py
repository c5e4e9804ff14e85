"""What a broker buries or removes while a workflow waits for its end: the workflow is told."""

import pytest
from anyio import fail_after, sleep

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.errors import TaskFailed
from asyncq.language.message import FailureType, derived_id
from asyncq.language.topology import Queue
from tests.chords import begin, ledger_of
from tests.client.given import PATIENCE, until
from tests.worker.chord_tasks import Tasks
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture

TTL = 0.5  # seconds


async def begin_chord(app: App, tasks: Tasks, parts: int = 1) -> str:
    """Begin one of so many parts in "narrow", which no worker takes yet, and of one elsewhere."""

    @app.task
    async def start(context: Context) -> str:
        narrow = tasks.square.options(queue="narrow")
        begin(context, tasks.chord(context.id, [tasks.square.s(1), *[narrow.s(2)] * parts]))
        return context.id

    started = await start.enqueue()
    async with app.worker(queues=["default"]):
        root = await started.get(timeout=PATIENCE)
        await until(lambda: tasks.ran == ["square 1"])
    return root


async def see_that_it_failed(app: App, id: str, kind: FailureType) -> None:
    with pytest.raises(TaskFailed) as caught:
        await app.result(id).get(timeout=PATIENCE)
    assert caught.value.type == kind


@pytest.mark.parametrize(
    ("kind", "queue"),
    [
        (FailureType.WAITED_TOO_LONG, Queue("narrow", ttl=TTL)),
        (FailureType.OVERFLOWED, Queue("narrow", max_length=1, overflow="drop-head")),
    ],
    ids=["ttl", "overflow"],
)
async def test_the_chord_of_a_part_that_was_buried_fails_at_once_and_heals_by_its_replay(
    any_app: App, kind: FailureType, queue: Queue
) -> None:
    app = App(any_app.url.reveal(), backend=any_app.backend_url.reveal(), queues=[queue])
    tasks = Tasks(app)
    async with app:
        root = await begin_chord(app, tasks)
        if kind == FailureType.OVERFLOWED:
            await tasks.square.options(queue="narrow").enqueue(3)
        else:
            await sleep(2 * TTL)

        async with app.worker():
            await until(lambda: "failed" in tasks.ran)
            assert "body" not in tasks.ran
            await see_that_it_failed(app, derived_id(root, "1"), kind)
            with fail_after(PATIENCE):
                while not (letters := await app.dead.list("narrow")):  # noqa: ASYNC110 - there is no event
                    await sleep(0.01)
            assert [each.envelope.id for each in letters] == [derived_id(root, "1")]

            await app.dead.replay("narrow", [derived_id(root, "1")])
            assert await tasks.done(root) == [1, 4]


async def test_the_chord_of_parts_that_were_purged_fails_at_once(any_app: App) -> None:
    app, count = any_app, 200
    tasks = Tasks(app)
    async with app:
        root = await begin_chord(app, tasks, count)

        assert await app.queues.purge("narrow") == count
        async with app.worker(queues=["default", "narrow"]):
            for number in range(count):
                await see_that_it_failed(app, derived_id(root, str(number + 1)), FailureType.PURGED)
            await until(lambda: "failed" in tasks.ran)
        assert tasks.ran == ["square 1", "failed"]
        assert list(await app.dead.list("narrow")) == []  # they were to be gone


async def test_a_burst_ends_what_is_doomed_in_whichever_of_its_queues(any_app: App) -> None:
    app, count = any_app, 5
    tasks = Tasks(app)
    async with app:
        root = await begin_chord(app, tasks, count)
        assert await app.queues.purge("narrow") == count

        await app.make_worker(queues=["default", "narrow"], burst=True).run()

        states = await ledger_of(app).look([root])
        assert [state and (state.missing, state.failed) for state in states] == [(0, count)]
        assert "failed" in tasks.ran
