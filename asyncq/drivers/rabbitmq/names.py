"""What asyncq declares in RabbitMQ, and what it is called.

For each queue ``mail``:

    mail              the messages
    mail:suspects     messages that outlived a worker
    mail:dead         the dead letters
    mail:doomed       the exchange by which what RabbitMQ buries by itself comes to the suspects as
                      well, if its end arrives somewhere: its header ``asyncq-ends`` says so

and for all of them the exchanges ``asyncq:dead``, ``asyncq:feeds`` (what is heard only: to each
subscriber's queue, by the feed's name) and the delay levels: level k keeps a message for 2^k
eighths of a second and hands it to the next lower level. The routing key of a delayed message says,
level by level from the highest, on which it rests, and then its queue:

    0.0.1.0.1.….mail      rests on two levels, and arrives in mail
"""

from typing import Any

import pamqp.commands as amqp

from asyncq.errors import ConfigurationError
from asyncq.language.topology import Queue
from asyncq.seams.dead import DeadLimits

DEAD = "asyncq:dead"
FEEDS = "asyncq:feeds"
ENDS = "asyncq-ends"  # (one that begins with "x-" no exchange goes by)
ARRIVALS = "asyncq:arrivals"  # below the lowest level
LEVEL = "asyncq:delay:"
LEVELS = 30
UNIT = 0.125  # seconds on the lowest level; all of them together are four years
LONGEST = (2**LEVELS - 1) * UNIT
LONGEST_TTL = (2**32 - 1) / 1000  # seconds; what is to be kept for longer has none
UNLIMITED = 1_000_000  # redeliveries: we count crashes ourselves, and the server would drop


def suspects(queue: str) -> str:
    return f"{queue}:suspects"


def dead(queue: str) -> str:
    return f"{queue}:dead"


def doomed(queue: str) -> str:
    return f"{queue}:doomed"


def level(number: int) -> str:
    return f"{LEVEL}{number}"


def dead_method(queue: str, limits: DeadLimits) -> Any:
    """What declares the dead letters of a queue. To look at one counts as a delivery there."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": UNLIMITED,
        "x-max-length": limits.most,
    }
    if limits.keep < LONGEST_TTL:
        arguments["x-message-ttl"] = max(1, int(limits.keep * 1000))
    return amqp.Queue.Declare(queue=dead(queue), durable=True, arguments=arguments)


def queue_methods(queue: Queue) -> list[Any]:
    """What declares a queue with all that belongs to it, its dead letters aside.

    Raises:
        ConfigurationError: RabbitMQ has no such queues.
    """
    name = queue.name
    quorum: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": UNLIMITED}
    return [
        amqp.Exchange.Declare(exchange=DEAD, exchange_type="direct", durable=True),
        amqp.Queue.Bind(queue=dead(name), exchange=DEAD, routing_key=name),
        amqp.Queue.Declare(queue=suspects(name), durable=True, arguments=quorum),
        amqp.Exchange.Declare(exchange=doomed(name), exchange_type="headers", durable=True),
        amqp.Exchange.Bind(destination=doomed(name), source=DEAD, routing_key=name),
        amqp.Queue.Bind(
            queue=suspects(name), exchange=doomed(name), arguments={ENDS: True, "x-match": "all"}
        ),
        main_method(queue),
        _exchange(ARRIVALS),
        *(
            amqp.Queue.Bind(queue=each, exchange=ARRIVALS, routing_key="*." * LEVELS + each)
            for each in (name, suspects(name))
        ),
    ]


def main_method(queue: Queue) -> Any:
    """What declares the queue itself.

    Raises:
        ConfigurationError: RabbitMQ has no such queues.
    """
    arguments: dict[str, Any] = {
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-routing-key": queue.name,
        "x-overflow": "drop-head" if queue.overflow == "drop-head" else "reject-publish",
    }
    if queue.kind == "quorum":
        if queue.max_priority is not None:
            raise ConfigurationError(
                f"queue {queue.name}: RabbitMQ's quorum queues have no priorities; declare it with "
                "kind='classic', or without max_priority"
            )
        arguments |= {"x-queue-type": "quorum", "x-delivery-limit": UNLIMITED}
        if queue.overflow == "reject":  # RabbitMQ confirms dead letters only together with it
            arguments["x-dead-letter-strategy"] = "at-least-once"
    elif queue.max_priority is not None:
        arguments["x-max-priority"] = queue.max_priority
    if queue.ttl is not None:
        arguments["x-message-ttl"] = max(1, int(queue.ttl * 1000))
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    if queue.single_active:
        arguments["x-single-active-consumer"] = True
    return amqp.Queue.Declare(queue=queue.name, durable=True, arguments=arguments)


def binding_methods(queue: Queue) -> list[Any]:
    """What makes the exchanges of a queue, and binds it to them."""
    methods: list[Any] = []
    for binding in queue.bindings:
        exchange = binding.exchange
        arguments: dict[str, Any] = {}
        if exchange.kind == "headers":
            arguments = {**binding.headers, "x-match": binding.match}
        methods += [
            amqp.Exchange.Declare(
                exchange=exchange.name, exchange_type=exchange.kind, durable=True
            ),
            amqp.Queue.Bind(
                queue=queue.name,
                exchange=exchange.name,
                routing_key=binding.key,
                arguments=arguments,
            ),
        ]
    return methods


def level_methods(lowest: int, highest: int) -> list[Any]:
    """What declares the levels from ``lowest`` to ``highest``; those below are there already."""
    methods: list[Any] = []
    for number in range(lowest, highest + 1):
        below = level(number - 1) if number else ARRIVALS
        here = level(number)
        skipped = LEVELS - 1 - number
        key = "*." * skipped
        methods += [
            _exchange(here),
            amqp.Queue.Declare(
                queue=here,
                durable=True,
                arguments={
                    "x-queue-type": "quorum",
                    "x-overflow": "reject-publish",
                    "x-dead-letter-strategy": "at-least-once",
                    "x-dead-letter-exchange": below,
                    "x-message-ttl": int(UNIT * 1000 * 2**number),
                },
            ),
            amqp.Queue.Bind(queue=here, exchange=here, routing_key=f"{key}1.#"),
            amqp.Exchange.Bind(destination=below, source=here, routing_key=f"{key}0.#"),
        ]
    return methods


def feeds() -> Any:
    """What declares the exchange of all feeds: to each subscriber's queue, by the feed's name."""
    return amqp.Exchange.Declare(exchange=FEEDS, exchange_type="direct", durable=True)


def _exchange(name: str) -> Any:
    return amqp.Exchange.Declare(exchange=name, exchange_type="topic", durable=True)


def delay_units(seconds: float) -> int:
    """A delay in units of the lowest level, never shorter than it is."""
    return min(max(1, -int(-min(seconds, LONGEST) // UNIT)), 2**LEVELS - 1)


def delay_key(units: int, queue: str) -> str:
    """The routing key of a message that rests for so many units."""
    return ".".join(f"{units:0{LEVELS}b}") + f".{queue}"


def level_number(exchange: str) -> int:
    """Which level this exchange stands for; -1 if for none."""
    return int(exchange.removeprefix(LEVEL)) if exchange.startswith(LEVEL) else -1


def queue_of(exchange: str, key: str) -> str | None:
    """The queue, without what belongs to it, that a parcel is for; None if bindings say which."""
    if exchange.startswith(LEVEL):
        key = key.split(".", LEVELS)[LEVELS]
    elif exchange not in {"", DEAD}:
        return None
    return key.partition(":")[0]
