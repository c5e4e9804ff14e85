"""The Redis drivers keep the contracts behind TLS, too: ``rediss://``; and who is trusted there."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from anyio import fail_after, to_thread

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers import hosts
from asyncq.drivers.redis.backend import RedisBackend
from asyncq.drivers.redis.broker import RedisBroker
from asyncq.errors import (
    AsyncqError,
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
)
from asyncq.language.message import new_id
from asyncq.testing.contracts import BackendContract, BrokerContract, DriverFixtures
from tests.contracts.rabbit_given import MAIL, PATIENCE, envelope, lease
from tests.servers.certificates import write_certificates
from tests.servers.tls import behind_tls


class Door(NamedTuple):
    """A port that takes TLS alone, and who has signed for it."""

    where: str
    authority: Path


@contextmanager
def open_door(redis_url: str, directory: Path, name: str) -> Generator[Door]:
    """A door to this server, with a certificate for this name."""
    files = write_certificates(directory, name)
    port = urlsplit(redis_url).port
    assert port is not None
    with behind_tls(port, files) as own:
        yield Door(f"127.0.0.1:{own}", files.authority)


@pytest.fixture(scope="module")
def door(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(redis_url, tmp_path_factory.mktemp("tls"), "127.0.0.1") as door:
        yield door


class BehindTls(DriverFixtures):
    scheme = "rediss"

    @pytest.fixture
    def url(self, door: Door) -> Url:
        return Url(f"rediss://{door.where}/0?ssl_ca_certs={door.authority}&prefix={new_id()}")


class TestBroker(BehindTls, BrokerContract):
    pass


class TestBackend(BehindTls, BackendContract):
    async def test_a_lease_is_renewed_from_a_thread_too(self, url: Url) -> None:
        worker = lease()
        async with (
            RedisBroker(url, SystemClock()) as broker,
            broker.consume(MAIL, worker),
        ):
            renewer = broker.renewer()
            try:
                assert await to_thread.run_sync(renewer.renew, worker.incarnation, ["mail"], 15.0)
            finally:
                renewer.close()


async def what_is_said(url: str) -> AsyncqError:
    """What a broker raises. Of its class is what a backend raises, but for an outage."""
    with fail_after(PATIENCE), pytest.raises(AsyncqError) as of_broker:
        async with RedisBroker(Url(url), SystemClock()) as broker:
            await broker.publish([envelope()])
    error = of_broker.value
    kind = BackendUnavailable if isinstance(error, BrokerUnavailable) else type(error)
    with fail_after(PATIENCE), pytest.raises(kind):
        async with RedisBackend(Url(url), SystemClock()) as backend:
            await backend.fetch(["a"])
    return error


async def test_a_certificate_of_an_unknown_authority_is_refused(door: Door) -> None:
    error = await what_is_said(f"rediss://{door.where}/0")

    assert isinstance(error, ConfigurationError)
    assert "do not trust" in str(error)
    assert "?ssl_ca_certs=" in str(error)


async def test_any_certificate_is_taken_by_who_asks_for_that(door: Door) -> None:
    url = Url(f"rediss://{door.where}/0?ssl_cert_reqs=none&prefix={new_id()}")
    async with RedisBroker(url, SystemClock()) as broker:
        await broker.publish([envelope()])
        assert (await broker.depth("mail")).ready == 1


async def test_a_certificate_for_another_host_is_refused(redis_url: str, tmp_path: Path) -> None:
    with open_door(redis_url, tmp_path, "elsewhere.example") as door:
        error = await what_is_said(f"rediss://{door.where}/0?ssl_ca_certs={door.authority}")

        assert isinstance(error, ConfigurationError)
        assert "'127.0.0.1'" in str(error)


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_certificate_that_cannot_be_read_is_named(option: str) -> None:
    for driver in (RedisBroker, RedisBackend):
        with pytest.raises(ConfigurationError, match="certificates cannot be read"):
            driver(Url(f"rediss://localhost/0?{option}=/nowhere.pem"), SystemClock())


@pytest.mark.parametrize(("scheme", "remedy"), [("redis", "rediss://"), ("rediss", "redis://")])
async def test_tls_on_one_side_alone_is_named(
    door: Door, redis_url: str, scheme: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "CONNECT_TIMEOUT", 0.5)
    where = door.where if scheme == "redis" else urlsplit(redis_url).netloc

    error = await what_is_said(f"{scheme}://{where}/0")

    assert f"write {remedy}" in str(error)
