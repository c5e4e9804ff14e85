"""How asyncq talks to RabbitMQ: where it is, and a connection that comes back."""

import math
import ssl
from asyncio import timeout as deadline
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from asyncq.config import Url
from asyncq.drivers.hosts import CONNECT_TIMEOUT, Hosts
from asyncq.drivers.rabbitmq.address import Address
from asyncq.drivers.rabbitmq.refusals import RAISE_LIMIT, access_refused, is_at_limit
from asyncq.drivers.rabbitmq.wire import Channel, ChannelClosed, ConnectionRefused, Wire
from asyncq.errors import BackendUnavailable, BrokerUnavailable, ConfigurationError

CALL_TIMEOUT = 10.0  # seconds until a silent server counts as gone
NOT_FOUND = 404  # AMQP's reply code
OLDEST = (3, 10)  # quorum queues with a time to live, dead letters that are confirmed

Unavailable = type[BrokerUnavailable] | type[BackendUnavailable]


class AmqpSettings:
    """Where the RabbitMQ in use is."""

    def __init__(self, where: Url | Hosts) -> None:
        self.hosts = where if isinstance(where, Hosts) else Hosts([where])
        self._addresses = [Address(url) for url in self.hosts.urls]
        self.identity = tuple(address.identity for address in self._addresses)

    @property
    def address(self) -> Address:
        return self._addresses[self.hosts.at]

    @property
    def url(self) -> Url:
        return self.hosts.url


class Connector:
    """One connection for one role, opened when it is asked for and whenever it was lost."""

    def __init__(self, settings: AmqpSettings, role: str, unavailable: Unavailable) -> None:
        self._settings = settings
        self._role = role
        self._unavailable = unavailable
        self._url = settings.url  # of the server that was last connected to
        self._wire: Wire | None = None
        self._was_connected = False
        self._turn = anyio.Lock(fast_acquire=True)

    async def wire(self) -> Wire:
        """The open connection.

        Raises:
            BrokerUnavailable, BackendUnavailable: there is none to be had now.
            ConfigurationError: the server refuses us (password, rights, virtual host, its age).
        """
        async with self._turn:
            if self._wire is None or self._wire.closed is not None:
                self._wire = await self._connect()
            return self._wire

    async def _connect(self) -> Wire:
        port, self._url = self._settings.address.port, self._settings.url
        try:
            wire = await self._settings.hosts.connect(self._open)
        except TimeoutError as error:
            raise self._unavailable(
                f"no answer from {self._url!r} in {CONNECT_TIMEOUT:g} s: it is down, or "
                f"what listens at port {port} does not speak AMQP (RabbitMQ's own ports "
                "are 5672, and 5671 with TLS)"
            ) from error
        except OSError as error:
            raise self.gone(error) from error
        if _version(wire.version) < OLDEST:
            wire.close()
            raise ConfigurationError(
                f"{self._url!r} is RabbitMQ {wire.version}; asyncq needs "
                f"{'.'.join(map(str, OLDEST))} or newer"
            )
        self._was_connected = True
        return wire

    async def _open(self) -> Wire:
        address, url = self._settings.address, self._settings.url
        try:
            return await Wire.connect(address, f"asyncq {self._role}")
        except ConnectionRefused as error:
            # A server that starts refuses for a while whom it knew.
            if self._was_connected or is_at_limit(error):
                raise
            refused = access_refused(repr(url), str(error))
            raise refused or ConfigurationError(f"{url!r} refuses us: {error}") from error
        except ssl.SSLCertVerificationError as error:
            raise ConfigurationError(
                f"{url!r} has a certificate that we do not trust: {error.verify_message}; "
                "name its authority with ?cafile="
            ) from error

    @property
    def lingering(self) -> float:
        """Seconds after which the server has given up every connection that was lost."""
        heartbeat = self._settings.address.heartbeat
        # It waits for two, and looks now and then.
        return 3.0 * heartbeat if heartbeat else math.inf

    async def reach(self) -> None:
        """Return once the server answers on another connection, which is not kept.

        Raises:
            OSError: it is not there.
        """
        while True:
            with suppress(TimeoutError):  # it may stand still; who asks knows for how long
                wire = await self._settings.hosts.connect(self._open)
                wire.close()
                return

    def gone(self, error: BaseException) -> Exception:
        """Our exception for a connection that was lost, or a server that says no."""
        what, url = str(error) or type(error).__name__, repr(self._url)
        if is_at_limit(what):
            return self._unavailable(f"{url} says no: {what}{RAISE_LIMIT}")
        if isinstance(error, ChannelClosed):
            refused = access_refused(url, what, error.method)
            return refused or self._unavailable(f"{url} says no: {what}")
        return self._unavailable(f"no answer from {url}: {what}")

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[None]:
        """What is asked in this block is answered in time, if the server only says no.

        Raises:
            BrokerUnavailable, BackendUnavailable: it is not; the next call opens a new connection.
        """
        try:
            async with deadline(CALL_TIMEOUT):
                yield
        except OSError as error:
            if isinstance(error, TimeoutError):
                self.close()
            raise self.gone(error) from error

    async def call(self, *methods: Any) -> list[Any]:
        """The answers to these methods, on a channel of their own: what is refused closes it.

        Raises:
            ChannelClosed: the server says no to one of them.
            BrokerUnavailable, BackendUnavailable: no answer; call again.
        """
        channel = await self.open_channel()
        try:
            async with self.asking():
                return await channel.call(*methods)
        finally:
            channel.close()

    async def find(self, method: Any) -> Any:
        """The answer to what is asked of one queue; None if there is none of that name.

        Raises as `call`, of what else the server says no to as well.
        """
        try:
            [answer] = await self.call(method)
        except ChannelClosed as error:
            if error.code != NOT_FOUND:
                raise self.gone(error) from error
            return None
        return answer

    async def open_channel(self) -> Channel:
        """A channel for something of its own; close it. Raises as `wire`."""
        async with self.asking():
            return await (await self.wire()).open_channel()

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit()) or OLDEST
