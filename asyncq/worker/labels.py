"""What log lines call a message: its task, and its id in brackets behind it."""

from collections.abc import Callable

from asyncq.errors import NewerVersion, Undecodable
from asyncq.language.message import Message
from asyncq.seams.broker import Envelope
from asyncq.texts import NAME_LIMIT, shown


def label(task: str, id: str) -> str:
    """``mail.send[0a1b]``; both come from outside."""
    return f"{shown(task, NAME_LIMIT)}[{shown(id, NAME_LIMIT)}]"


def label_by(decode: Callable[[Envelope], Message]) -> Callable[[Envelope], str]:
    """What labels an envelope; by its id alone, where nobody can read it.

    An envelope does not say which task it is for, so it is decoded: for those lines only that are
    written when something is wrong, or ends.
    """

    def label_of(envelope: Envelope) -> str:
        try:
            task = decode(envelope).task
        except (Undecodable, NewerVersion):
            return shown(envelope.id, NAME_LIMIT)
        return label(task, envelope.id)

    return label_of


def label_by_id(envelope: Envelope) -> str:
    """Its id."""
    return shown(envelope.id, NAME_LIMIT)
