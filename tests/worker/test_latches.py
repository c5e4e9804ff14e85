"""Latches, by a chord made by hand: what becomes of its body, whatever store and broker it has."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from anyio import fail_after, sleep

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.config import Config
from asyncq.errors import BackendUnavailable, TaskFailed
from asyncq.language.effects import Append, Arrive, Hold, Send
from asyncq.language.message import (
    End,
    Failed,
    Failure,
    Succeeded,
    derived_id,
    new_id,
)
from asyncq.language.policies import Retry
from asyncq.language.record import Record
from asyncq.language.signature import Signature
from asyncq.worker import latches
from asyncq.worker.dead_letters import UNKNOWN_SINCE
from asyncq.worker.latches import Latches
from tests.chords import begin, chord
from tests.client.given import PATIENCE, until
from tests.worker.chord_tasks import Tasks, ledger_of
from tests.worker.combinations import any_app

__all__ = ["any_app"]  # a fixture


async def test_the_body_of_a_chord_runs_once_when_all_its_parts_have_ended(any_app: App) -> None:
    tasks = Tasks(any_app)
    count = 150

    @any_app.task
    async def start(context: Context) -> str:
        parts = [(tasks.flaky if n % 10 == 3 else tasks.square).s(n) for n in range(count)]
        begin(context, tasks.chord(context.id, parts))
        return context.id

    async with any_app, any_app.worker():
        root = await (await start.enqueue()).get(timeout=PATIENCE)

        values = await tasks.done(root)

        assert values == [n if n % 10 == 3 else n * n for n in range(count)]
        await sleep(0.05)
        assert tasks.ran.count("body") == 1
        assert "failed" not in tasks.ran
        [state] = await ledger_of(any_app).look([root])
        assert state is not None
        assert (state.is_released, state.unsent) == (True, 0)


async def test_a_part_that_fails_is_told_at_once_and_heals_the_chord_when_it_is_replayed(
    any_app: App,
) -> None:
    tasks = Tasks(any_app)

    @any_app.task
    async def start(context: Context) -> str:
        begin(context, tasks.chord(context.id, [tasks.square.s(2), tasks.ill.s()]))
        return context.id

    async with any_app, any_app.worker():
        root = await (await start.enqueue()).get(timeout=PATIENCE)
        await until(lambda: {"failed", "square 2"} <= set(tasks.ran))
        assert "body" not in tasks.ran
        with fail_after(PATIENCE):
            while not (letters := await any_app.dead.list("default")):  # noqa: ASYNC110 - there is no event
                await sleep(0.01)
        [letter] = letters

        tasks.are_well = True
        await any_app.dead.replay("default", [letter.envelope.id])

        assert await tasks.done(root) == [4, -1]
    assert tasks.ran.count("failed") == tasks.ran.count("body") == 1


async def test_whatever_a_part_ends_by_its_end_arrives(any_app: App) -> None:
    tasks = Tasks(any_app)

    @any_app.task(retry=Retry(times=1, base=0.001, jitter=False))
    async def odd() -> object:
        return object()

    @any_app.task
    async def start(context: Context) -> str:
        parts: list[Signature[Any]] = [
            odd.s(),
            tasks.square.options(expires=0.0).s(1),
            tasks.square.s(2),
            tasks.square.s(3),
            tasks.square.s(4),
        ]
        effects = tasks.chord(context.id, parts, policy="collect")
        last = effects[-1]
        assert isinstance(last, Send)
        effects[-1] = msgspec.structs.replace(
            last, envelope=msgspec.structs.replace(last.envelope, body=b"\xc1")
        )
        begin(context, effects)
        return context.id

    async with any_app, any_app.worker():
        root = await (await start.enqueue()).get(timeout=PATIENCE)

        assert await tasks.done(root) == ["Failed", "Expired", 4, 9, "Failed"]
    assert "failed" not in tasks.ran


@pytest.mark.parametrize("most", [None, 10])
async def test_a_failed_part_is_a_dead_letter_also_if_its_arrival_had_to_wait(
    any_app: App, monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    if most is not None:
        monkeypatch.setattr("asyncq.worker.followups.MOST_LEFT", most)
    monkeypatch.setattr("asyncq.worker.followups.LATER", 0.05)
    tasks = Tasks(any_app)
    refusals = 2
    apply = Latches.apply

    async def away(self: Latches, effects: Sequence[Hold | Arrive | Append]) -> Sequence[str]:
        nonlocal refusals
        if any(isinstance(each, Arrive) for each in effects) and refusals:
            refusals -= 1
            raise BackendUnavailable("it is away")
        return await apply(self, effects)

    monkeypatch.setattr(Latches, "apply", away)

    @any_app.task
    async def start(context: Context) -> None:
        begin(context, tasks.chord(context.id, [tasks.ill.s()]))

    async with any_app, any_app.worker():
        started = await start.enqueue()
        await until(lambda: "failed" in tasks.ran)
        with fail_after(PATIENCE):
            while not (letters := await any_app.dead.list("default")):  # noqa: ASYNC110 - there is no event
                await sleep(0.01)
        [letter] = letters
        assert letter.envelope.id == derived_id(started.id, "0")
        assert "ill" in letter.reason
        assert not refusals

        tasks.are_well = True
        await any_app.dead.replay("default", [letter.envelope.id])
        assert await tasks.done(started.id) == [-1]


async def test_a_task_that_fails_begins_nothing(any_app: App) -> None:
    tasks = Tasks(any_app)

    @any_app.task
    async def start(context: Context) -> None:
        begin(context, tasks.chord(context.id, [tasks.square.s(2)]))
        raise ValueError("no")

    async with any_app, any_app.worker():
        started = await start.enqueue()
        with pytest.raises(TaskFailed):
            await started.get(timeout=PATIENCE)
        assert list(await ledger_of(any_app).look([started.id])) == [None]
    assert tasks.ran == []


async def test_what_a_record_of_others_does_not_tell_arrives_all_the_same(any_app: App) -> None:
    tasks = Tasks(any_app)

    async with any_app:
        client, root = any_app.client, new_id()
        [hold, part] = tasks.chord(root, [tasks.square.s(2)])
        assert isinstance(hold, Hold)
        assert isinstance(part, Send)
        await ledger_of(any_app).apply([hold], "a client")
        gone = Failed(Failure("Gone", "by an older worker"))
        again = msgspec.structs.replace(part.envelope, again=True)
        await client.send([Send(again, part.broker)])[0]
        await client.backend.store_records([Record(part.envelope.id, gone)])
        async with any_app.worker():
            await until(lambda: tasks.ran == ["failed"])
            with fail_after(PATIENCE):
                while not await any_app.dead.list("default"):  # noqa: ASYNC110 - there is no event
                    await sleep(0.01)


@pytest.mark.parametrize("older_gave_back", [False, True])
async def test_a_part_that_nobody_knows_fails_its_chord(
    any_app: App, *, older_gave_back: bool
) -> None:
    url, backend = any_app.url.reveal(), any_app.backend_url.reveal()
    others = App(url, backend=backend)
    own = App(url, backend=backend, config=Config(unknown_ttl=0.0))
    tasks = Tasks(own)

    @others.task(queue="default")
    async def unknown() -> None: ...

    @own.task
    async def start(context: Context) -> None:
        effects = tasks.chord(context.id, [tasks.square.s(2)])
        [_, part] = chord(others, context.id, [unknown.s()], unknown.s())
        assert isinstance(part, Send)
        if older_gave_back:  # it does not know of ends, and leaves them out
            headers = {UNKNOWN_SINCE: 0.0}
            left = msgspec.structs.replace(part.envelope, ends=(), headers=headers)
            part = Send(left, part.broker)
        begin(context, [effects[0], part])

    async with others, own, own.worker():
        await start.enqueue()
        await until(lambda: tasks.ran == ["failed"])


async def test_what_was_recorded_by_others_is_found_and_arrives(any_app: App) -> None:
    tasks = Tasks(any_app)

    async with any_app:
        client, root = any_app.client, new_id()
        effects = tasks.chord(root, [tasks.square.s(2), tasks.square.s(3)])
        hold = effects[0]
        assert isinstance(hold, Hold)
        ledger = ledger_of(any_app)
        await ledger.apply([hold], "a client")  # its parts are nowhere
        found = [
            Record(derived_id(root, "0"), Succeeded(msgspec.Raw(b"\x07")), effects=None),
            Record(derived_id(root, "1"), Failed(Failure("Gone", "it was purged")), effects=None),
        ]
        await client.backend.store_records(found[:1])
        own = Latches(client.backend, client.send)
        assert not await own.audit(root)
        [state] = await ledger.look([root])
        assert state is not None
        assert (state.missing, state.failed) == (1, 0)

        await client.backend.store_records(found[1:])
        assert await own.audit(root)
        await own.release(root)

        async with any_app.worker():
            await until(lambda: "failed" in tasks.ran)


async def test_each_audit_of_a_large_chord_goes_on_where_the_one_before_ended(
    any_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latches, "MOST_AUDITED", 100)
    async with any_app:
        root, count = new_id(), 450
        ledger, backend = ledger_of(any_app), any_app.client.backend
        await ledger.apply([Hold(root, count, root=root)], "a client")
        own = Latches(backend, any_app.client.send)

        for number in range(count):  # all but the first
            if number:
                id = derived_id(root, str(number))
                await backend.store_records([Record(id, Succeeded(msgspec.Raw(b"\x07")))])
        audits = 0
        while (await ledger.look([root]))[0].missing > 1:  # type: ignore[union-attr] - it is there
            await own.audit(root)
            audits += 1
            assert audits <= 6
        assert audits >= 4


async def test_a_chord_whose_time_is_over_fails_by_itself(
    any_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latches, "LOOK", 0.1)
    tasks = Tasks(any_app)
    queue = "nobody-has"

    @any_app.task
    async def start(context: Context) -> str:
        part = tasks.square.options(queue=queue).s(2)
        until = context.enqueued_at + 0.3
        begin(context, tasks.chord(context.id, [part], until=until))
        return context.id

    async with any_app, any_app.worker(queues=["default"]):
        await start.enqueue()
        await until(lambda: "failed" in tasks.ran)

        async with any_app.worker(queues=[queue]):  # too late
            await until(lambda: "square 2" in tasks.ran)
    assert "body" not in tasks.ran


async def test_an_outcome_too_large_for_a_latch_is_in_its_record(any_app: App) -> None:
    tasks = Tasks(any_app)

    @any_app.task(keep_result=0)
    async def large() -> bytes:
        return b"x" * (latches.MOST_VALUE + 1)

    @any_app.task
    async def last(root: str) -> int:
        [part] = await ledger_of(any_app).parts(root, ["0"])
        assert part is not None
        assert part.value == b""
        [record] = await any_app.client.backend.fetch([derived_id(root, "0")])
        assert record is not None
        assert isinstance(record.outcome, Succeeded)
        tasks.ran.append("last")
        return len(msgspec.msgpack.decode(record.outcome.value))

    @any_app.task
    async def start(context: Context) -> str:
        begin(context, chord(any_app, context.id, [large.s()], last.s(context.id)))
        return context.id

    async with any_app, any_app.worker():
        root = await (await start.enqueue()).get(timeout=PATIENCE)
        await until(lambda: bool(tasks.ran))
        value = await any_app.result(derived_id(root, "body")).get(timeout=PATIENCE)
        assert value == latches.MOST_VALUE + 1


async def test_what_a_task_adds_to_a_topic_is_there_once_if_it_succeeds(any_app: App) -> None:
    @any_app.task(retry=Retry(times=1, base=0.001, jitter=False))
    async def say(context: Context, topic: str) -> None:
        said = f"attempt {context.attempt}".encode()
        begin(context, [Append(topic, 1, context.attempt, said, 60.0, 10)])
        if context.attempt == 1:
            raise ValueError("not yet")

    async with any_app, any_app.worker():
        topic = new_id()
        await (await say.enqueue(topic)).get(timeout=PATIENCE)
        topics = any_app.client.backend.offers.topics
        assert topics is not None
        with fail_after(PATIENCE):
            while not (items := await topics.read(topic)):  # noqa: ASYNC110 - there is no event
                await sleep(0.01)
        assert [item.data for item in items] == [b"attempt 2"]


async def test_a_worker_of_before_gives_back_what_ends_somewhere(any_app: App) -> None:
    """It would tell nobody: the version of such a message says so."""
    tasks = Tasks(any_app)
    async with any_app:
        [plain] = any_app.client.follow_up(tasks.square.s(1), new_id())
        [member] = any_app.client.follow_up(tasks.square.s(1), new_id(), (End("latch", "0"),))
    version = [msgspec.msgpack.decode(each.envelope.body)[0] for each in (plain, member)]
    assert version == [1, 2]
