"""Effects: what follows from the end of a task, as data.

They are part of the outcome's record: who tells of the outcome tells of them in the same write, and
the first record of a message stands with its effects. Whoever holds the message when it ends
carries out those that stand, whoever wrote them, and settles it only then. So each way that a run
can be repeated (a worker that dies between two steps, a lost reply, a zombie, another version of
the code) leads to the same follow-ups. To carry one out again changes nothing.
"""

from typing import Literal

import msgspec

from asyncq.language.envelope import Envelope

MOST_EFFECTS = 500
"""Of one record; it is carried out in one batch."""
KEEP_EFFECTS = 3600.0
"""Seconds for which a record with effects is kept at least."""
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


Policy = Literal["fail", "collect"]
"""Of a latch: ``fail`` releases once every part has succeeded, ``collect`` once every one has
ended."""


class Hold(msgspec.Struct, frozen=True, array_like=True, tag="hold", gc=False):
    """A latch: messages that are held until all its parts have arrived, and then sent.

    The ``eta`` and ``expires`` of what is held are seconds from its release. The first hold of a
    name stands; one without parts releases at once.
    """

    latch: str
    """Its name: any text without NUL."""
    parts: tuple[str, ...] | int
    """The names of the parts, each the id of a message; or how many there are, from "0" on."""
    sends: tuple[Send, ...] = ()
    """What is sent when the last part has arrived."""
    on_failure: tuple[Send, ...] = ()
    """What is sent, once, when the first part has failed, or ``until`` has passed."""
    policy: Policy = "fail"
    until: float | None = None
    """Unix seconds after which it takes no arrivals any more; None: as long as they take."""
    keep: float = 86400.0
    """Seconds for which it is remembered once it was released, has failed, or is over."""
    root: str = ""
    """Of numbered parts: the id that the ids of their messages derive from."""


class Arrive(msgspec.Struct, frozen=True, array_like=True, tag="arrive", gc=False):
    """A part of a latch has ended. It is pending, then failed, then ok, and never goes back."""

    latch: str
    part: str
    ok: bool
    value: bytes = b""
    """What it gives to what was held."""
    adds: tuple[str, ...] = ()
    """Parts that the latch has from now on: only one that has not arrived may add some. They may
    have arrived before."""


Effect = Send | Append | Hold | Arrive
