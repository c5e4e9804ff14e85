"""How asyncq talks to Redis: one connection per role, deadlines, scripts, errors in our own words.

redis-py makes the connections (TLS, authentication, databases, RESP); its client and pool are not
used. A client would repeat commands after a time-out, and a pool would hand a connection on whose
reply is still under way. Here a call that does not end well closes its connection.
"""

import hashlib
from asyncio import timeout as deadline
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio
import hiredis
import redis
import redis.asyncio as aioredis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from asyncq.config import Url, query_of
from asyncq.errors import BackendUnavailable, BrokerUnavailable, ConfigurationError

CONNECT_TIMEOUT = 5.0  # seconds
CALL_TIMEOUT = 10.0  # seconds until a silent server counts as gone
OLDEST = (6, 2)  # LPOP with a count, SMISMEMBER
OWN_OPTIONS = ("prefix",)

# The server is there but cannot serve us now: reconnecting (to the next master, say) may help.
_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF", "OOM",
            "TRYAGAIN", "UNKILLABLE", "BUSY")  # fmt: skip

# redis-py packs in Python, at 1 µs an argument; a batch has thousands.
pack_command: Callable[[tuple[Any, ...]], bytes] = cast("Any", hiredis).pack_command

Unavailable = type[BrokerUnavailable] | type[BackendUnavailable]


class Script:
    """One Lua script of a package, a constant; data reach it through KEYS and ARGV alone."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        # What Redis itself names a script by; nothing is secured with it.
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@cache
def load_script(package: str, name: str) -> Script:
    """The script ``scripts/<name>.lua`` of ``package``."""
    return Script((files(package) / "scripts" / f"{name}.lua").read_text())


class RedisSettings:
    """Where a Redis is, and how our keys begin: ``redis://host:port/db?prefix=asyncq``."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self.prefix = query_of(url).get("prefix", "asyncq")
        parts = urlsplit(url.reveal())
        rest = [pair for pair in parse_qsl(parts.query) if pair[0] not in OWN_OPTIONS]
        self._bare = urlunsplit(parts._replace(query=urlencode(rest)))
        try:
            pool = cast("Any", aioredis.ConnectionPool).from_url(self._bare, **self._options())
            kwargs: dict[str, Any] = pool.connection_kwargs
            pool.make_connection()  # complains about options it does not know
        except (ValueError, TypeError):
            # Not "from": the original's text may hold the password.
            raise ConfigurationError(
                f"{url!r} is not a Redis URL: write redis://[user:password@]host[:port][/db]"
            ) from None
        self._pool = pool
        where = kwargs.get("path") or (kwargs.get("host", "localhost"), kwargs.get("port", 6379))
        self.identity = ("redis", where, kwargs.get("db", 0), self.prefix)

    def _options(self) -> dict[str, Any]:
        return {
            "protocol": 2,
            "socket_timeout": None,  # every call has a deadline of its own
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_keepalive": True,
            "health_check_interval": 0,
        }

    def connection(self) -> aioredis.Connection:
        """A new connection for the event loop, not yet open."""
        return self._pool.make_connection()

    def blocking_client(self) -> redis.Redis:
        """A client for a thread."""
        options = {
            **self._options(),
            "socket_timeout": CONNECT_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
        }
        return cast("Any", redis.Redis).from_url(self._bare, **options)

    def key(self, kind: str, name: str) -> str:
        return f"{self.prefix}:{kind}:{name}"


class Link:
    """One connection for one role; calls wait for each other, and it reconnects at the next call.

    A call that fails, times out or is cancelled closes the connection: its reply must not be read
    by the next one.
    """

    def __init__(self, settings: RedisSettings, unavailable: Unavailable) -> None:
        self._settings = settings
        self._unavailable = unavailable
        self._connection = settings.connection()
        self._turn = anyio.Lock(fast_acquire=True)

    async def __call__(self, *command: Any, timeout: float = CALL_TIMEOUT) -> Any:
        """Send one command and return its reply.

        Raises:
            BrokerUnavailable, BackendUnavailable: no connection, or no answer in time; the
                command may have been carried out.
            ConfigurationError: the server refuses us (password, rights).
        """
        [reply] = await self.pipeline([command], timeout=timeout)
        return reply

    async def script(self, script: Script, key: str, *args: Any) -> Any:
        """Run a script, which is sent whole only when the server does not know it."""
        try:
            return await self("EVALSHA", script.sha, 1, key, *args)
        except exceptions.NoScriptError:
            return await self("EVAL", script.text, 1, key, *args)

    async def pipeline(
        self, commands: Sequence[Sequence[Any]], timeout: float = CALL_TIMEOUT
    ) -> list[Any]:
        """Send commands together; one reply each. Raises the first error among the replies."""
        packed = b"".join([pack_command(tuple(command)) for command in commands])
        async with self._turn:
            connection = self._connection
            try:
                async with deadline(timeout):
                    if not connection.is_connected:
                        await connection.connect()
                    await self._send(packed)
                    replies: list[Any] = []
                    errors: list[exceptions.ResponseError] = []
                    for _ in commands:
                        try:
                            replies.append(await self._read())
                        except exceptions.ResponseError as error:
                            errors.append(error)
            except (exceptions.RedisError, OSError, TimeoutError) as error:
                await connection.disconnect(nowait=True)
                raise self.translate(error) from error
            if errors:
                translated = self.translate(errors[0])
                if isinstance(translated, self._unavailable):
                    await connection.disconnect(nowait=True)
                raise translated from errors[0]
            return replies

    def _read(self) -> Awaitable[Any]:
        return cast(
            "Awaitable[Any]",
            self._connection.read_response(timeout=float("inf")),
        )

    async def _send(self, packed: bytes) -> None:
        try:
            await self._connection.send_packed_command(packed, check_health=False)
        except RuntimeError as error:
            # What uvloop raises when the connection was reset while nobody looked.
            raise exceptions.ConnectionError(str(error)) from error

    async def send(self, *command: Any) -> None:
        """Send a command on a subscribed connection; its answer comes by `next_push`."""
        try:
            await self._send(pack_command(command))
        except (exceptions.RedisError, OSError) as error:
            raise self.translate(error) from error

    async def next_push(self, timeout: float) -> Any:
        """What a subscribed connection sends next; None when nothing came in ``timeout``."""
        connection = self._connection
        try:
            return cast("Any", await connection.read_response(timeout=timeout))
        except (exceptions.RedisError, OSError) as error:
            await connection.disconnect(nowait=True)
            raise self.translate(error) from error

    def translate(self, error: Exception) -> Exception:
        """Our exception for redis-py's; its own where a caller of `Link` takes it apart."""
        if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError) or str(
            error
        ).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            return ConfigurationError(f"{self._settings.url!r} refuses us: {error}")
        if isinstance(error, exceptions.ResponseError) and not str(error).startswith(_PASSING):
            if isinstance(
                error,
                exceptions.ReadOnlyError
                | exceptions.OutOfMemoryError
                | exceptions.ClusterDownError
                | exceptions.MasterDownError,
            ):
                return self._unavailable(f"{self._settings.url!r} cannot serve us now: {error}")
            return error
        what = str(error) or type(error).__name__
        return self._unavailable(f"no answer from {self._settings.url!r}: {what}")

    @property
    def is_connected(self) -> bool:
        return self._connection.is_connected

    async def drop(self) -> None:
        """Close the connection; the next call opens a new one."""
        await self._connection.disconnect(nowait=True)

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)
