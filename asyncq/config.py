"""The settings of app, worker and command line in one record; and URLs that keep their secrets."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from asyncq.errors import ConfigurationError
from asyncq.language.quantities import LARGEST, Seconds, count, default, seconds
from asyncq.language.spelling import Suggesting
from asyncq.shown import Shown

_SECRET = re.compile("password|secret|token", re.IGNORECASE)  # names of options to hide
_NEXT_URL = re.compile(r"\s*,\s*(?=[a-z][a-z0-9+.-]*://)")  # other commas are a part of one
DEFAULT_URL = "sqlite:///asyncq.db"
MIB = 1024 * 1024
SHORTEST_LEASE = 0.1  # seconds; it is renewed three times in that


class Config(Shown, frozen=True, kw_only=True, metaclass=Suggesting):
    """Every setting and its default. Durations are seconds (or a `timedelta`), sizes bytes.

    Raises:
        InvalidValue: a value that makes no sense; names the setting and what is allowed.
    """

    concurrency: int = 100
    """Tasks a worker runs at a time."""
    grace: Seconds = default(30.0)
    """How long running tasks may go on after the worker was told to stop."""
    cancel_grace: Seconds = default(10.0)
    """How long a task that is cancelled may clean up until its worker goes on without it. A worker
    that ends meanwhile lets it, for five seconds more than ``grace``."""
    max_stuck: int = 10
    """How many tasks that ignore their cancellation, or their time limit in a thread, a process of
    ``asyncq worker`` may have until it is replaced."""
    max_waiting: int | None = None
    """How many tasks of a worker may lend their slot while they wait for results of others; ten
    times ``concurrency`` if None. One more keeps its slot as it waits, and the log says so."""
    lease: Seconds = default(15.0)
    """How long a worker that gives no sign of life keeps what it holds."""
    stall_limit: Seconds = default(60.0)
    """How long the event loop may stand still before the lease is no longer renewed."""
    max_crashes: int = 3
    """How many worker deaths a message may cause before it goes to the dead letters.

    They are counted in the store, for all workers and across their restarts, and apart from
    attempts. What a worker gives back that is told to stop, for a deploy say, is not counted. Who
    stands still for longer than ``lease`` cannot be told from who is dead, and is taken for that.
    """
    max_message_size: int = MIB
    max_result_size: int = MIB
    keep_result: Seconds = default(3600.0)
    """How long outcomes are kept."""
    unknown_ttl: Seconds = default(600.0)
    """How long a message for an unknown task, or of a newer version, is given back before it goes
    to the dead letters: time enough for a rolling deploy."""
    unknown_delay: Seconds = default(5.0)
    """The pause between two such give-backs."""
    max_dead_letters: int = 10_000
    """How many dead letters a queue keeps; what is over that gives way, the oldest first."""
    keep_dead_letters: Seconds = default(30 * 86400.0)
    """How long a queue keeps a dead letter, unless there are too many."""
    publish_timeout: Seconds = default(10.0)
    """How long ``enqueue`` goes on trying while the broker does not answer."""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            plain = check(f"Config's {name}", getattr(self, name))
            msgspec.structs.force_setattr(self, name, plain)


def _most_waiting(name: str, value: Any) -> int | None:
    return None if value is None else count(name, value, none="ten times the slots")


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "concurrency": partial(count, at_least=1),
    "cancel_grace": seconds,
    "max_stuck": partial(count, at_least=1),
    "max_waiting": _most_waiting,
    "grace": seconds,
    "lease": partial(seconds, at_least=SHORTEST_LEASE),
    "stall_limit": partial(seconds, above=0),
    "max_crashes": partial(count, at_least=1),
    "max_message_size": partial(count, at_least=1, most=LARGEST),
    "max_result_size": partial(count, at_least=1, most=LARGEST),
    "keep_result": seconds,
    "unknown_ttl": seconds,
    "unknown_delay": seconds,
    "max_dead_letters": partial(count, at_least=1),
    "keep_dead_letters": partial(seconds, above=0),
    "publish_timeout": partial(seconds, above=0),
}

DEFAULTS = Config()


class Url(str):
    """A connection URL whose password shows in no ``repr``, log line or error.

    The whole text is ``reveal()``; ``str(url)`` and ``repr(url)`` are masked.
    """

    __slots__ = ("_text",)

    def __new__(cls, text: str) -> Self:
        return str.__new__(cls, mask(text))

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The URL with its password, for the library that connects."""
        return self._text

    @property
    def scheme(self) -> str:
        return self.partition("://")[0]


def mask(url: str) -> str:
    """``url`` without its password, in the user part or in the query.

    A password that was not quoted may hold any character, so that where the user part ends is a
    guess: everything up to the last "@" is hidden, rather too much than too little.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    user, at, host = rest.rpartition("@")
    if at:
        name, colon, _ = user.partition(":")
        rest = f"{name}:***@{host}" if colon else rest
    path, question, query = rest.partition("?")
    if question:
        pairs = [pair.partition("=") for pair in query.split("&")]
        query = "&".join(
            f"{name}=***" if _SECRET.search(name) else f"{name}{equals}{value}"
            for name, equals, value in pairs
        )
    return f"{scheme}{separator}{path}{question}{query}"


def sqlite_path(url: Url) -> str:
    """The file a ``sqlite:///relative.db`` or ``sqlite:////absolute.db`` URL names."""
    path = unquote(urlsplit(url.reveal()).path)[1:]
    if not path:
        raise ConfigurationError(f"{url} names no file: write sqlite:///asyncq.db")
    return path


def query_of(url: Url) -> dict[str, str]:
    """The options behind the ``?`` of a URL."""
    return dict(parse_qsl(urlsplit(url.reveal()).query))


def broker_urls(given: str | Sequence[str] | None) -> tuple[Url, ...]:
    """The URLs to use: as given, else ``$ASYNCQ_BROKER``, else SQLite in ``./asyncq.db``.

    More than one, in a list or with commas between them, are tried in their order.
    """
    given = given or os.environ.get("ASYNCQ_BROKER") or DEFAULT_URL
    texts = _NEXT_URL.split(given) if isinstance(given, str) else given
    return tuple(Url(text) for text in texts)
