"""What RabbitMQ means when it says no, and what to do: rights that are missing, limits, deadlines.

It says that a limit is reached with the codes of other things: of a wrong set-up, of a queue that
was made otherwise.
"""

import re
from collections.abc import Mapping
from shlex import quote

from asyncq.errors import BrokerUnavailable, ConfigurationError, QueueUnavailable

ACCESS_REFUSED = 403  # AMQP's reply code
NOT_A_RIGHT = "exclusive use"  # what the code stands for as well: another consumer came first

OVERDUE = "delivery acknowledgement"  # what RabbitMQ says of a delivery that was held for too long
RAISE_LIMIT = (
    ": end what is not needed there, or raise it (rabbitmqctl set_vhost_limits, set_user_limits)"
)

Method = tuple[int, int]  # AMQP's numbers of a class and its method

_REACHED = re.compile(r"limit .*is reached|has reached the maximum")
_REFUSED = re.compile(
    r"access to (?P<kind>queue|exchange|vhost) '(?P<name>.*?)'(?: in vhost '(?P<vhost>.*)')?"
    r" refused for user '(?P<user>.*?)'"
)
# Which right a method asks for, of the queue or the exchange that it is refused for
# (https://www.rabbitmq.com/access-control.html): 3.10 does not say.
_QUEUES: Mapping[Method, str] = {
    (50, 10): "configure (or read)",  # Queue.Declare; to read, if it has a dead-letter exchange
    (50, 20): "write",  # Queue.Bind
    (50, 30): "read",  # Queue.Purge
    (60, 20): "read",  # Basic.Consume
    (60, 70): "read",  # Basic.Get
}
_EXCHANGES: Mapping[Method, str] = {
    (40, 10): "configure",  # Exchange.Declare
    (40, 30): "read and write",  # Exchange.Bind: of the one, and of the other
    (50, 10): "write",  # Queue.Declare; of its dead-letter exchange
    (50, 20): "read",  # Queue.Bind
    (60, 40): "write",  # Basic.Publish
}


class AccessRefused(ConfigurationError):
    """The user lacks a right; the message says which, and how it is given."""

    def with_missing(self, error: Exception) -> "AccessRefused":
        """As this, of what would have been used all the same were it there: what ``error`` says."""
        return AccessRefused(
            f"{self}. What is there already can be used without that right, but: {error}; have it "
            "made by a worker or client that has the right"
        )


def access_refused(url: str, said: str, method: Method = (0, 0)) -> AccessRefused | None:
    """What to raise for what the server ``said`` of ``method``; None if it is not about rights."""
    found = _REFUSED.search(said)
    if found is None:
        return None
    kind, name, user = found["kind"], found["name"], found["user"]
    if kind == "vhost":
        what, vhost = f"may not enter vhost {name!r}", name
    else:
        vhost = found["vhost"] or "/"
        rights = (_QUEUES if kind == "queue" else _EXCHANGES).get(method, "every")
        what = f"lacks the {rights} right to {kind} {name!r} in vhost {vhost!r}"
    return AccessRefused(
        f"{url}: user {user!r} {what}. Give it: rabbitmqctl set_permissions -p {quote(vhost)} "
        f"{quote(user)} '.*' '.*' '.*' (to configure, write and read; patterns of names that are "
        f"narrower have to let asyncq's own pass). RabbitMQ said: {said}"
    )


def is_at_limit(said: object) -> bool:
    """Whether this is why the server says no."""
    return _REACHED.search(str(said)) is not None


def remedy_of_closed_channel(why: Exception) -> str:
    """What a line of the log ends with that says why a channel was closed."""
    if OVERDUE not in str(why):
        return ""
    return (
        "; a task took longer than RabbitMQ's consumer_timeout (30 minutes, unless rabbitmq.conf"
        " says otherwise) and runs again: set that to more than your longest task"
    )


def not_consumed(queue: str, error: Exception) -> Exception:
    """What to raise where the server closed the channel as a queue was to be consumed."""
    if not isinstance(error, BrokerUnavailable):
        return error
    remedy = ""
    if NOT_A_RIGHT in str(error):
        remedy = ": another consumer has it for itself; end that one, or consume another queue"
    return QueueUnavailable(queue, f"queue {queue} cannot be consumed{remedy} ({error})")
