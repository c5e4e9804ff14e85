"""What RabbitMQ does not let a user do, and queues that others have: said as what they are."""

from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import anyio
import pamqp.commands as amqp
import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.rabbitmq.broker import RabbitBroker
from asyncq.drivers.rabbitmq.publisher import Publisher
from asyncq.drivers.rabbitmq.refusals import access_refused
from asyncq.errors import ConfigurationError, QueueUnavailable, UnknownResult
from asyncq.language.message import new_id
from asyncq.language.topology import Queue
from tests.client.given import until
from tests.contracts.rabbit_given import MAIL, PATIENCE, ask, broker, envelope, lease, publisher
from tests.servers import RabbitServer

__all__ = ["broker", "publisher"]  # fixtures

ALL = ".*"
NONE = "^$"


class Narrow:
    """A user of a vhost who may do what a test says."""

    def __init__(self, server: RabbitServer, url: str) -> None:
        self._server = server
        self.vhost = urlsplit(url).path[1:]
        self.name = f"narrow-{self.vhost}"
        self.url = f"amqp://{self.name}:secret@127.0.0.1:{server.port}/{self.vhost}"
        server.evaluate(
            f'rabbit_auth_backend_internal:add_user(<<"{self.name}">>, <<"secret">>, <<"tests">>)'
        )

    def may(self, configure: str, write: str, read: str) -> None:
        self._server.evaluate(
            f'rabbit_auth_backend_internal:set_permissions(<<"{self.name}">>, <<"{self.vhost}">>,'
            f' <<"{configure}">>, <<"{write}">>, <<"{read}">>, <<"tests">>)'
        )

    def leave(self) -> None:
        self._server.evaluate(
            f'rabbit_auth_backend_internal:delete_user(<<"{self.name}">>, <<"tests">>)'
        )

    def remedy(self) -> str:
        return f"rabbitmqctl set_permissions -p {self.vhost} {self.name} '.*' '.*' '.*'"


@pytest.fixture
def narrow(rabbitmq_url: str, rabbitmq_server: RabbitServer) -> Iterator[Narrow]:
    user = Narrow(rabbitmq_server, rabbitmq_url)
    yield user
    user.leave()


def assert_says(error: BaseException, user: Narrow, *parts: str) -> None:
    text = str(error)
    assert isinstance(error, ConfigurationError)
    assert "secret" not in text
    for part in (f"user '{user.name}'", f"'{user.vhost}'", user.remedy(), *parts):
        assert part in text


async def test_a_vhost_that_the_user_may_not_enter_is_named(narrow: Narrow) -> None:
    with pytest.raises(ConfigurationError) as caught:
        async with App(narrow.url):
            pass

    assert_says(caught.value, narrow, f"may not enter vhost '{narrow.vhost}'")


async def test_who_may_not_declare_hears_so_where_he_sends(narrow: Narrow) -> None:
    narrow.may(NONE, ALL, ALL)
    app = App(narrow.url, backend=f"memory://{new_id()}")

    @app.task(queue="mail")
    async def send() -> None: ...

    with fail_after(PATIENCE), pytest.raises(ConfigurationError) as caught:
        async with app:
            await send.enqueue()

    assert_says(caught.value, narrow, "lacks the configure", "queue 'mail:dead'")


async def test_who_may_only_write_sends_to_what_others_made(
    rabbitmq_url: str, narrow: Narrow
) -> None:
    app, writer = App(rabbitmq_url), App(narrow.url, backend="null://")
    came = list[int]()
    done = anyio.Event()

    async def take(n: int) -> None:
        came.append(n)
        if len(came) == 3:
            done.set()

    makes = app.task(name="take", queue="mail")(take)
    send = writer.task(name="take", queue="mail")(take)
    narrow.may(NONE, "^amq[.]default$|^asyncq:delay:", NONE)

    with fail_after(2 * PATIENCE):
        async with writer, app:
            with pytest.raises(ConfigurationError) as caught:
                await send.enqueue(0)
            async with app.worker():
                await send.enqueue(1)
                with pytest.raises(ConfigurationError) as late:
                    await send.options(delay=0.2).enqueue(0)
                await makes.options(delay=0.2).enqueue(2)
                await send.options(delay=0.1).enqueue(3)
                await done.wait()

    assert sorted(came) == [1, 2, 3]
    assert_says(caught.value, narrow, "lacks the configure", "no queue 'mail'", "have it made by")
    assert_says(late.value, narrow, "lacks the configure", "no exchange 'asyncq:delay:")


async def test_a_worker_that_may_configure_nothing_consumes_what_others_made(
    rabbitmq_url: str, narrow: Narrow
) -> None:
    app = App(rabbitmq_url)
    narrow.may(NONE, ALL, ALL)

    async def double(n: int) -> int:
        return 2 * n

    sends = app.task(name="double", queue="mail")(double)
    other = App(narrow.url)
    other.task(name="double", queue="mail")(double)
    with fail_after(2 * PATIENCE):
        async with app:
            result = await sends.enqueue(2)
            async with other.worker(queues=["mail"]):
                assert await result.get(timeout=PATIENCE) == 4


@pytest.mark.parametrize("missing", ["configure", "read"])
async def test_who_may_have_no_reply_queue_sends_and_hears_so_where_he_asks_for_a_result(
    rabbitmq_url: str, narrow: Narrow, missing: str
) -> None:
    app, deaf = App(rabbitmq_url), App(narrow.url)
    others = "^(?!asyncq:reply)"
    narrow.may(others if missing == "configure" else ALL, ALL, others)
    ran = list[int]()

    async def double(n: int) -> int:
        ran.append(n)
        return 2 * n

    sends = deaf.task(name="double", queue="mail")(double)
    app.task(name="double", queue="mail")(double)
    with fail_after(2 * PATIENCE):
        async with app, deaf:
            async with app.worker():
                results = [await sends.enqueue(n) for n in range(3)]
                for result in results:
                    with fail_after(PATIENCE), pytest.raises(ConfigurationError) as caught:
                        await result
                    assert_says(
                        caught.value, narrow, f"lacks the {missing}", "queue 'asyncq:reply:"
                    )
                await until(lambda: sorted(ran) == [0, 1, 2])
            # What a worker has told before it ended came where there is a queue for it.

            narrow.may(ALL, ALL, ALL)
            async with app.worker():
                while True:  # it tries again by itself
                    with suppress(ConfigurationError, UnknownResult):
                        assert await (await sends.enqueue(7)).get(timeout=PATIENCE) == 14
                        break
            if missing == "read":  # the queue was there all the time
                assert [await result for result in results] == [0, 2, 4]
            else:
                for result in results:
                    with pytest.raises(UnknownResult):
                        await result


async def test_who_may_not_write_hears_so_where_he_sends(
    broker: RabbitBroker, narrow: Narrow
) -> None:
    await broker.publish([envelope()])  # somebody has made all there is
    narrow.may(ALL, "mail.*|asyncq.*", ALL)

    async with RabbitBroker(Url(narrow.url), SystemClock()) as refused:
        with fail_after(PATIENCE), pytest.raises(ConfigurationError) as caught:
            await refused.publish([envelope()])

    assert_says(caught.value, narrow, "lacks the write right to exchange")


async def test_who_may_not_read_hears_so_where_he_consumes(
    broker: RabbitBroker, narrow: Narrow
) -> None:
    await broker.publish([envelope()])
    narrow.may(ALL, ALL, "^(?!mail$)")

    with fail_after(PATIENCE), pytest.raises(ConfigurationError) as caught:
        async with App(narrow.url).worker(queues=["mail"]):
            pass

    assert_says(caught.value, narrow, "read right to queue 'mail'")


async def test_a_queue_without_rights_stops_no_other_of_the_worker(
    broker: RabbitBroker, narrow: Narrow
) -> None:
    await broker.publish([envelope()])
    narrow.may(ALL, ALL, "^(?!mail$)")
    app = App(narrow.url, backend=f"memory://{new_id()}")

    @app.task(queue="other")
    async def double(n: int) -> int:
        return 2 * n

    with fail_after(2 * PATIENCE):
        async with app.worker(queues=["mail", "other"]) as worker:
            assert await (await double.enqueue(2)).get(timeout=PATIENCE) == 4
            assert not worker.is_consuming


async def test_a_queue_that_another_consumer_has_for_itself_stops_no_other(
    rabbitmq_url: str, broker: RabbitBroker, publisher: Publisher
) -> None:
    classic = Queue("mail", kind="classic")
    await broker.declare([classic])
    hers = await publisher.connector.open_channel()
    await hers.call(amqp.Basic.Consume(queue="mail", exclusive=True))
    app = App(rabbitmq_url, backend=f"memory://{new_id()}", queues=[classic])

    @app.task(queue="other")
    async def double(n: int) -> int:
        return 2 * n

    with pytest.raises(QueueUnavailable, match="another consumer has it for itself"):
        async with broker.consume(MAIL, lease()):
            pass
    with fail_after(2 * PATIENCE):
        async with app.worker(queues=["mail", "other"]) as worker:
            for n in range(3):
                assert await (await double.enqueue(n)).get(timeout=PATIENCE) == 2 * n
            assert not worker.is_consuming


async def test_a_queue_that_was_made_otherwise_stops_no_other_until_it_is_deleted(
    rabbitmq_url: str, publisher: Publisher
) -> None:
    await ask(publisher, amqp.Queue.Declare(queue="mail", durable=True))
    app = App(rabbitmq_url, backend=f"memory://{new_id()}", queues=[Queue("other")])

    @app.task(queue="other")
    async def double(n: int) -> int:
        return 2 * n

    @app.task(queue="mail")
    async def send(n: int) -> int:
        return n

    with fail_after(3 * PATIENCE):
        async with app.worker(queues=["mail", "other"]) as worker:
            assert await (await double.enqueue(2)).get(timeout=PATIENCE) == 4
            with pytest.raises(ConfigurationError, match="was made otherwise"):
                await send.enqueue(1)
            assert not worker.is_consuming

            await ask(publisher, amqp.Queue.Delete(queue="mail"))
            assert await (await send.enqueue(1)).get(timeout=2 * PATIENCE) == 1
            assert worker.is_consuming


def test_what_is_not_about_rights_is_not_taken_for_it() -> None:
    said = "403 ACCESS_REFUSED - queue 'mail' in vhost '/' in exclusive use"

    assert access_refused("url", said) is None
