"""What no broker will ever take ends as failed: whoever waits for it hears so, and nobody hangs."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import msgspec
import pytest

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.errors import BackendUnavailable, Refused, TaskFailed
from asyncq.language.effects import Hold
from asyncq.language.envelope import Envelope
from asyncq.language.message import End, Status, derived_id
from asyncq.language.record import Record
from asyncq.seams.backend import Backend
from asyncq.seams.broker import Broker
from tests.chords import begin, chord
from tests.client.given import PATIENCE, until, until_status
from tests.worker.chord_tasks import Tasks
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture

ODD = "odd"  # the queue that takes nothing
WHY = "it is not for us"


@contextmanager
def refusing(broker: Broker) -> Generator[list[str]]:
    """Have it refuse what is for that queue; yields the ids, each as often as it was tried."""
    kind, real, refused = type(broker), type(broker).publish, list[str]()

    async def publish(self: Broker, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            if envelope.queue == ODD:
                refused.append(envelope.id)
                raise Refused(envelope.id, WHY)
        await real(self, envelopes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "publish", publish)
        yield refused


async def assert_refused(app: App, id: str) -> None:
    result = app.result(id)
    await until_status(result, Status.FAILED)
    with pytest.raises(TaskFailed, match=WHY) as caught:
        await result.get(timeout=PATIENCE)
    assert caught.value.type == "Refused"


async def test_what_follows_from_a_task_and_is_refused_has_an_outcome(any_app: App) -> None:
    app, ran = any_app, list[int]()

    @app.task
    async def note(n: int) -> int:
        ran.append(n)
        return n

    @app.task
    async def order(context: Context) -> list[str]:
        return [
            await context.enqueue_after(signature)
            for signature in (note.s(1), note.options(queue=ODD).s(2), note.s(3))
        ]

    async with app:
        with refusing(app.client.broker) as refused:
            async with app.worker(queues=["default"]):
                first, odd, last = await (await order.enqueue()).get(timeout=PATIENCE)
                assert await app.result(first).get(timeout=PATIENCE) == 1
                assert await app.result(last).get(timeout=PATIENCE) == 3
                await assert_refused(app, odd)
                await until(lambda: sorted(ran) == [1, 3])
            assert set(refused) == {odd}
        depth = await app.queues.depth("default")
        assert not any((depth.ready, depth.delayed, depth.in_flight))  # None: it cannot say


async def test_a_body_that_is_refused_fails_and_what_waits_for_it_hears_so(any_app: App) -> None:
    """The body is itself a part of another chord."""
    app, tasks = any_app, Tasks(any_app)

    @app.task
    async def start(context: Context) -> str:
        outer, inner = f"{context.id}-outer", derived_id(context.id, "body")
        follow_up = app.client.follow_up
        whole = follow_up(tasks.body.s(outer, 1), derived_id(outer, "body"))
        failed = follow_up(tasks.failed.s(outer), derived_id(outer, "failed"))
        odd = follow_up(tasks.body.options(queue=ODD).s(context.id, 2), inner, (End(outer, inner),))
        squares = [tasks.square.s(2), tasks.square.s(3)]
        [hold, *members] = chord(app, context.id, squares, tasks.body.s(context.id, 2))
        assert isinstance(hold, Hold)
        outer_hold = Hold(outer, (inner,), tuple(whole), tuple(failed))
        begin(context, [outer_hold, msgspec.structs.replace(hold, sends=tuple(odd)), *members])
        return context.id

    async with app:
        with refusing(app.client.broker):
            async with app.worker(queues=["default"]):
                root = await (await start.enqueue()).get(timeout=PATIENCE)
                await assert_refused(app, derived_id(root, "body"))
                await until(lambda: "failed" in tasks.ran)
    assert sorted(tasks.ran) == ["failed", "square 2", "square 3"]


async def test_a_backend_that_is_away_meanwhile_delays_that_and_loses_nothing(
    any_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.worker.followups.LATER", 0.05)
    monkeypatch.setattr("asyncq.worker.releases.NO_ANSWER", 0.05)
    app, tasks = any_app, Tasks(any_app)

    @app.task
    async def start(context: Context) -> str:
        body = tasks.body.options(queue=ODD).s(context.id, 1)
        begin(context, chord(app, context.id, [tasks.square.s(2)], body))
        return await context.enqueue_after(tasks.square.options(queue=ODD).s(3))

    async with app:
        kind = type(app.client.backend)
        real, away = kind.store_records, 3

        async def store_records(self: Backend, records: Sequence[Record]) -> Sequence[Record]:
            nonlocal away
            if away and any("Refused" in repr(record.outcome) for record in records):
                away -= 1
                raise BackendUnavailable("it is away")
            return await real(self, records)

        monkeypatch.setattr(kind, "store_records", store_records)
        with refusing(app.client.broker):
            async with app.worker(queues=["default"]):
                started = await start.enqueue()
                odd = await started.get(timeout=PATIENCE)
                await assert_refused(app, odd)
                await assert_refused(app, derived_id(started.id, "body"))
    assert away == 0
