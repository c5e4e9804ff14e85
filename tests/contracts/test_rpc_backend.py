"""Outcomes as messages: who sent a task hears of it, and nobody else."""

import logging
from collections.abc import Sequence
from contextlib import suppress

import anyio
import msgspec
import pamqp.commands as amqp
import pytest
from anyio import fail_after

from asyncq import App, Status, TaskFailed, UnknownResult, gather
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.backend import RpcBackend
from asyncq.drivers.rabbitmq.content import Parcel, frames
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.errors import BackendUnavailable
from asyncq.language.message import new_id
from asyncq.seams.feeds import feed_of_blobs, replies_to
from asyncq.testing.contracts.given import hear, record
from tests.client.given import Gate, until
from tests.contracts.rabbit_given import ask, publisher

__all__ = ["publisher"]  # a fixture

PATIENCE = 20.0  # seconds


@pytest.fixture
async def backend(rabbitmq_url: str) -> RpcBackend:
    return RpcBackend(Url(rabbitmq_url), SystemClock())


async def test_the_sender_of_a_task_hears_of_its_outcome(rabbitmq_url: str) -> None:
    app = App(rabbitmq_url)

    @app.task
    async def double(number: int) -> int:
        return number * 2

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    async with app, app.worker():
        results = await app.enqueue_many(double.s(n) for n in range(200))
        assert await gather(*results, timeout=20) == [n * 2 for n in range(200)]
        with pytest.raises(TaskFailed, match="ValueError: no"):
            await (await fail.enqueue()).get(timeout=20)


async def test_who_did_not_send_it_knows_nothing(rabbitmq_url: str) -> None:
    async with App(rabbitmq_url) as app:
        assert await app.result(new_id()).status() is Status.UNKNOWN


async def test_records_are_pushed_to_the_address_they_are_for(backend: RpcBackend) -> None:
    mine = [record(new_id(), number, reply_to="me") for number in range(500)]
    async with (
        backend,
        backend.subscribe(replies_to("me")) as replies,
        backend.subscribe(replies_to("you")) as other,
    ):
        await backend.store_records([*mine, record(new_id(), reply_to="you"), record(new_id())])

        assert await hear(replies, 500) == mine
        assert len(await hear(other, 1)) == 1


async def test_what_comes_while_a_client_is_cut_off_is_there_when_it_is_back(
    backend: RpcBackend,
) -> None:
    kept = record(new_id(), reply_to="me")
    async with backend:
        async with backend.subscribe(replies_to("me")):
            pass
        await backend.store_records([kept])
        async with backend.subscribe(replies_to("me")) as replies:
            assert await hear(replies, 1) == [kept]


async def test_a_client_that_is_gone_keeps_nobody_from_storing(backend: RpcBackend) -> None:
    async with backend:
        await backend.store_records([record(new_id(), reply_to="nobody")])


def reply_queue(app: App) -> str:
    return f"asyncq:reply:{app.client.waiters.address}"


async def test_a_handle_keeps_the_outcome_that_is_told_but_once(rabbitmq_url: str) -> None:
    app = App(rabbitmq_url)

    @app.task
    async def answer() -> int:
        return 42

    async with app, app.worker():
        result = await answer.enqueue()
        with fail_after(PATIENCE):
            assert [await result, await result, await result.get(timeout=5)] == [42] * 3
        assert await result.status() is Status.SUCCEEDED

        many = [await answer.enqueue() for _ in range(3)]
        assert await gather(*many, timeout=PATIENCE) == [42] * 3
        assert [await each.get(timeout=PATIENCE) for each in many] == [42] * 3


async def test_an_id_that_this_client_did_not_send_is_unknown_at_once(rabbitmq_url: str) -> None:
    app, other = App(rabbitmq_url), App(rabbitmq_url)

    @app.task
    async def answer() -> int:
        return 42

    async with app, other, app.worker():
        result = await answer.enqueue()
        for foreign in (other.result(result.id), app.result(new_id())):
            with (
                fail_after(PATIENCE),
                pytest.raises(UnknownResult, match="to the client that sent"),
            ):
                await foreign
        assert await result.get(timeout=PATIENCE) == 42
        with fail_after(PATIENCE), pytest.raises(UnknownResult, match="has handed it out"):
            await app.result(result.id)


async def test_another_handle_of_who_sent_it_hears_what_nobody_has_taken(rabbitmq_url: str) -> None:
    app = App(rabbitmq_url)

    @app.task
    async def answer() -> int:
        return 42

    async with app, app.worker():
        id = (await answer.enqueue()).id
        assert await app.result(id).get(timeout=PATIENCE) == 42


async def test_what_was_sent_and_has_no_end_is_queued_and_not_unknown(rabbitmq_url: str) -> None:
    app = App(rabbitmq_url)
    gate = Gate()

    @app.task
    async def wait() -> None:
        await gate.pass_through()

    async with app:
        result = await wait.enqueue()
        assert await result.status() is Status.QUEUED
        assert await app.result(result.id).status() is Status.QUEUED
        async with app.worker():
            gate.open()
            await result.get(timeout=PATIENCE)

        assert await result.status() is Status.SUCCEEDED


async def test_who_waits_when_the_reply_queue_is_deleted_hears_of_it_and_others_go_on(
    rabbitmq_url: str, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(rabbitmq_url)
    gate = Gate()

    @app.task
    async def wait() -> int:
        await gate.pass_through()
        return 1

    @app.task
    async def answer() -> int:
        return 42

    async with app, app.worker():
        held = await wait.enqueue()
        await gate.until_reached()
        ends = list[Exception]()

        async def hear_of_it() -> None:
            try:
                await held
            except UnknownResult as error:
                ends.append(error)

        with fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(hear_of_it)
                waiting = app.client.waiters._waiting  # pyright: ignore[reportPrivateUsage]
                await until(lambda: held.id in waiting)
                await ask(publisher, amqp.Queue.Delete(queue=reply_queue(app)))
        assert "what was told meanwhile is lost" in str(ends[0])

        assert await (await answer.enqueue()).get(timeout=PATIENCE) == 42
        gate.open()  # what ends only now is heard of after all
        await until(lambda: held.at_hand() is not None)
        assert await held == 1
    assert (
        "waiting for results is interrupted, trying again: somebody deleted the queue"
        in caplog.text
    )
    assert "waiting for results goes on after" in caplog.text


async def test_garbage_in_the_reply_queue_is_logged_and_the_client_goes_on(
    rabbitmq_url: str, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(rabbitmq_url)

    @app.task
    async def answer() -> int:
        return 42

    @app.task
    async def parent() -> str:
        return (await answer.enqueue()).id

    odd = [b"", b"\xc1", b"\x91" * 5000, msgspec.msgpack.encode([{"no": "record"}, 7])]
    async with app, app.worker():
        channel = await publisher.connector.open_channel()
        with caplog.at_level(logging.WARNING):
            for body in odd:
                parcel = Parcel("", reply_queue(app), new_id(), body)
                channel.send(frames(parcel, channel.number, channel.wire.frame_max))
            for _ in range(3):
                assert await (await answer.enqueue()).get(timeout=PATIENCE) == 42
                assert await (await parent.enqueue()).get(timeout=PATIENCE)
        channel.close()


async def test_a_feed_heals_when_somebody_deletes_what_leads_to_its_subscribers(
    backend: RpcBackend, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncq.drivers.rabbitmq.backend.PROBE_EVERY", 0.05)
    feed = feed_of_blobs("news", new_id())
    async with backend, backend.subscribe(feed) as heard:
        await backend.push(feed, [b"before"])
        assert await hear(heard, 1) == [b"before"]
        await ask(publisher, amqp.Exchange.Delete(exchange=names.FEEDS))

        with fail_after(PATIENCE):
            items: Sequence[bytes] = ()
            while not items:
                with suppress(BackendUnavailable), anyio.move_on_after(0.1):
                    await backend.push(feed, [b"after"])
                    items = await heard.receive()
        assert set(items) == {b"after"}
