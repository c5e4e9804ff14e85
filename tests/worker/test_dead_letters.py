"""What failed for good lies in the dead letters with its error, and can run again."""

import logging
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import pytest

from asyncq.app import App
from asyncq.client.context import current_context
from asyncq.client.result import Result, record_of
from asyncq.codecs.native import NativeCodec
from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.errors import RetryLater, TaskCancelled, TaskExpired, TaskFailed
from asyncq.language.envelope import Envelope, LastAttempt
from asyncq.language.message import Cancelled, Failed, Failure, Status, new_id
from asyncq.language.policies import Retry
from asyncq.language.record import Record
from asyncq.language.signature import Signature
from asyncq.seams.admin import DeadLetter
from asyncq.seams.broker import Nack, QueueSpec
from asyncq.testing.contracts.given import end_lease, new_lease, sweep, take
from asyncq.worker.dead_letters import UNKNOWN_SINCE
from asyncq.worker.failures import TRACEBACK_LIMIT
from tests.client.given import PATIENCE, new_app, until_status

AT_ONCE = Retry(times=2, base=0.0)
ERROR = Failure("ValueError", "no")


@pytest.fixture
def apart() -> App:
    """An app whose outcomes are kept in another store than its messages."""
    return App(f"memory://{new_id()}", backend=f"memory://{new_id()}")


async def letters_of(app: App, queue: str = "default") -> list[DeadLetter]:
    broker = app.client.broker
    assert isinstance(broker, MemoryBroker)
    return list(await broker.dead_letters(queue))


async def fails(result: Result[Any]) -> TaskFailed:
    with pytest.raises(TaskFailed) as caught:
        await result.get(timeout=PATIENCE)
    return caught.value


async def die_with(app: App, record: Record, change: Callable[[Envelope], Envelope]) -> None:
    """Take a message, changed as it may come, and be gone as its end is recorded, not settled."""
    broker, lease = app.client.broker, new_lease()
    assert isinstance(broker, MemoryBroker)
    async with broker.consume(QueueSpec("default"), lease) as consumer:
        [first] = await take(consumer, 1)
        await consumer.settle([Nack(first, replacement=change(first.envelope))])
        await take(consumer, 1)
        await app.client.backend.store_records([record])
        await end_lease(broker, lease, "default")
        await sweep(broker, 1, "default")


def in_third_attempt(envelope: Envelope) -> Envelope:
    codec = NativeCodec()
    return codec.encode(msgspec.structs.replace(codec.decode(envelope), attempt=3))


def unknown_for_long(envelope: Envelope) -> Envelope:
    return msgspec.structs.replace(envelope, headers={"a": 1, UNKNOWN_SINCE: 1.0})


def of_a_later_release(envelope: Envelope) -> Envelope:
    return msgspec.structs.replace(envelope, body=msgspec.msgpack.encode([99]))


async def test_what_failed_for_good_is_a_dead_letter_with_its_error(app: App) -> None:
    @app.task
    async def fail(name: str) -> None:
        raise ValueError(f"no {name}")

    async with app, app.worker():
        error = await fails(await fail.options(headers={"a": 1}).enqueue("way"))
        [letter] = await letters_of(app)

    assert letter.envelope.id == error.task_id
    assert letter.envelope.headers == {"a": 1}
    assert letter.reason == "ValueError: no way"
    assert letter.last is not None
    assert letter.last.attempt == 1
    assert letter.last.worker
    assert (letter.last.error.type, letter.last.error.message) == ("ValueError", "no way")
    assert letter.last.error.traceback == error.traceback
    assert 'raise ValueError(f"no {name}")' in error.traceback


async def test_what_is_kept_of_a_failure_is_bounded(app: App) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("x" * 1_000_000)

    async with app, app.worker():
        await fails(await fail.enqueue())
        [letter] = await letters_of(app)

    assert letter.last is not None
    assert 0 < len(letter.last.error.traceback) <= TRACEBACK_LIMIT
    assert len(letter.reason) < TRACEBACK_LIMIT


async def test_a_replayed_message_has_its_attempts_anew(app: App) -> None:
    attempts: list[int] = []

    @app.task(retry=AT_ONCE)
    async def fail() -> None:
        attempts.append(1)
        if len(attempts) < 6:
            raise ValueError(f"number {len(attempts)}")

    async with app, app.worker():
        result = await fail.enqueue()
        await fails(result)
        [letter] = await letters_of(app)
        replayed = await app.dead.replay("default", [result.id])
        await app.result(result.id).get(timeout=PATIENCE)
        record = await record_of(app.result(result.id))

        assert await letters_of(app) == []
    assert letter.last is not None
    assert (letter.last.attempt, letter.reason) == (3, "ValueError: number 3")
    assert list(replayed) == [result.id]
    assert len(attempts) == 6
    assert record.attempt == 3


async def test_every_kind_of_failure_goes_there(app: App) -> None:
    app.config = type(app.config)(max_result_size=100)

    @app.task
    async def bad_arguments(n: int) -> None: ...

    @app.task
    async def too_large() -> str:
        return "x" * 1000

    @app.task
    async def not_encodable() -> object:
        return object()

    @app.task(time_limit=0.01)
    async def too_long() -> None:
        await anyio.sleep(60)

    @app.task
    async def leaves() -> None:
        raise SystemExit(3)

    sent: dict[str, Signature[Any]] = {
        "BadArguments": Signature(bad_arguments.name, ("one",)),  # not checked, as others send it
        "ResultTooLarge": too_large.s(),
        "ResultNotEncodable": not_encodable.s(),
        "TimeLimitExceeded": too_long.s(),
        "SystemExit": leaves.s(),
    }
    async with app, app.worker():
        for kind, signature in sent.items():
            error = await fails(await app.enqueue(signature))
            assert error.type.endswith(kind)
        dead_letters = await letters_of(app)

    assert len(dead_letters) == len(sent)
    for kind, letter in zip(sent, dead_letters, strict=True):
        assert kind in letter.reason
        assert letter.last is not None
        assert letter.last.error.type.endswith(kind)


async def test_a_task_can_do_without_dead_letters(app: App) -> None:
    @app.task(dead_letter=False)
    async def fail() -> None:
        raise ValueError("no")

    async with app, app.worker():
        error = await fails(await fail.enqueue())

        assert await letters_of(app) == []
    assert error.message == "no"


async def test_what_expired_or_asked_to_run_again_is_no_dead_letter(app: App) -> None:
    tries: list[int] = []

    @app.task(expires=0.0)
    async def late() -> None: ...

    @app.task
    async def later() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise RetryLater

    async with app:
        expired = await late.enqueue()
        async with app.worker():
            with pytest.raises(TaskExpired):
                await expired.get(timeout=PATIENCE)
            await (await later.enqueue()).get(timeout=PATIENCE)

            assert await letters_of(app) == []


async def test_a_message_whose_outcome_nobody_keeps_is_a_dead_letter_all_the_same(app: App) -> None:
    @app.task(keep_result=0)
    async def fail() -> None:
        raise ValueError("no")

    async with app, app.worker():
        result = await fail.enqueue()
        await until_status(app.result(result.id), Status.FAILED)
        [letter] = await letters_of(app)

    assert letter.reason == "ValueError: no"


async def test_the_app_says_how_many_dead_letters_there_may_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = new_app(max_dead_letters=3)

    @app.task
    async def fail(n: int) -> None:
        raise ValueError(n)

    async with app, app.worker(concurrency=1):
        results = [await fail.enqueue(n) for n in range(10)]
        for result in results:
            await fails(result)
        dead_letters = await letters_of(app)

    assert [letter.reason for letter in dead_letters] == [f"ValueError: {n}" for n in (7, 8, 9)]
    assert [each.levelno for each in caplog.records if "are dropped" in each.getMessage()] == [
        logging.WARNING
    ]


async def test_what_was_unknown_for_too_long_has_its_time_anew_once_it_is_replayed(
    app: App,
) -> None:
    sender = App(app.url.reveal())

    @sender.task(name="gone")
    async def gone() -> str:
        return "here"

    app.config = type(app.config)(unknown_delay=0.001, unknown_ttl=0.02)
    async with sender, app:
        result = await gone.options(id=new_id(), headers={"a": 1}).enqueue()
        async with app.worker(queues=["default"]):
            await until_status(result, Status.FAILED)
        [letter] = await letters_of(app)

        assert letter.envelope.headers == {"a": 1}
        await app.dead.replay("default", [result.id])
        async with sender.worker():
            assert await sender.result(result.id).get(timeout=PATIENCE) == "here"


async def test_what_outlived_its_worker_and_has_failed_already_is_not_buried_again(
    app: App,
) -> None:
    runs: list[int] = []

    @app.task
    async def fail() -> None:
        runs.append(1)
        raise ValueError("no")

    async with app:
        async with app.worker():
            result = await fail.enqueue()
            await fails(result)
        broker = app.client.broker
        assert isinstance(broker, MemoryBroker)
        await broker.replay("default", [result.id])
        lease = new_lease()
        async with broker.consume(QueueSpec("default"), lease) as consumer:
            await take(consumer, 1)
            await end_lease(broker, lease, "default")
            await sweep(broker, 1, "default")
        await app.make_worker(burst=True).run()

        assert await letters_of(app) == []
        assert (await broker.depth("default")).ready == 0
    assert len(runs) == 1


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_failure_recorded_in_another_store_is_a_dead_letter_though_its_worker_died_then(
    apart: App, caplog: pytest.LogCaptureFixture, keeps: bool
) -> None:
    caplog.set_level(logging.INFO, "asyncq")
    attempts: list[int] = []

    @apart.task(dead_letter=keeps)
    async def fail() -> None:
        attempts.append(current_context().attempt)

    async with apart:
        result = await fail.enqueue()
        record = Record(result.id, Failed(ERROR), fail.name, 3, worker="the dead one")
        await die_with(apart, record, in_third_attempt)
        await apart.make_worker(queues=["default"], burst=True).run()
        dead_letters = await letters_of(apart)

        assert (await fails(result)).message == "no"
        assert attempts == []
        assert [letter.envelope.id for letter in dead_letters] == [result.id] * keeps
        assert [letter.reason for letter in dead_letters] == ["ValueError: no"] * keeps
        assert [letter.last for letter in dead_letters] == [
            LastAttempt(ERROR, 3, "the dead one")
        ] * keeps
        assert (f"{result.id} has failed already" in caplog.text) is keeps
        assert (f"{result.id} has an outcome already" in caplog.text) is not keeps

        replayed = await apart.dead.replay("default", [result.id])
        await apart.make_worker(queues=["default"], burst=True).run()
    assert list(replayed) == [result.id] * keeps
    assert attempts == [1] * keeps


async def test_nor_is_it_lost_if_it_was_never_run_for_its_task_was_unknown(apart: App) -> None:
    error = Failure("UnknownTask", "no task named 'new' here")

    @apart.task(name="new", dead_letter=False)
    async def new() -> None: ...

    async with apart:
        result = await new.enqueue()
        record = Record(result.id, Failed(error), worker="the dead one")
        await die_with(apart, record, unknown_for_long)
        await apart.make_worker(queues=["default"], burst=True).run()
        [letter] = await letters_of(apart)

    assert letter.reason == "UnknownTask: no task named 'new' here"
    assert letter.last == LastAttempt(error, 0, "the dead one")
    assert letter.envelope.headers == {"a": 1}


async def test_nor_if_who_finds_it_cannot_read_it(apart: App) -> None:
    @apart.task
    async def work() -> None: ...

    async with apart:
        result = await work.enqueue()
        record = Record(result.id, Failed(ERROR), work.name, 3, worker="the dead one")
        await die_with(apart, record, of_a_later_release)
        await apart.make_worker(queues=["default"], burst=True).run()
        [letter] = await letters_of(apart)

    assert letter.last == LastAttempt(ERROR, 3, "the dead one")
    assert letter.envelope.body == msgspec.msgpack.encode([99])


async def test_a_dead_letter_of_another_queue_keeps_its_outcome(app: App) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("no")

    async with app, app.worker(queues=["default", "other"]):
        result = await fail.enqueue()
        await fails(result)

        assert list(await app.dead.replay("other", [result.id])) == []
        assert (await fails(app.result(result.id))).message == "no"
        assert len(await letters_of(app)) == 1


async def test_what_a_stopping_worker_cancels_is_no_dead_letter(app: App) -> None:
    began = anyio.Event()

    @app.task
    async def wait() -> None:
        began.set()
        await anyio.sleep_forever()

    async with app:
        async with app.worker(grace=0.0):
            result = await wait.enqueue()
            with anyio.fail_after(PATIENCE):
                await began.wait()

        assert await letters_of(app) == []
        assert await result.status() is Status.QUEUED


async def test_what_was_cancelled_for_good_is_neither_run_again_nor_a_dead_letter(app: App) -> None:
    runs: list[int] = []

    @app.task
    async def work() -> None:
        runs.append(1)

    async with app:
        result = await work.enqueue()
        broker = app.client.broker
        assert isinstance(broker, MemoryBroker)
        lease = new_lease()
        async with broker.consume(QueueSpec("default"), lease) as consumer:
            await take(consumer, 1)
            # Its worker says so, and dies before it could settle.
            await app.client.backend.store_records([Record(result.id, Cancelled(), keep=60.0)])
            await end_lease(broker, lease, "default")
            await sweep(broker, 1, "default")
        await app.make_worker(burst=True).run()

        with pytest.raises(TaskCancelled):
            await result.get(timeout=PATIENCE)
        assert await letters_of(app) == []
    assert runs == []
