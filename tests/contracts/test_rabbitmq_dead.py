"""RabbitMQ's queues of dead letters: how they are bounded, and that old ones do no harm."""

import logging
from collections.abc import Sequence
from typing import Any

import pamqp.commands as amqp
import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from asyncq.app import App
from asyncq.cli.letters import Changed, Filter, Selection, change
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.content import Parcel
from asyncq.drivers.rabbitmq.fetching import Fetching
from asyncq.drivers.rabbitmq.parcels import wrap
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.wire import Content
from asyncq.errors import ConfigurationError, TaskFailed
from asyncq.language.envelope import LastAttempt
from asyncq.language.message import Failed, Failure, new_id
from asyncq.language.record import Record
from asyncq.seams.broker import Lease, QueueSpec, Reject
from asyncq.seams.dead import DeadLimits
from tests.contracts.rabbit_given import (
    PATIENCE,
    ask,
    doomed,
    envelope,
    letters_of,
    publisher,
    take,
)

__all__ = ["publisher"]


async def test_dead_letters_that_are_bounded_otherwise_are_kept_as_they_are(
    rabbitmq_url: str, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    quorum: dict[str, Any] = {"x-queue-type": "quorum"}
    await ask(publisher, amqp.Queue.Declare(queue="mail:dead", durable=True, arguments=quorum))

    async with RabbitBroker(Url(rabbitmq_url), SystemClock(), DeadLimits(1, 60.0)) as broker:
        await broker.publish([envelope(), envelope()])
        async with broker.consume(QueueSpec("mail", 10), Lease(new_id(), 15.0)) as consumer:
            await consumer.settle([Reject(each, "bad") for each in await take(consumer, 2)])

        letters = await letters_of(broker, 2)

    assert len(letters) == 2
    [line] = [each for each in caplog.records if "keeps its bounds" in each.getMessage()]
    assert line.levelno == logging.WARNING
    assert "mail:dead" in line.getMessage()


def test_what_is_to_be_kept_for_longer_than_rabbitmq_can_count_has_no_end() -> None:
    month = names.dead_method("mail", DeadLimits(10, 30 * 86400.0)).arguments
    year = names.dead_method("mail", DeadLimits(10, 365 * 86400.0)).arguments

    assert (month["x-max-length"], month["x-message-ttl"]) == (10, 30 * 86400 * 1000)
    assert "x-message-ttl" not in year


async def test_rabbitmq_cannot_show_messages_without_taking_them(rabbitmq_url: str) -> None:
    async with App(rabbitmq_url) as app:
        with pytest.raises(ConfigurationError, match="cannot show messages without taking them"):
            await app.queues.peek("default")


MANY = 1200


def put_dead(count: int) -> list[Parcel]:
    return [wrap(envelope(f"{n:04}"), "", names.dead("mail")) for n in range(count)]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Content]:
    """What was taken out of queues to be looked at."""
    seen = list[Content]()
    take_in = Fetching._on_delivery  # pyright: ignore[reportPrivateUsage]

    def count(self: Fetching, content: Content) -> None:
        seen.append(content)
        take_in(self, content)

    monkeypatch.setattr(Fetching, "_on_delivery", count)
    return seen


async def test_dead_letters_are_fetched_once_however_many_pages_show_them(
    rabbitmq_url: str, publisher: Publisher, fetched: list[Content]
) -> None:
    async with App(rabbitmq_url) as app, App(rabbitmq_url) as other:
        admin = app.client.operator.admin("mail")
        await publisher.topology.declare("mail")
        await publisher.move(put_dead(MANY))
        pages = [await admin.dead_letters("mail", limit=250, offset=250 * n) for n in range(3)]
        deepest = await admin.depth("mail")
        while pages[-1]:
            passed = sum(map(len, pages))
            pages.append(await admin.dead_letters("mail", limit=250, offset=passed))

        shown = [letter.envelope.id for page in pages for letter in page]
        assert shown == [f"{n:04}" for n in range(MANY)]
        assert len(fetched) == MANY
        assert deepest.dead == MANY  # while some are held

        # What was looked at is back where it was, for others as well: after the last page at once,
        # and else soon.
        assert (await other.queues.depth("mail")).dead == MANY
        await admin.dead_letters("mail", limit=100)
        with fail_after(PATIENCE):
            while (await other.queues.depth("mail")).dead < MANY:
                await checkpoint()
        again = await other.dead.list("mail", limit=MANY)
        assert sorted(letter.envelope.id for letter in again) == shown


async def test_many_dead_letters_are_chosen_sent_again_and_deleted_by_commands(
    rabbitmq_url: str, publisher: Publisher, fetched: list[Content]
) -> None:
    told = list[int]()
    async with App(rabbitmq_url) as app:
        admin = app.client.operator.admin("mail")
        await publisher.topology.declare("mail")
        await publisher.move(put_dead(MANY))
        ids = [f"{n:04}" for n in range(MANY)]

        none = Selection(queue="mail", filter=Filter(reason="no such reason"))
        assert await change(app, none, admin.delete_dead, told.append) == Changed(0)
        assert len(fetched) == MANY

        async def replay(queue: str, ids: Sequence[str]) -> int:
            return len(await admin.replay(queue, ids))

        last = Selection(queue="mail", ids=[*ids[-300:], "nobody"])
        assert await change(app, last, replay, told.append) == Changed(300, ["nobody"])
        some = Selection(queue="mail", ids=ids[1:500:2])
        assert await change(app, some, admin.delete_dead, told.append) == Changed(250, [])
        depth = await admin.depth("mail")
        assert (depth.ready, depth.dead) == (300, MANY - 550)

        all_of_them = Selection(queue="mail")
        changed = await change(app, all_of_them, admin.delete_dead, told.append)
        assert changed == Changed(MANY - 550)

    async with App(rabbitmq_url) as app:  # what was deleted is so for good
        depth = await app.queues.depth("mail")
        assert (depth.ready, depth.dead) == (300, 0)


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_failure_that_was_recorded_by_a_worker_that_died_then_is_a_dead_letter_after_all(
    rabbitmq_url: str, keeps: bool
) -> None:
    app = App(rabbitmq_url, backend=f"memory://{new_id()}")
    runs = list[int]()

    @app.task(queue="mail", dead_letter=keeps)
    async def fail(n: int) -> int:
        runs.append(n)
        return n

    async with app:
        lost, marker = await fail.enqueue(1), await fail.options(delay=0.5).enqueue(2)
        async with doomed(rabbitmq_url) as dying:
            await take(dying, 1)
            failed = Failed(Failure("ValueError", "no"))
            record = Record(lost.id, failed, fail.name, 3, worker="the dead one", keep=60.0)
            await app.client.backend.store_records([record])
        async with app.worker(queues=["mail"]):
            assert await marker.get(timeout=PATIENCE) == 2
            with fail_after(PATIENCE):
                while (await app.queues.depth("mail")).ready:
                    await checkpoint()
                while (await app.queues.depth("mail")).dead < keeps:
                    await checkpoint()
        letters = await app.dead.list("mail")

        assert runs == [2]
        assert len(letters) == keeps
        for letter in letters:
            assert (letter.envelope.id, letter.reason) == (lost.id, "ValueError: no")
            assert letter.last == LastAttempt(failed.error, 3, "the dead one")


async def test_what_is_sent_twice_and_has_failed_meanwhile_is_no_second_dead_letter(
    rabbitmq_url: str, publisher: Publisher
) -> None:
    app = App(rabbitmq_url, backend=f"memory://{new_id()}")
    runs = list[int]()

    @app.task(queue="mail")
    async def fail(n: int) -> None:
        runs.append(n)
        raise ValueError(n)

    async with app:
        async with app.worker(queues=["mail"]):
            with pytest.raises(TaskFailed):
                await (await fail.enqueue(1)).get(timeout=PATIENCE)
        [letter] = await app.dead.list("mail")
        await publisher.move([wrap(letter.envelope, "", "mail", again=True)])
        async with app.worker(queues=["mail"], concurrency=1):
            with pytest.raises(TaskFailed):
                await (await fail.enqueue(2)).get(timeout=PATIENCE)
        letters = await app.dead.list("mail")

        assert runs == [1, 2]
        assert [each.reason for each in letters] == ["ValueError: 1", "ValueError: 2"]
        assert (await app.queues.depth("mail")).ready == 0


async def test_a_dead_letter_that_is_there_twice_is_sent_again_once(
    rabbitmq_url: str, publisher: Publisher
) -> None:
    async with App(rabbitmq_url) as app:
        admin = app.client.operator.admin("mail")
        await publisher.topology.declare("mail")
        await publisher.move([*put_dead(2), *put_dead(1)])

        assert sorted(await admin.replay("mail", ["0000", "0001"])) == ["0000", "0000", "0001"]

        depth = await admin.depth("mail")
        assert (depth.ready, depth.dead) == (2, 0)
