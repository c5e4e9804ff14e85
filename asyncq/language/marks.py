"""Marks: which messages are cancelled, as data that every worker keeps in mind.

A mark names messages by their ids, or describes them, and holds for those alone that were sent
before it was made: an id that is used again, or a task that is called again, is another matter. It
ends by itself. One that `spares` says of messages that were sent again from the dead letters that
what earlier marks say does not concern them.
"""

from enum import StrEnum
from typing import Any

import msgspec

from asyncq.errors import InvalidValue
from asyncq.language.message import UNREADABLE, Header
from asyncq.language.scopes import names_in

KIND = "cancel"
"""What marks are called in a registry."""
ASKED = "asked-to-end"
"""The kind of what a worker says of a message that it runs and was asked to end, by its id."""
KEEP_ASKED = 60.0
MOST_IDS = 500
"""Of one mark."""
KEEP = 30 * 86400.0
"""Seconds for which a mark is kept at least."""
MOST_REASON = 1000  # characters
SKEW = 5.0
"""Seconds by which the clock of who sends may be ahead of the clock of who cancels, where ids are
named."""


class Cancellation(StrEnum):
    """What became of the wish to cancel a message."""

    CANCELLED = "cancelled"
    """It never runs, or not again: its outcome is that."""
    ASKED = "asked"
    """It runs, and its worker ends it: await the result to know how it ended."""
    ENDED = "ended"
    """It had ended before, and nothing was changed."""
    UNKNOWN = "unknown"
    """Nothing is known of it, and nothing was changed."""


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Whatever is given has to be so of a message; by ``ids``, of one of these."""

    at: float
    """Unix seconds, when it was made."""
    reason: str = ""
    ids: tuple[str, ...] | None = None
    task: str | None = None
    queue: str | None = None
    headers: dict[str, Any] | None = None
    scope: str | None = None
    """Whatever belongs to it, also what is sent later: it is over. That is known without a mark as
    well (`asyncq.language.scopes`), and a mark is sooner heard of."""
    spares: bool = False
    asks: bool = False
    """Who runs such a message is to say so, as its broker cannot."""

    def describes(self, header: Header, task: str) -> bool:
        """Whether this message is meant."""
        named = self.ids is None or header.id in self.ids
        return named and self.fits(header) and task == (self.task or task)

    def fits(self, header: Header) -> bool:
        """Whether all is so but its id and its task, for who knows of these by himself."""
        if self.scope is not None:
            return self.scope in names_in(header.headers)
        if header.sent_at > self.at + (0.0 if self.ids is None else SKEW):
            return False
        if self.queue is not None and header.queue != self.queue:
            return False
        return self.headers is None or all(
            name in header.headers and header.headers[name] == value
            for name, value in self.headers.items()
        )


def check_reason(reason: Any) -> str:
    """
    Raises:
        InvalidValue: no text, or too much of it.
    """
    allowed = f"a text of at most {MOST_REASON} characters"
    if not isinstance(reason, str) or len(reason) > MOST_REASON:
        raise InvalidValue("a reason", reason, allowed)
    try:
        reason.encode()
    except UnicodeEncodeError:
        raise InvalidValue("a reason", reason, f"{allowed} that UTF-8 can carry") from None
    return reason


def read_mark(data: bytes) -> Mark | None:
    """None of what other hands wrote."""
    try:
        return _decode(data)
    except UNREADABLE:
        return None


write_mark = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Mark).decode
