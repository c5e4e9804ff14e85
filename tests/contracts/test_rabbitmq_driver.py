"""What is particular to RabbitMQ: its own ways to say no, and dead letters."""

import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import quote

import anyio
import anyio.to_thread
import pamqp.commands as amqp
import pytest
from anyio import fail_after
from anyio.lowlevel import checkpoint

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers import hosts
from asyncq.drivers.rabbitmq import consumer as consumer_module
from asyncq.drivers.rabbitmq import names
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.consumer import RabbitConsumer
from asyncq.drivers.rabbitmq.content import Parcel
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.sender import Sender, Sent
from asyncq.drivers.table import make_broker
from asyncq.errors import (
    BrokerUnavailable,
    ConfigurationError,
    LeaseLost,
    QueueFull,
)
from asyncq.language.message import new_id
from asyncq.language.topology import Queue
from asyncq.seams.broker import Ack, Lease, QueueSpec, Reject
from asyncq.testing.contracts.given import bodies_of, ids_of, take
from tests.contracts.rabbit_given import (
    MAIL,
    PATIENCE,
    ask,
    broker,
    envelope,
    letters_of,
    next_of,
    publish_until_it_fails,
    publisher,
)
from tests.servers import RabbitServer, free_port

__all__ = ["broker", "publisher"]  # fixtures

SECRET = quote("hunter2:/@?", safe="")

# What RabbitMQ does by itself


async def test_a_queue_that_is_deleted_under_its_consumer_and_is_there_again(
    broker: RabbitBroker, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "LONGEST_WAIT", 0.5)
    monkeypatch.setattr(consumer_module, "LONGEST_SILENCE", 2.0)
    lease = Lease(new_id(), 15.0)
    delivery = None
    while delivery is None:
        async with broker.consume(MAIL, lease) as consumer:
            await ask(publisher, amqp.Queue.Delete(queue="mail"))
            await broker.publish([envelope("1")])
            with suppress(LeaseLost):  # then a worker begins anew; or it goes on by itself
                delivery = await next_of(consumer)

    assert delivery.envelope.id == "1"


async def test_a_queue_that_stays_deleted_is_declared_again(
    broker: RabbitBroker, publisher: Publisher
) -> None:
    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        await ask(publisher, amqp.Queue.Delete(queue="mail"))
        with anyio.fail_after(PATIENCE), pytest.raises(LeaseLost):
            await next_of(consumer)

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        await broker.publish([envelope("1")])
        assert (await next_of(consumer)).envelope.id == "1"


async def test_what_is_published_to_a_deleted_queue_declares_it_again(
    broker: RabbitBroker, publisher: Publisher
) -> None:
    await broker.publish([envelope("1")])
    await ask(publisher, amqp.Queue.Delete(queue="mail"))

    await broker.publish([envelope("2"), envelope("3", eta=SystemClock().now() + 0.3)])

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        assert ids_of(await take(consumer, 2)) == ["2", "3"]


@contextmanager
def refusing_half(times: int) -> Generator[list[int]]:
    """So many times a server refuses every second message; yields how many came each time."""
    real, came = Sender.send, list[int]()

    async def send(self: Sender, parcels: Sequence[Parcel], kept: set[str] | None = None) -> Sent:
        came.append(len(parcels))
        if len(came) > times:
            return await real(self, parcels, kept)
        sent = await real(self, parcels[1::2], kept)
        return Sent(sent.returned, [*sent.refused, *[each.id for each in parcels[::2]]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sender, "send", send)
        yield came


async def test_what_a_queue_without_a_leader_refuses_is_sent_again(broker: RabbitBroker) -> None:
    sent = [envelope() for _ in range(7)]
    with refusing_half(3) as came:
        await broker.publish(sent)
    assert came == [7, 4, 2, 1]

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        assert sorted(ids_of(await take(consumer, 7))) == sorted(ids_of(sent))


async def test_what_stays_refused_is_said_to_be(broker: RabbitBroker) -> None:
    sent = [envelope() for _ in range(3)]
    with (
        refusing_half(100) as came,
        fail_after(PATIENCE),
        pytest.raises(BrokerUnavailable, match="no majority") as caught,
    ):
        await broker.publish(sent)
    assert came == [3, 2, 1, 1, 1]
    assert caught.value.envelope_ids == {sent[0].id}


async def test_a_queue_that_is_full_is_asked_once(broker: RabbitBroker) -> None:
    await broker.declare([Queue("mail", max_length=10)])
    with refusing_half(1) as came, pytest.raises(QueueFull):
        await broker.publish([envelope(), envelope()])
    assert came == [2]


async def test_a_delay_survives_the_deletion_of_its_queue(
    broker: RabbitBroker, publisher: Publisher
) -> None:
    await broker.publish([envelope("1", eta=SystemClock().now() + 1.0)])
    await ask(publisher, amqp.Queue.Delete(queue="mail"))
    await broker.publish([envelope("2", eta=SystemClock().now() + 0.2)])

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        assert sorted(ids_of(await take(consumer, 2))) == ["1", "2"]


async def test_a_server_short_of_memory_fails_publishing_by_its_deadline(
    broker: RabbitBroker, rabbitmq_server: RabbitServer
) -> None:
    await broker.publish([envelope("1")])
    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        rabbitmq_server.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.0001)")
        try:
            with pytest.raises(BrokerUnavailable, match="low on memory"):
                await publish_until_it_fails(broker)
            with pytest.raises(BrokerUnavailable, match="low on memory"):
                await broker.publish([envelope("2")])  # which is not even sent
            in_flight = await next_of(consumer)
            assert not await consumer.settle([Ack(in_flight)]), "what is there goes on"
        finally:
            rabbitmq_server.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
        with anyio.fail_after(PATIENCE):
            while True:
                try:
                    await broker.publish([envelope("3")])
                except BrokerUnavailable:
                    continue
                break


async def test_who_takes_no_more_gives_back_what_it_did_not_receive(broker: RabbitBroker) -> None:
    await broker.publish([envelope(str(number)) for number in range(10)])
    async with broker.consume(QueueSpec(MAIL.name, 10), Lease(new_id(), 15.0)) as first:
        assert isinstance(first, RabbitConsumer)
        received = await take(first, 3)
        await first.take_no_more()
        async with broker.consume(MAIL, Lease(new_id(), 15.0)) as second:
            others = await take(second, 7)
            assert sorted(ids_of([*received, *others])) == [str(number) for number in range(10)]
            assert not any(delivery.suspect for delivery in others)
            assert not await second.settle([Ack(delivery) for delivery in others])
        assert not await first.settle([Ack(delivery) for delivery in received])
    assert (await broker.depth("mail")).ready == 0


async def test_what_was_settled_is_so_when_a_worker_leaves_a_queue_that_is_slow(
    rabbitmq_url: str, rabbitmq_server: RabbitServer, broker: RabbitBroker
) -> None:
    many = QueueSpec("mail", prefetch=100)
    await broker.publish([envelope() for _ in range(100)])
    leader = f'list_to_atom("{rabbitmq_url.rpartition("/")[2]}_mail")'

    async with (
        anyio.create_task_group() as group,
        broker.consume(many, Lease(new_id(), 15.0)) as consumer,
    ):
        assert isinstance(consumer, RabbitConsumer)
        [first, *others] = await take(consumer, 100)
        await consumer.take_no_more()
        rabbitmq_server.evaluate(f"sys:suspend({leader})")
        assert not await consumer.settle([Ack(each) for each in others])
        assert not await consumer.settle([Ack(first)])
        group.start_soon(
            anyio.to_thread.run_sync,
            rabbitmq_server.evaluate,
            f"timer:sleep(300), sys:resume({leader})",
        )

    async with broker.consume(many, Lease(new_id(), 15.0)) as consumer:
        await broker.publish([envelope("last")])
        [last] = await take(consumer, 1)  # what came again before it is with the suspects now
        assert not await consumer.settle([Ack(last)])
    assert (await broker.depth("mail")).ready == 0


async def test_a_delivery_that_is_held_for_longer_than_the_server_allows_ends_the_lease(
    broker: RabbitBroker, rabbitmq_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.publish([envelope("1")])
    lease = Lease(new_id(), 15.0)
    with impatience(rabbitmq_server):
        async with broker.consume(MAIL, lease) as consumer:
            await take(consumer, 1)
            with anyio.fail_after(PATIENCE):
                while not lease.lost:
                    await checkpoint()
            with pytest.raises(LeaseLost, match="acknowledgement"):
                await consumer.receive(1)

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        again = await next_of(consumer)
        assert (again.envelope.id, again.suspect) == ("1", True)
    assert "set that to more than your longest task" in caplog.text


@contextmanager
def impatience(server: RabbitServer) -> Generator[None]:
    """Channels that are opened in this block give up what is not settled within a second."""
    # milliseconds; the second is how often they look
    was = server.evaluate(
        "{ok, Before} = application:get_env(rabbit, channel_tick_interval),"
        "application:set_env(rabbit, consumer_timeout, 1000),"
        "application:set_env(rabbit, channel_tick_interval, 100), Before"
    )
    try:
        yield
    finally:
        interval = "".join(filter(str.isdigit, was))
        server.evaluate(
            "application:set_env(rabbit, consumer_timeout, 1800000),"
            f"application:set_env(rabbit, channel_tick_interval, {interval})"
        )


async def test_what_was_sent_in_doubt_is_marked(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = sender_of(broker)  # where a confirm can get lost
    await broker.publish([envelope("0")])
    with monkeypatch.context() as patched:
        patched.setattr(sender, "_on_confirm", _ignore)
        patched.setattr("asyncq.drivers.rabbitmq.sender.CALL_TIMEOUT", 0.3)
        sender.close()
        with pytest.raises(BrokerUnavailable):
            await broker.publish([envelope("1")])
    await broker.publish([envelope("1"), envelope("2")])

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        taken = await take(consumer, 4)

    marks = [(delivery.envelope.id, delivery.again) for delivery in taken]
    assert sorted(marks) == [("0", False), ("1", False), ("1", True), ("2", False)]


# Connecting


@pytest.mark.parametrize("change", [("guest:guest@", f"guest:{SECRET}@"), ("/test-", "/nowhere-")])
async def test_who_is_refused_hears_why_and_sees_no_password(
    rabbitmq_url: str, change: tuple[str, str]
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        async with RabbitBroker(Url(rabbitmq_url.replace(*change)), SystemClock()):
            pass

    assert "refuses us" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(BrokerUnavailable, match="no answer"):
        async with RabbitBroker(Url(f"amqp://127.0.0.1:{free_port()}"), SystemClock()):
            pass


async def test_a_server_that_is_no_rabbitmq_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = Url(f"amqp://127.0.0.1:{server.getsockname()[1]}")
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, _answer_http, server)
            with pytest.raises(BrokerUnavailable):
                async with RabbitBroker(url, SystemClock()):
                    pass


async def test_what_says_nothing_is_doubted_to_be_a_rabbitmq(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts, "CONNECT_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match=f"at port {port} does not speak AMQP"):
            async with RabbitBroker(Url(f"amqp://127.0.0.1:{port}"), SystemClock()):
                pass


def _answer_http(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigurationError, match="unknown option heartbeet"):
        make_broker(Url("amqp://localhost?heartbeet=1"), SystemClock())


# Dead letters, and what an operator sees


async def test_dead_letters_keep_bytes_reason_and_crashes_and_can_go_back(
    broker: RabbitBroker,
) -> None:
    sent = [envelope(str(n), b"%d" % n) for n in range(60)]
    await broker.publish(sent)
    async with broker.consume(QueueSpec("mail", 100), Lease(new_id(), 15.0)) as consumer:
        taken = await take(consumer, 60)
        await consumer.settle([Reject(each, f"why {each.envelope.id}") for each in taken])

    letters = await letters_of(broker, 60)
    assert [letter.envelope for letter in letters] == sent
    assert [letter.reason for letter in letters] == [f"why {n}" for n in range(60)]
    assert all(abs(letter.died_at - SystemClock().now()) < PATIENCE for letter in letters)

    back = [str(n) for n in range(5, 55)]
    assert sorted(await broker.replay("mail", [*back, "nobody"])) == sorted(back)
    assert await broker.delete_dead("mail", ["0", "nobody"]) == 1
    left = await broker.dead_letters("mail")
    async with broker.consume(QueueSpec("mail", 100), Lease(new_id(), 15.0)) as consumer:
        again = await take(consumer, len(back))

    assert sorted(letter.envelope.id for letter in left) == sorted(
        str(n) for n in (1, 2, 3, 4, 55, 56, 57, 58, 59)
    )
    assert sorted(bodies_of(again)) == sorted(n.encode() for n in back)
    assert not any(delivery.crashes or delivery.suspect for delivery in again)


async def test_depth_says_what_rabbitmq_can_count(broker: RabbitBroker) -> None:
    await broker.publish([envelope(), envelope(eta=SystemClock().now() + 60)])

    depth = await broker.depth("mail")

    assert (depth.ready, depth.dead, depth.in_flight, depth.delayed) == (1, 0, None, None)
    assert await broker.purge("mail") == 1
    assert (await broker.depth("mail")).ready == 0


async def test_an_eta_in_years_is_taken(broker: RabbitBroker, publisher: Publisher) -> None:
    await broker.publish([envelope(eta=SystemClock().now() + 3 * 366 * 86400)])

    highest = names.delay_units(3 * 366 * 86400).bit_length() - 1
    assert await publisher.topology.count(names.level(highest)) == 1


async def test_foreign_bytes_come_as_they_are(broker: RabbitBroker, publisher: Publisher) -> None:
    await broker.publish([envelope("1")])
    channel = await publisher.connector.open_channel()
    method = channel.marshal(amqp.Basic.Publish(routing_key="mail"))
    header = b"\x02" + channel.number.to_bytes(2, "big") + (14).to_bytes(4, "big")
    header += b"\x00\x3c\x00\x00" + (3).to_bytes(8, "big") + b"\x00\x00\xce"
    body = (
        b"\x03" + channel.number.to_bytes(2, "big") + (3).to_bytes(4, "big") + b"\xff\x00\xc1\xce"
    )
    channel.send(method + header + body)

    async with broker.consume(MAIL, Lease(new_id(), 15.0)) as consumer:
        taken = await take(consumer, 2)

    assert taken[1].envelope.body == b"\xff\x00\xc1"
    assert taken[1].envelope.id.startswith("foreign-")


def sender_of(broker: RabbitBroker) -> Sender:
    """What is behind the broker's doors."""
    publisher: Publisher = vars(broker)["_publisher"]
    return vars(publisher)["_sender"]


def _ignore(*_: object) -> None:
    pass
