"""What to do about a queue that RabbitMQ does not let us consume, where anything can be done."""

from asyncq.drivers.rabbitmq.rights import NOT_A_RIGHT
from asyncq.errors import BrokerUnavailable, QueueUnavailable

OVERDUE = "delivery acknowledgement"  # what RabbitMQ says of a delivery that was held for too long


def of_closed_channel(why: Exception) -> str:
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
