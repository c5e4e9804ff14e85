"""Where messages can wait, and which way leads there: queues, exchanges and what binds them.

The words and the rules are AMQP's. RabbitMQ carries them out itself; for the other brokers the
client asks `resolve` when it publishes. Pure data: nothing here talks to a broker.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import msgspec

from asyncq.errors import ConfigurationError, InvalidValue, shown
from asyncq.language.message import MAX_PRIORITY, QUEUE_NAME
from asyncq.language.quantities import SecondsOrNone, choice, count, flag, no_default, seconds
from asyncq.language.spelling import Suggesting
from asyncq.shown import Shown
from asyncq.texts import counted

Kind = Literal["direct", "topic", "fanout", "headers"]
Overflow = Literal["reject", "drop-head"]

LONGEST_TTL = 4_294_967.0  # seconds: as many milliseconds as RabbitMQ counts; 49 days
MOST_MESSAGES = 2**31 - 1
LONGEST_KEY = 255  # bytes; what AMQP's frames have room for


class Exchange(Shown, frozen=True, metaclass=Suggesting):
    """A name to publish to; where a message goes from there is its queues' bindings' business.

    A ``direct`` exchange compares keys, a ``topic`` exchange takes patterns (``*`` is one word,
    ``#`` any number of them), ``fanout`` sends to every queue, ``headers`` looks at the message's
    headers.

    Raises:
        ConfigurationError: there can be no such exchange.
    """

    name: str
    kind: Kind = "direct"

    def __post_init__(self) -> None:
        check_exchange_name(self.name)
        choice(f"exchange {self.name}: its kind", self.kind, *get_args(Kind))


class Binding(Shown, frozen=True, metaclass=Suggesting):
    """What of an exchange a queue takes.

    ``key`` is for direct and topic exchanges; ``headers`` and ``match`` are for headers exchanges:
    ``all`` of them must be there with the same type and value, or ``any``. A value of None asks
    only that the header is there; names that begin with ``x-`` are not looked at.

    Raises:
        ConfigurationError: an exchange of this kind cannot be bound like this.
    """

    exchange: Exchange
    key: str = ""
    headers: Mapping[str, Any] = {}
    match: Literal["all", "any"] = "all"

    def __post_init__(self) -> None:
        if not isinstance(self.exchange, Exchange):  # pyright: ignore[reportUnnecessaryIsInstance] - what users write
            raise InvalidValue("a binding's exchange", self.exchange, "an Exchange(name, kind)")
        kind, where = self.exchange.kind, f"a binding to exchange {self.exchange.name}"
        check_routing_key(self.key)
        choice(f"{where}: match", self.match, "all", "any")
        if not isinstance(self.headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - what users write
            raise InvalidValue(f"{where}: headers", self.headers, "a dictionary")
        if kind == "headers":
            if self.key:
                raise ConfigurationError(
                    f"{where}: a headers exchange looks at no key; leave out key={self.key!r}"
                )
            if self.match == "any" and not _looked_at(self.headers):
                raise ConfigurationError(f"{where}: any of no headers is never; name some")
        elif self.headers or self.match != "all":
            raise ConfigurationError(
                f"{where}: a {kind} exchange looks at no headers; bind a key, or make it a "
                "headers exchange"
            )
        elif kind == "fanout" and self.key:
            raise ConfigurationError(
                f"{where}: a fanout exchange looks at no key; leave out key={self.key!r}"
            )


class _Named(Shown, frozen=True, metaclass=Suggesting):
    name: str


class Queue(_Named, frozen=True, kw_only=True):
    """A queue as it is declared: what it takes, which broker has it, and what bounds it.

    What exceeds a bound is never thrown away: it goes to the queue's dead letters, with the
    reason, or its sender hears of it.

    Raises:
        ConfigurationError: there can be no such queue.
    """

    bindings: Sequence[Binding] = ()
    broker: str = "default"
    """The name of its broker in ``App(brokers={...})``."""
    kind: Literal["quorum", "classic"] = "quorum"
    """Of RabbitMQ's queues; the others have one kind."""
    max_priority: int | None = None
    """A higher priority counts as this one; None is 9."""
    ttl: SecondsOrNone = no_default()
    """Seconds (or a `timedelta`) a message may wait for its first worker. Longer, it is a dead
    letter."""
    max_length: int | None = None
    """How many messages may be ready, delayed and running ones not counted."""
    overflow: Overflow = "reject"
    """What gives way when it is full: ``reject`` the new one (`QueueFull` at its sender; RabbitMQ's
    ``reject-publish``), or ``drop-head``, the oldest, which becomes a dead letter."""
    single_active: bool = False
    """One worker at a time has messages of this queue; others wait until it leaves or dies."""

    def __post_init__(self) -> None:
        name = self.name
        check_queue_name(name)
        msgspec.structs.force_setattr(self, "bindings", _bindings(name, self.bindings))
        check_broker_name(name, self.broker)
        choice(f"queue {name}: kind", self.kind, "quorum", "classic")
        choice(f"queue {name}: overflow", self.overflow, *get_args(Overflow))
        plain = {
            "max_priority": _count(name, "max_priority", self.max_priority, MAX_PRIORITY, "9"),
            "max_length": _count(name, "max_length", self.max_length, MOST_MESSAGES, "no limit"),
            "ttl": _ttl(name, self.ttl),
            "single_active": flag(f"queue {name}: single_active", self.single_active),
        }
        for field, value in plain.items():
            msgspec.structs.force_setattr(self, field, value)
        if self.overflow != "reject" and self.max_length is None:
            raise ConfigurationError(f"queue {name}: overflow {self.overflow} needs a max_length")


def _bindings(queue: str, bindings: Any) -> tuple[Binding, ...]:
    found = (bindings,) if isinstance(bindings, Binding) else bindings
    if isinstance(found, Iterable) and not isinstance(found, str):
        found = tuple(cast("Iterable[Any]", found))
        if all(isinstance(each, Binding) for each in found):
            return found
    raise InvalidValue(
        f"queue {queue}: bindings", bindings, "a list, as in [Binding(Exchange('news'), 'key')]"
    )


def check_broker_name(queue: str, broker: Any) -> None:
    if not isinstance(broker, str):
        raise InvalidValue(f"queue {queue}: broker", broker, "a name from App(brokers={...})")


def _count(queue: str, field: str, value: Any, most: int, none: str) -> int | None:
    if value is None:
        return None
    return count(f"queue {queue}: {field}", value, at_least=1, most=most, none=none)


def _ttl(queue: str, value: Any) -> float | None:
    if value is None:
        return None
    return seconds(f"queue {queue}: ttl", value, above=0, most=LONGEST_TTL, instead="None")


def matches(binding: Binding, routing_key: str, headers: Mapping[str, Any]) -> bool:
    """Whether a message with this key and these headers goes through the binding."""
    match binding.exchange.kind:
        case "fanout":
            return True
        case "direct":
            return binding.key == routing_key
        case "topic":
            return _topic_matches(_words(binding.key), _words(routing_key))
        case "headers":
            wanted = _looked_at(binding.headers)
            found = (_header_matches(wanted[name], headers, name) for name in wanted)
            return all(found) if binding.match == "all" else any(found)


def resolve(
    queues: Iterable[Queue], exchange: str, routing_key: str, headers: Mapping[str, Any]
) -> list[str]:
    """The names of the queues that a message for this exchange goes to, as they were declared."""
    return [
        queue.name
        for queue in queues
        if any(
            binding.exchange.name == exchange and matches(binding, routing_key, headers)
            for binding in queue.bindings
        )
    ]


def copy_id(message_id: str, queue: str, first: str) -> str:
    """The id of the copy that ``queue`` gets; ``first``, the first of them, keeps the message's.

    Always the same, so that publishing again stores nothing twice.
    """
    return message_id if queue == first else f"{message_id}@{queue}"


def list_queues(given: Any) -> list[Queue]:
    """What an app was given as its queues.

    Raises:
        InvalidValue: it is no list of them.
    """
    if isinstance(given, Iterable) and not isinstance(given, Shown):
        queues = list(cast("Iterable[Any]", given))
        if all(isinstance(each, Queue) for each in queues):
            return queues
    raise InvalidValue("App's queues", given, "a list of them, as in queues=[Queue('mail')]")


def check_queues(queues: Iterable[Queue]) -> None:
    """
    Raises:
        ConfigurationError: two queues have one name, or an exchange has two kinds.
    """
    names: set[str] = set()
    kinds: dict[str, str] = {}
    for queue in queues:
        if queue.name in names:
            raise ConfigurationError(
                f"queue {queue.name} is declared twice: give one Queue all its bindings"
            )
        names.add(queue.name)
        for exchange in (binding.exchange for binding in queue.bindings):
            if kinds.setdefault(exchange.name, exchange.kind) != exchange.kind:
                raise ConfigurationError(
                    f"exchange {exchange.name} is {kinds[exchange.name]} and, in queue "
                    f"{queue.name}, {exchange.kind}: an exchange has one kind"
                )


def check_queue_name(name: Any) -> None:
    if not isinstance(name, str) or not QUEUE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"queue name {shown(name)}: use 1 to 128 letters, digits and _ . -"
        )


def check_exchange_name(name: Any) -> None:
    if not isinstance(name, str) or not QUEUE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"exchange name {shown(name)}: use 1 to 128 letters, digits and _ . -"
        )


def check_routing_key(key: Any) -> None:
    if not isinstance(key, str):
        raise InvalidValue("a routing key", key, "a text")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"routing key {key[:200]!r}: it cannot be sent as UTF-8") from None
    if size > LONGEST_KEY:
        raise ConfigurationError(
            f"routing key {key[:50]!r}… has {counted(size, 'byte')} and the limit is {LONGEST_KEY}"
        )


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _topic_matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    # How many words the pattern may have covered so far: no backtracking, whatever it looks like.
    covered = {0}
    for part in pattern:
        if part == "#":
            covered = set(range(min(covered), len(words) + 1))
        else:
            covered = {at + 1 for at in covered if at < len(words) and part in {"*", words[at]}}
        if not covered:
            return False
    return len(words) in covered


def _looked_at(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if not name.startswith("x-")}


def _header_matches(wanted: Any, headers: Mapping[str, Any], name: str) -> bool:
    if name not in headers:
        return False
    # 1, 1.0 and True are equal in Python and are not in AMQP.
    return wanted is None or (type(headers[name]) is type(wanted) and headers[name] == wanted)
