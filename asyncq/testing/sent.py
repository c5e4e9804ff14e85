"""What a test has sent, to be looked at."""

from collections.abc import Mapping
from typing import Any

from asyncq.client.task import Task
from asyncq.client.values.encoding import encode
from asyncq.codecs.native import NativeCodec
from asyncq.language.envelope import Envelope
from asyncq.language.message import Message
from asyncq.language.signature import Signature
from asyncq.reprs import shown_call, within

_codec = NativeCodec()


class Sent:
    """One call as the broker got it, its arguments in the types that the task asks for.

    Compares equal to the call that was sent: ``run.enqueued == [add.s(1, 2)]``. Of the options of
    that call only those count that it says.
    """

    def __init__(self, envelope: Envelope, tasks: Mapping[str, Task[..., Any]]) -> None:
        self.message: Message = _codec.decode(envelope)
        message = self.message
        header = message.header
        self.id = header.id
        self.task = message.task
        self.args: tuple[Any, ...]
        self.kwargs: dict[str, Any]
        self.args, self.kwargs = tasks[message.task].parameters.decode(message.args, message.kwargs)
        self.queue = header.queue
        self.priority = header.priority
        self.eta = header.eta
        """Unix seconds, by the clock of the run."""
        self.expires = header.expires
        """Unix seconds."""
        self.headers = header.headers

    @property
    def delay(self) -> float | None:
        """Seconds from when it was sent until it may start."""
        return None if self.eta is None else self.eta - self.message.header.sent_at

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sent):
            return self.id == other.id
        if not isinstance(other, Signature):
            return NotImplemented
        if self.task != other.task or not self._fits(other.options):
            return False
        if (self.args, self.kwargs) == (other.args, other.kwargs):
            return True
        # Without annotations a tuple arrives as a list: what travels is the same.
        return encode((self.args, self.kwargs)) == encode((other.args, other.kwargs))

    __hash__ = None  # pyright: ignore[reportAssignmentType] - equal to what has no hash

    def __repr__(self) -> str:
        call = shown_call(self.task, self.args, self.kwargs)
        later = f", delay={self.delay:g}" if self.delay is not None else ""
        return within(f"sent {call}, queue={self.queue!r}{later}")

    def _fits(self, options: Any) -> bool:
        asked = {
            "id": (options.id, self.id),
            "queue": (options.queue, self.queue),
            "priority": (options.priority, self.priority),
            "eta": (options.eta, self.eta),
            "delay": (options.delay, self.delay),
            "headers": (options.headers, self.headers),
        }
        return all(_same(wanted, got) for wanted, got in asked.values() if wanted is not None)


def _same(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, float) and isinstance(got, float):
        return abs(wanted - got) < 1e-3
    return wanted == got
