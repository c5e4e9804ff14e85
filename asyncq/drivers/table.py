"""The drivers by the scheme of their URL: nothing is imported that is not used."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from asyncq.clock import Clock
from asyncq.config import Url, query_of
from asyncq.drivers.hosts import Hosts
from asyncq.errors import ConfigurationError
from asyncq.language.quantities import choice, count, from_text
from asyncq.language.spelling import nearest
from asyncq.seams.backend import Backend
from asyncq.seams.broker import Broker
from asyncq.seams.dead import DeadLimits

REDIS, AMQP = ("redis", "rediss", "unix"), ("amqp", "amqps")
BROKERS = {
    "memory": "asyncq.drivers.memory.broker:MemoryBroker",
    "sqlite": "asyncq.drivers.sqlite.broker:SqliteBroker",
    **dict.fromkeys(REDIS, "asyncq.drivers.redis.broker:RedisBroker"),
    **dict.fromkeys(AMQP, "asyncq.drivers.rabbitmq.broker:RabbitBroker"),
}
BACKENDS = {
    "memory": "asyncq.drivers.memory.backend:MemoryBackend",
    "sqlite": "asyncq.drivers.sqlite.backend:SqliteBackend",
    **dict.fromkeys(REDIS, "asyncq.drivers.redis.backend:RedisBackend"),
    **dict.fromkeys(AMQP, "asyncq.drivers.rabbitmq.backend:RpcBackend"),
    "null": "asyncq.drivers.null:NullBackend",
}
# Those whose drivers go from one of several to another; of a list of any other the first is used.
SERVERS = {*REDIS, *AMQP}
# scheme: the extra that installs what it needs
EXTRAS = {**dict.fromkeys(REDIS, "redis"), **dict.fromkeys(AMQP, "rabbitmq")}


def make_broker(where: Url | Hosts, clock: Clock, limits: DeadLimits | None = None) -> Broker:
    """The broker at a URL, or at one of several; not yet connected.

    ``limits`` are those of its dead letters.

    Raises:
        ConfigurationError: unknown scheme, or its extra is not installed; URLs of several kinds.
    """
    limits = limits or DeadLimits()
    if isinstance(where, Hosts):
        if len({BROKERS[url.scheme] for url in where.urls}) > 1:
            raise ConfigurationError(
                f"{', '.join(map(repr, where.urls))} are of several kinds: a list of URLs is of "
                "one, and is tried in its order; for queues in different brokers, give them names "
                "in brokers={...}"
            )
        where.broker_at = lambda url: make_broker(url, clock, limits)
    return _load("broker", BROKERS, where, clock, limits)


def make_backend(where: Url | Hosts, clock: Clock) -> Backend:
    """The backend at a URL, or beside the broker that is at one of several; not yet connected.

    Raises:
        ConfigurationError: unknown scheme, or its extra is not installed.
    """
    return _load("backend", BACKENDS, where, clock)


def check_url(kind: str, url: Url) -> None:
    """See that a URL can be one of a ``broker`` or a ``backend``, without loading its driver.

    Raises:
        ConfigurationError: an unknown scheme, port, database or option; says what to write.
    """
    table, scheme = (BROKERS if kind == "broker" else BACKENDS), url.scheme
    if scheme not in table:
        known = ", ".join(f"{each}://" for each in table)
        hint = OTHER_NAMES.get(scheme) or _whole_url(url) or nearest(scheme, table)
        raise ConfigurationError(f"no {kind} driver for {url!r}; known schemes: {known}{hint}")
    try:
        parts = urlsplit(url.reveal())
        _ = parts.port
    except ValueError:
        # Not "from": the original's text may hold the password.
        raise ConfigurationError(
            f"{url!r} has no port that can be: write {scheme}://host:port, and a password with "
            "characters such as / @ : quoted (%2F %40 %3A)"
        ) from None
    if "#" in url.reveal() or not all(
        "=" in option for option in filter(None, parts.query.split("&"))
    ):
        # Not which: it may be the rest of a password.
        raise ConfigurationError(
            f"{url!r}: what follows a ? are options, name=value, and nothing follows a #: in the "
            "name of a file or in a password write %3F for a ? and %23 for a #"
        )
    if scheme == "sqlite" and parts.netloc:
        raise ConfigurationError(
            f"{url!r} names no file: a relative path has three slashes, "
            f"sqlite:///{parts.netloc}{parts.path}, and an absolute one four"
        )
    database = parts.path.strip("/")
    if scheme in {"redis", "rediss"} and database and not database.isdecimal():
        raise ConfigurationError(
            f"{url!r}: a database of Redis is a number, as in redis://host:6379/0; not {database!r}"
        )
    _check_options(scheme, url)


def _whole_url(url: Url) -> str:
    """What to write where the scheme was left out, as far as port or file tell it."""
    if "://" in url.reveal():
        return ""
    if url.endswith((".db", ".sqlite", ".sqlite3")):
        return f"; for this file, write sqlite:///{url}"
    with suppress(ValueError):
        scheme = PORTS.get(urlsplit(f"//{url.reveal()}").port or 0)
        if scheme is not None:
            return f"; did you mean {scheme}://{url}?"
    return ""


def _check_options(scheme: str, url: Url) -> None:
    known = OPTIONS.get(scheme)
    if known is None:
        return
    for option, value in query_of(url).items():
        if option in known:
            if (check := known[option]) is not None:
                check(f"{url!r}: {option}", value)
        elif not (known is _REDIS and option.startswith(("ssl_", "socket_"))):
            hint = nearest(option, known)
            raise ConfigurationError(
                f"{url!r}: unknown option {option}; there are {', '.join(known)}{hint}"
            )


def _whole(least: int) -> Callable[[str, str], Any]:
    return lambda name, text: from_text(count, name, text, at_least=least, most=65535)


_REDIS: Mapping[str, Callable[[str, str], Any] | None] = dict.fromkeys(
    ("prefix", "db", "username", "password", "client_name", "protocol", "max_connections",
     "retry_on_timeout", "health_check_interval", "lib_name", "lib_version", "timeout",
     "encoding", "encoding_errors", "decode_responses", "ssl_ca_certs", "ssl_cert_reqs",
     "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "socket_timeout")
)  # fmt: skip
_AMQP: Mapping[str, Callable[[str, str], Any] | None] = {
    "heartbeat": _whole(0),
    "prefetch": _whole(1),
    "cafile": None,
    "certfile": None,
    "keyfile": None,
    "verify": lambda name, text: choice(name, text, "yes", "no"),
}
_SQLITE: Mapping[str, Callable[[str, str], Any] | None] = {
    "synchronous": lambda name, text: choice(name, text.lower(), "full", "normal")
}
OPTIONS = {**dict.fromkeys(REDIS, _REDIS), **dict.fromkeys(AMQP, _AMQP), "sqlite": _SQLITE}
# What others call a store, or that asyncq has no driver for.
PORTS = {6379: "redis", 5672: "amqp", 5671: "amqps"}  # the usual ones
OTHER_NAMES = {
    "rabbitmq": "; for RabbitMQ, write amqp://",
    "pyamqp": "; for RabbitMQ, write amqp://",
    "valkey": "; for Valkey, write redis://",
    "valkeys": "; for Valkey, write rediss://",
    "redis+socket": "; for a socket, write unix:///path",
    "sqla+sqlite": "; write sqlite:///path",
    "file": "; for a file, write sqlite:///path",
    **dict.fromkeys(
        ("postgres", "postgresql", "mysql", "mariadb", "mongodb", "sqs", "kafka"),
        "; it cannot be used yet",
    ),
}


def _load(kind: str, table: dict[str, str], where: Url | Hosts, *rest: Any) -> Any:
    url = where.url if isinstance(where, Hosts) else where
    check_url(kind, url)
    module, _, name = table[url.scheme].partition(":")
    try:
        driver = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(url.scheme)
        if extra is None or (error.name or "").startswith("asyncq"):
            raise
        raise ConfigurationError(
            f"{url.scheme}:// needs a package that is missing: pip install 'asyncq[{extra}]'"
        ) from error
    # A file, or this process, is not left for another.
    return driver(where if url.scheme in SERVERS else url, *rest)
