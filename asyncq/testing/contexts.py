"""A context to call a task's function with, as a unit test does."""

from collections.abc import Sequence
from typing import Any, Self

from asyncq.client.context import Context, set_context
from asyncq.clock import SystemClock
from asyncq.language.effects import Send
from asyncq.language.envelope import Envelope
from asyncq.language.message import Header, Message, Progress, new_id
from asyncq.language.signature import Signature
from asyncq.seams.topics import Place


class TestContext(Context):
    """A `Context` that no worker made: ``await work(testing.context(attempt=2), 3)``.

    Inside of ``with testing.context():`` it is what `current_context` gives.
    """

    __test__ = False  # pytest looks for classes that are called so
    __slots__ = ("_token", "reported", "to_follow", "why")

    def __init__(self, message: Message, state: dict[str, Any], why: str | None) -> None:
        super().__init__(message, state, self, message.header.sent_at)
        self.reported: list[Progress] = []
        """What was said with `Context.progress`."""
        self.to_follow: list[Signature[Any]] = []
        """What was to be sent with `Context.enqueue_after`."""
        self.why = why
        """The reason why it was cancelled; None: it was not. To be set as the test goes on."""
        self._token: Any = None

    def __enter__(self) -> Self:
        self._token = set_context(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._token.var.reset(self._token)

    async def report(self, id: str, place: Place, progress: Progress, /) -> None:
        self.reported.append(progress)

    def follow_up(self, signature: Signature[Any], id: str, /) -> Sequence[Send]:
        self.to_follow.append(signature)
        return [Send(Envelope(signature.options.id or id, "", body=b""), "default")]

    def why_cancelled(self, id: str, /) -> str | None:
        return self.why


def context(
    *,
    id: str | None = None,
    task: str = "test",
    queue: str = "default",
    attempt: int = 1,
    state: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
    cancelled: str | None = None,
) -> TestContext:
    """The context of a run that a test makes up: ``await send(testing.context(), ...)``.

    ``cancelled`` is the reason for which it was, if it was.
    """
    header = Header(
        id=id or new_id(), queue=queue, sent_at=SystemClock().now(), headers=headers or {}
    )
    message = Message(header, task, attempt=attempt)
    return TestContext(message, {} if state is None else state, cancelled)
