"""Several brokers that tell each outcome once, as RabbitMQ does: outcomes follow the broker."""

from collections.abc import Iterator, Sequence

import pytest
from anyio import fail_after

from asyncq.app import App
from asyncq.client.gathering import gather
from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.hosts import Hosts
from asyncq.drivers.table import make_backend
from asyncq.errors import ConfigurationError, UnknownResult
from asyncq.language.message import Status, new_id
from asyncq.language.record import Record
from asyncq.seams.feeds import replies_to
from tests.client.given import PATIENCE
from tests.servers import RabbitServer, free_port


@pytest.fixture
def two(rabbitmq_server: RabbitServer) -> Iterator[list[str]]:
    """Two virtual hosts, as two brokers."""
    with rabbitmq_server.new_vhost() as first, rabbitmq_server.new_vhost() as second:
        yield [first, second]


def nobody() -> str:
    return f"amqp://guest:guest@127.0.0.1:{free_port()}/%2F"


def make_app(urls: list[str], backend: str | None = None) -> App:
    app = App(urls, backend=backend)

    @app.task(name="double")
    async def double(number: int) -> int:
        return 2 * number

    return app


async def test_outcomes_come_from_the_broker_that_is_in_use(two: list[str]) -> None:
    app = make_app(two)
    with fail_after(3 * PATIENCE):
        async with app, app.worker():
            assert app.client.backend.offers.keeps_nothing
            results = await app.enqueue_many(app.tasks["double"].s(n) for n in range(50))

            assert await gather(*results, timeout=PATIENCE) == [2 * n for n in range(50)]


async def test_a_first_that_is_away_is_passed_over_by_the_backend_as_well(two: list[str]) -> None:
    app = make_app([nobody(), two[1]])
    with fail_after(3 * PATIENCE):
        async with app, app.worker():
            results = await app.enqueue_many(app.tasks["double"].s(n) for n in range(50))

            assert await gather(*results, timeout=PATIENCE) == [2 * n for n in range(50)]


async def test_what_is_told_once_is_told_here_alone(two: list[str]) -> None:
    app = make_app([nobody(), two[1]])
    with fail_after(3 * PATIENCE):
        async with app, app.worker():
            mine = await app.tasks["double"].enqueue(1)
            assert await mine.get(timeout=PATIENCE) == 2
            assert await mine == 2  # the handle has it
            with pytest.raises(UnknownResult, match="tells each once"):
                await app.result(new_id()).get(timeout=PATIENCE)
            assert await app.result(new_id()).status() is Status.UNKNOWN


async def test_a_backend_of_its_own_keeps_outcomes_whichever_broker_is_in_use(
    two: list[str], redis_url: str
) -> None:
    backend = f"{redis_url}?prefix={new_id()}"
    app = make_app([nobody(), two[1]], backend)
    with fail_after(3 * PATIENCE):
        async with app, app.worker():
            result = await app.tasks["double"].enqueue(21)
            assert await result.get(timeout=PATIENCE) == 42
        async with make_app(two, backend) as elsewhere:
            assert await elsewhere.result(result.id).get(timeout=PATIENCE) == 42


async def test_what_was_told_elsewhere_meanwhile_is_lost_also_where_one_listened_before(
    two: list[str],
) -> None:
    hosts = Hosts([Url(each) for each in two])
    async with make_backend(hosts, SystemClock()) as backend:
        heard = list[Sequence[Record]]()
        async with backend.subscribe(replies_to("here")):
            pass
        for at in (1, 0):
            hosts.use(at)
            async with backend.subscribe(replies_to("here")) as replies:
                with fail_after(PATIENCE):
                    heard.append(await replies.receive())

    assert heard == [(), ()]


async def test_brokers_of_two_kinds_are_no_list(two: list[str], redis_url: str) -> None:
    app = make_app([two[0], redis_url])

    with pytest.raises(ConfigurationError, match="of several kinds"):
        await app.__aenter__()
