"""What asyncq declares in RabbitMQ, and what it is called.

For each queue ``mail``:

    mail              the messages
    mail:suspects     messages that outlived a worker, run one at a time
    mail:dead         the dead letters

and for all of them the exchange ``asyncq:dead`` and the ladder of delays: rung k keeps a message
for 2^k eighths of a second and hands it to the next lower rung. The routing key of a delayed
message says, rung by rung from the highest, on which it rests, and then its queue:

    0.0.1.0.1.….mail      rests on two rungs, and arrives in mail
"""

from typing import Any

import pamqp.commands as amqp

from asyncq.brokers.base import QueueSpec

DEAD = "asyncq:dead"
ARRIVALS = "asyncq:arrivals"  # below the lowest rung
RUNGS = 30
UNIT = 0.125  # seconds on the lowest rung; all of them together are four years
LONGEST = (2**RUNGS - 1) * UNIT
UNLIMITED = 1_000_000  # redeliveries: we count crashes ourselves, and the server would drop


def suspects(queue: str) -> str:
    return f"{queue}:suspects"


def dead(queue: str) -> str:
    return f"{queue}:dead"


def rung(number: int) -> str:
    return f"asyncq:delay:{number}"


def queue_methods(spec: QueueSpec) -> list[Any]:
    """What declares a queue with all that belongs to it."""
    name = spec.name
    to_the_dead: dict[str, Any] = {
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-routing-key": name,
    }
    quorum: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-dead-letter-strategy": "at-least-once",
        "x-delivery-limit": UNLIMITED,
        **to_the_dead,
    }
    return [
        amqp.Exchange.Declare(exchange=DEAD, exchange_type="direct", durable=True),
        amqp.Queue.Declare(queue=dead(name), durable=True, arguments={"x-queue-type": "quorum"}),
        amqp.Queue.Bind(queue=dead(name), exchange=DEAD, routing_key=name),
        amqp.Queue.Declare(queue=name, durable=True, arguments=quorum),
        amqp.Queue.Declare(queue=suspects(name), durable=True, arguments=quorum),
    ]


def ladder_methods(lowest: int, highest: int) -> list[Any]:
    """What declares the rungs from ``lowest`` to ``highest``; those below are there already."""
    methods: list[Any] = []
    if lowest == 0:
        methods.append(_exchange(ARRIVALS))
    for number in range(lowest, highest + 1):
        below = rung(number - 1) if number else ARRIVALS
        here = rung(number)
        skipped = RUNGS - 1 - number
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


def arrival_methods(queue: str) -> list[Any]:
    """What lets delayed messages arrive in a queue."""
    return [
        amqp.Queue.Bind(queue=queue, exchange=ARRIVALS, routing_key="*." * RUNGS + queue),
    ]


def _exchange(name: str) -> Any:
    return amqp.Exchange.Declare(exchange=name, exchange_type="topic", durable=True)


def delay_units(seconds: float) -> int:
    """A delay in units of the lowest rung, never shorter than it is."""
    return min(max(1, -int(-seconds // UNIT)), 2**RUNGS - 1)


def delay_key(units: int, queue: str) -> str:
    """The routing key of a message that rests for so many units."""
    return ".".join(f"{units:0{RUNGS}b}") + f".{queue}"


def rung_number(exchange: str) -> int | None:
    """Which rung this exchange stands for; None if for none."""
    prefix, _, number = exchange.rpartition(":")
    return int(number) if prefix == "asyncq:delay" else None


def target_of(delayed_key: str) -> str:
    """The queue in which a delayed message arrives."""
    return delayed_key.split(".", RUNGS)[RUNGS]


def queue_of(exchange: str, key: str) -> str | None:
    """The queue of asyncq, without what belongs to it, that a parcel is for."""
    if exchange in {"", DEAD}:
        physical = key
    elif rung_number(exchange) is not None:
        physical = target_of(key)
    else:
        return None
    return physical.partition(":")[0]
