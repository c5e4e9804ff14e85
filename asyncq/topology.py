"""Where messages can wait, and which way leads there: queues, exchanges and what binds them.

The words and the rules are AMQP's. RabbitMQ carries them out itself; for the other brokers the
client asks `resolve` when it publishes. Pure data: nothing here talks to a broker.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from asyncq.errors import ConfigurationError
from asyncq.message import MAX_PRIORITY, QUEUE_NAME

Kind = Literal["direct", "topic", "fanout", "headers"]
Overflow = Literal["reject", "drop-head"]

LONGEST_KEY = 255  # bytes; what AMQP's frames have room for


class Exchange(msgspec.Struct, frozen=True):
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
        if self.kind not in get_args(Kind):
            raise ConfigurationError(
                f"exchange {self.name}: its kind is one of {', '.join(get_args(Kind))}, "
                f"not {self.kind!r}"
            )


class Binding(msgspec.Struct, frozen=True):
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
        kind, where = self.exchange.kind, f"a binding to exchange {self.exchange.name}"
        check_routing_key(self.key)
        if self.match not in {"all", "any"}:
            raise ConfigurationError(f"{where}: match is all or any, not {self.match!r}")
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


class _Named(msgspec.Struct, frozen=True):
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
    ttl: float | None = None
    """Seconds a message may wait for its first worker. Longer, it is a dead letter."""
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
        msgspec.structs.force_setattr(self, "bindings", tuple(self.bindings))
        if self.kind not in {"quorum", "classic"}:
            raise ConfigurationError(f"queue {name}: kind is quorum or classic, not {self.kind!r}")
        if self.overflow not in get_args(Overflow):
            raise ConfigurationError(
                f"queue {name}: overflow is reject or drop-head, not {self.overflow!r}"
            )
        if self.max_priority is not None and not 1 <= self.max_priority <= MAX_PRIORITY:
            raise ConfigurationError(
                f"queue {name}: max_priority is from 1 to {MAX_PRIORITY}, not {self.max_priority}"
            )
        if self.ttl is not None and not 0 < self.ttl < math.inf:
            raise ConfigurationError(
                f"queue {name}: ttl is seconds above 0, not {self.ttl}; None is for ever"
            )
        if self.max_length is not None and self.max_length < 1:
            raise ConfigurationError(
                f"queue {name}: max_length is 1 or more, not {self.max_length}; None is no limit"
            )
        if self.overflow != "reject" and self.max_length is None:
            raise ConfigurationError(f"queue {name}: overflow {self.overflow} needs a max_length")


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


def check_queue_name(name: str) -> None:
    if not QUEUE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"queue name {name[:200]!r}: use 1 to 128 letters, digits and _ . -"
        )


def check_exchange_name(name: str) -> None:
    if not QUEUE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"exchange name {name[:200]!r}: use 1 to 128 letters, digits and _ . -"
        )


def check_routing_key(key: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"routing key {key[:200]!r}: it cannot be sent as UTF-8") from None
    if size > LONGEST_KEY:
        raise ConfigurationError(
            f"routing key {key[:50]!r}… has {size} bytes and the limit is {LONGEST_KEY}"
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
