"""How asyncq talks to Redis: one connection per role, deadlines, scripts, errors in our own words.

A network that fails in silence leaves connections on which nobody answers, ever. A question that
stays without an answer is therefore a doubt about its connection, and another connection decides:
if the server answers there and not here, here is dead, and so may be whatever else is silent.

redis-py opens the connections (TLS, authentication, databases); its client and pool are not used.
A client would repeat commands after a time-out, and a pool would hand a connection on whose reply
is still under way. Here a call that does not end well closes its connection.
"""

import asyncio
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit
from weakref import WeakSet

import anyio
import hiredis
import redis
import redis.asyncio as aioredis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from asyncq.config import Url, query_of
from asyncq.drivers.hosts import CONNECT_TIMEOUT, TRY_EVERY, Hosts
from asyncq.drivers.redis.refusals import (
    PASSING,
    BackendCannotServe,
    BrokerCannotServe,
    asked_for,
    check_certificates,
    hint_of_tls,
    refusal,
    refusal_to_connect,
)
from asyncq.drivers.redis.wire import ReplyError, Wire
from asyncq.errors import LONGEST, BackendUnavailable, BrokerUnavailable, ConfigurationError
from asyncq.seams.dead import DeadLimits

DOUBT = 1.0  # seconds without an answer until another connection is asked
SLOWEST = 50_000  # bytes a second that a question may take before that
CALL_TIMEOUT = 10.0  # seconds until a silent server counts as gone
LATE = 0.3  # seconds for an answer that was under way when the server answered elsewhere
SILENCE = 1.0  # seconds without a byte; so long does no answer pause that is on its way
PING_EVERY = 10.0  # seconds of silence after which a subscribed connection is asked for life
PONG_TIMEOUT = 5.0  # seconds; then it counts as gone
OLDEST = (6, 2)  # LPOP with a count, SMISMEMBER
OWN_OPTIONS = ("prefix",)

_HANGS_UP = "Protocol error"  # the server closes the connection behind that answer
UNKNOWN_SCRIPT = "NOSCRIPT"
_INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)  # a line of a script
# redis-py packs in Python, at 1 µs an argument; a batch has thousands.
pack_command: Callable[[tuple[Any, ...]], bytes] = cast("Any", hiredis).pack_command


@lru_cache  # asked for each batch that is settled
def lifetime(seconds: float) -> int:
    """How long a key is kept, as Redis counts it: in milliseconds, and not for none at all."""
    return max(1, math.ceil(min(seconds, LONGEST) * 1000))


Unavailable = type[BrokerUnavailable] | type[BackendUnavailable]


def dead_bounds(limits: DeadLimits) -> tuple[int, int]:
    """How many dead letters to keep, and for how many milliseconds, as scripts take it."""
    return limits.most, int(limits.keep * 1000)


class Script:
    """``scripts/<name>.lua``; data reach it through KEYS and ARGV alone."""

    __slots__ = ("sha", "text")

    def __init__(self, name: str, *, behind_prelude: bool = True) -> None:
        self.text = (_script_text("prelude") if behind_prelude else "") + _script_text(name)
        # What Redis itself names a script by; nothing is secured with it.
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@cache
def _script_text(name: str) -> str:
    text = (files("asyncq.drivers.redis") / "scripts" / f"{name}.lua").read_text()
    return _INCLUDE.sub(lambda found: _script_text(found[1]), text)


class RedisStore:
    """The Redis in use: how our keys begin there, and the connections to it."""

    def __init__(self, where: Url | Hosts) -> None:
        self.hosts = where if isinstance(where, Hosts) else Hosts([where])
        self._addresses = [Address(url) for url in self.hosts.urls]
        self.identity = tuple(address.identity for address in self._addresses)
        self._wires: WeakSet[Wire] = WeakSet()
        self._use_present()
        self.hosts.on_move(self._use_present)

    def _use_present(self) -> None:
        self.address = self._addresses[self.hosts.at]
        self.url, self.prefix = self.hosts.url, self.address.prefix

    def key(self, kind: str, name: str) -> str:
        return f"{self.prefix}:{kind}:{name}"

    def queue_key(self, queue: str) -> str:
        """What every key of this queue begins with; the braces keep them in one slot."""
        return f"{self.prefix}:{{{queue}}}"

    async def connect(self) -> Wire:
        """A connection on which the server has answered.

        Raises:
            OSError, RedisError: nobody answered, or could serve us now.
            ConfigurationError: the server refuses us (password, rights, certificates).
        """
        wire = await self.hosts.connect(self._open)
        self._wires.add(wire)
        return wire

    async def _open(self) -> Wire:
        url, connection = self.url, self.address.pool.make_connection()
        try:
            await connection.connect()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, Exception) and (no := refusal_to_connect(url, error)) is not None:
                raise no from error
            raise
        return Wire(connection)

    async def decide(self, doubted: Wire) -> None:
        """Close the doubted connection once the server answers on another, and not there.

        The other one is closed as well: whoever asked must know that it has to begin anew.
        """
        while doubted.is_open:
            with suppress(OSError, exceptions.RedisError, ConfigurationError):
                wire = await self.connect()
                try:
                    await anyio.sleep(LATE)
                finally:
                    wire.close()
                if doubted.silent_for() > SILENCE:
                    doubted.close()
            await anyio.sleep(TRY_EVERY)

    def give_up(self) -> None:
        """Close what is silent; the owners reconnect. Some may be well, and have nothing to say."""
        for wire in list(self._wires):
            if wire.is_open and wire.silent_for() > SILENCE:
                wire.close()


class Address:
    """What one URL says: ``redis://host:port/db?prefix=asyncq``."""

    def __init__(self, url: Url) -> None:
        self.prefix = query_of(url).get("prefix", "asyncq")
        parts = urlsplit(url.reveal())
        rest = [pair for pair in parse_qsl(parts.query) if pair[0] not in OWN_OPTIONS]
        # Not `urlunsplit`, which leaves out the slashes of a unix:///path.
        query = f"?{urlencode(rest)}" if rest else ""
        self._bare = f"{parts.scheme}://{parts.netloc}{parts.path}{query}"
        self._options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": None,  # every call has a deadline of its own
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "health_check_interval": 0,
        }
        if parts.scheme != "unix":
            self._options["socket_keepalive"] = True
        try:
            pool = cast("Any", aioredis.ConnectionPool).from_url(self._bare, **self._options)
            kwargs: dict[str, Any] = pool.connection_kwargs
            pool.make_connection()  # complains about options it does not know
        except (ValueError, TypeError):
            # Not "from": the original's text may hold the password.
            raise ConfigurationError(
                f"{url!r} is not a Redis URL: write redis://[user:password@]host[:port][/db], or "
                "unix:///path/of/the.sock[?db=0]"
            ) from None
        if parts.scheme == "rediss":
            check_certificates(url, kwargs)
        self.pool = pool
        where = kwargs.get("path") or (kwargs.get("host", "localhost"), kwargs.get("port", 6379))
        self.identity = ("redis", where, kwargs.get("db", 0), self.prefix)

    def blocking_client(self) -> redis.Redis:
        """A client for a thread."""
        options = {
            **self._options,
            "socket_timeout": CONNECT_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
        }
        return cast("Any", redis.Redis).from_url(self._bare, **options)


class Link:
    """One connection for one role; calls wait for each other, and it reconnects at the next call.

    A call that fails, times out or is cancelled closes the connection: its reply must not be read
    by the next one.
    """

    def __init__(self, store: RedisStore, unavailable: Unavailable) -> None:
        self.store = store
        self._hosts = store.hosts
        self._url = store.url  # of the server that was last connected to
        self._unavailable = unavailable
        self._wire: Wire | None = None
        self._turn = asyncio.Lock()  # anyio's costs a fifth of a call

    async def __call__(self, *command: Any, blocks: float = 0.0) -> Any:
        """Send one command and return its reply, which may take ``blocks`` seconds by itself.

        Raises:
            BrokerUnavailable, BackendUnavailable: no connection, or no answer in time; the
                command may have been carried out.
            ConfigurationError: the server refuses us (password, rights).
            ReplyError: it says something else, which the caller has to understand.
        """
        [reply] = await self._ask(pack_command(command), 1, blocks)
        return reply

    async def script(self, script: Script, key: str, *args: Any) -> Any:
        """Run a script, which is sent whole only when the server does not know it."""
        moves = self._hosts.moves
        try:
            packed = pack_command(("EVALSHA", script.sha, 1, key, *args))
            return (await self._ask(packed, 1, 0.0))[0]
        except ReplyError as error:
            if error.code != UNKNOWN_SCRIPT:
                raise
            self._see_that_it_is_used(moves)
            return await self("EVAL", script.text, 1, key, *args)

    async def scripts(self, script: Script, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Run a script for each of these keys with their arguments, sent together.

        It must do no harm to run it again: some may have run before one fails.
        """
        moves = self._hosts.moves
        try:
            return await self.pipeline([("EVALSHA", script.sha, 1, *call) for call in calls])
        except ReplyError as error:
            if error.code != UNKNOWN_SCRIPT:
                raise
            self._see_that_it_is_used(moves)
            return await self.pipeline([("EVAL", script.text, 1, *call) for call in calls])

    async def pipeline(self, commands: Sequence[Sequence[Any]], blocks: float = 0.0) -> list[Any]:
        """Send commands together; one reply each. Raises the first error among the replies."""
        packed = b"".join([pack_command(tuple(command)) for command in commands])
        return await self._ask(packed, len(commands), blocks)

    async def _ask(self, packed: bytes, count: int, blocks: float) -> list[Any]:
        moves = self._hosts.moves
        async with self._turn:
            try:
                wire = self._wire
                if wire is None or not wire.is_open:
                    wire = await self._connect()
                self._see_that_it_is_used(moves)
                patience = min(blocks + DOUBT + len(packed) / SLOWEST, blocks + CALL_TIMEOUT)
                replies = await wire.ask(packed, count, patience)
                if replies is None:
                    replies = await self._in_doubt(wire, blocks + CALL_TIMEOUT - patience)
            except OSError as error:
                raise self._gone(error) from error
            for place, reply in enumerate(replies):
                if reply.__class__ is ReplyError:
                    raise self._explain(reply, packed, place)
            return replies

    async def _connect(self) -> Wire:
        url = self._url = self.store.url
        try:
            self._wire = await self.store.connect()
        except exceptions.BusyLoadingError as error:
            raise self._unable("LOADING", str(error)) from error
        except (OSError, exceptions.RedisError) as error:
            raise self._gone(error, hint_of_tls(url, error)) from error
        return self._wire

    def _see_that_it_is_used(self, moves: int) -> None:
        """A question for a server that was given up, with its keys, is no question for another."""
        if moves != self._hosts.moves:
            raise self._unavailable("the server was given up for another meanwhile")

    async def _in_doubt(self, wire: Wire, timeout: float) -> list[Any]:
        """Wait on for the answer, until the server gives one elsewhere or the time is up."""
        replies: list[Any] | None = None
        lost: OSError | None = None

        async with anyio.create_task_group() as doubt:
            doubt.start_soon(self.store.decide, wire)
            try:
                replies = await wire.wait_on(timeout)
            except OSError as error:
                lost = error
            doubt.cancel_scope.cancel()
        if replies is None:
            wire.close()
            self.store.give_up()
            raise lost or TimeoutError("it did not answer in time")
        return replies

    async def listen(self, take: Callable[[Any], None], lose: Callable[[], None]) -> None:
        """Connect, to ask by `tell` alone; see `Wire.hand_on`."""
        async with self._turn:
            if not self.is_connected:
                try:
                    (await self._connect()).hand_on(take, lose)
                except OSError as error:
                    raise self._gone(error) from error

    def tell(self, *command: Any) -> None:
        """Send a command whose answer comes as a push.

        Raises:
            BrokerUnavailable, BackendUnavailable: it is gone.
        """
        try:
            if self._wire is None:
                raise ConnectionResetError("not connected")
            self._wire.tell(pack_command(command))
        except OSError as error:
            raise self._gone(error) from error

    async def next_push(self) -> Any:
        """What the server says next on a subscribed connection.

        Raises:
            BrokerUnavailable, BackendUnavailable: it is gone, or was asked and does not answer.
        """
        try:
            if self._wire is None:
                raise ConnectionResetError("not connected")
            push = await self._wire.next_push(PING_EVERY)
            if push is None:
                # A half-open connection is silent for ever; PING is the one thing it must answer.
                self._wire.tell(pack_command(("PING",)))
                push = await self._wire.next_push(PONG_TIMEOUT)
        except OSError as error:
            raise self._gone(error) from error
        if push is None:
            self.close()
            raise self._unavailable("the subscribed connection does not answer")
        return push

    def _gone(self, error: Exception, hint: str = "") -> Exception:
        what = str(error).rstrip(".") or type(error).__name__
        return self._unavailable(f"no answer from {self._url!r}: {what}{hint}")

    def _explain(self, error: ReplyError, packed: bytes, place: int) -> Exception:
        """Our exception for what the server says; its own where a caller takes it apart."""
        code, said = error.code, str(error)
        if self._wire is not None and _HANGS_UP in said:
            self._wire.close()
        if code in PASSING:
            # What it says of itself may be true of this connection alone (of a replica, say).
            if self._wire is not None:
                self._wire.close()
            return self._unable(code, said)
        return refusal(repr(self._url), code, said, asked_for(packed, place)) or error

    def _unable(self, code: str, said: str) -> Exception:
        why = PASSING[code] or said
        is_broker = issubclass(self._unavailable, BrokerUnavailable)
        kind = BrokerCannotServe if is_broker else BackendCannotServe
        return kind(f"{self._url!r} cannot serve us now: {why}")

    @property
    def is_connected(self) -> bool:
        return self._wire is not None and self._wire.is_open

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
