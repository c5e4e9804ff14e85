"""Effects: what follows from what a task does, as data that a store carries out."""

import msgspec


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
