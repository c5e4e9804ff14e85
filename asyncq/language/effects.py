"""Effects: what follows from the end of a task, as data.

They are part of the outcome's record: who tells of the outcome tells of them in the same write, and
the first record of a message stands with its effects. Whoever holds the message when it ends
carries out those that stand, whoever wrote them, and settles it only then. So each way that a run
can be repeated (a worker that dies between two steps, a lost reply, a zombie, another version of
the code) leads to the same follow-ups. To carry one out again changes nothing.
"""

import msgspec

from asyncq.language.envelope import Envelope

MOST_EFFECTS = 500
"""Of one record; it is carried out in one batch."""
MOST_EFFECT_BYTES = 8 * 1024 * 1024
"""Of the messages of one record: who waits for the outcome is told all of it."""


class Send(msgspec.Struct, frozen=True, array_like=True, tag="send", gc=False):
    """A message that is sent. Its id is derived (`asyncq.language.message.derived_id`), so that to
    send it again stores nothing twice; it is marked ``again`` where the broker cannot see whether
    it has run since."""

    envelope: Envelope
    broker: str
    """The name of the app's broker that gets it."""


class Append(msgspec.Struct, frozen=True, array_like=True, tag="append", gc=False):
    """One more item of a topic, whose name is any text without NUL."""

    topic: str
    epoch: int
    """Which run of the task says it. The items of a later one take the place of all before."""
    number: int
    """Its place in that run; they need not be dense. Either is 0 to 2**53."""
    item: bytes
    keep: float
    """Seconds after which the topic may be forgotten, unless something is appended before."""
    most: int
    """How many items the topic keeps; the oldest give way."""


Effect = Send | Append
