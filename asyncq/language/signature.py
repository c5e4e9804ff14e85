"""Signatures: a task with arguments, not sent yet. Data only."""

from typing import Any, Generic, TypeVar

import msgspec

from asyncq.reprs import shown_call, shown_options, within
from asyncq.shown import Shown

R_co = TypeVar("R_co", covariant=True)  # signatures of several types go in one list


class CallOptions(Shown, frozen=True, kw_only=True):
    """What one call asks for beside its arguments; None leaves it to the task."""

    id: str | None = None
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    priority: int | None = None
    eta: float | None = None
    """Unix seconds."""
    delay: float | None = None
    """Seconds from when it is sent."""
    expires: float | None = None
    """Seconds from when it is sent."""
    keep_result: float | None = None
    time_limit: float | None = None
    """Seconds; infinity is none."""
    soft_time_limit: float | None = None
    headers: dict[str, Any] | None = None
    is_scoped: bool = True
    """It belongs to the scope in which it is sent, if there is one."""

    def __repr__(self) -> str:
        return within(shown_options(self, NO_OPTIONS), kind="CallOptions({})")


NO_OPTIONS = CallOptions()


# gc=False: who sends many makes many, and a fifth of all they cost was to look for cycles in them.
class Signature(msgspec.Struct, Generic[R_co], frozen=True, gc=False):
    """A call of a task, checked against its parameters."""

    task: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    options: CallOptions = NO_OPTIONS

    def __repr__(self) -> str:
        asked = shown_options(self.options, NO_OPTIONS)
        call = shown_call(self.task, self.args, self.kwargs)
        return within(f"call {call}, {asked}" if asked else f"call {call}")
