"""The queues that a worker is asked to consume, and how many tasks of each it may run at a time."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from asyncq.errors import ConfigurationError, InvalidValue
from asyncq.language.quantities import count
from asyncq.language.topology import check_queue_name
from asyncq.shown import Shown

Consumed = Mapping[str, int | None] | Iterable[str]
"""Their names; or by name how many tasks of each may run at a time, None for the worker's own."""


def check_queues(queues: Consumed | None) -> dict[str, int | None]:
    """Each queue's bound, in their order; none at all if None.

    Raises:
        InvalidValue, ConfigurationError: a name or a number that cannot be.
    """
    named: Any = () if queues is None else queues
    if isinstance(named, str | Shown) or not isinstance(named, Iterable):
        allowed = "a list of names, as in queues=['mail'], or of slots, as in queues={'mail': 10}"
        raise InvalidValue("queues", named, allowed)
    pairs = cast("Iterable[tuple[Any, Any]]", named.items() if isinstance(named, Mapping) else ())
    given: dict[str, int | None] = dict(pairs) if isinstance(named, Mapping) else {}
    for name in cast("Iterable[Any]", named):
        check_queue_name(name)
        bound = given.setdefault(name, None)
        if bound is not None:
            none = "as many as the worker runs"
            given[name] = count(f"the slots of queue {name}", bound, at_least=1, none=none)
    return given


def parse_queues(texts: Iterable[str]) -> dict[str, int | None]:
    """What ``--queue mail --queue slow:10`` asks for; given twice, the last says how many.

    Raises:
        ConfigurationError: a name or a number that cannot be.
    """
    queues: dict[str, int | None] = {}
    for text in texts:
        name, colon, slots = text.partition(":")
        if not colon:
            bound = None
        elif slots.isdecimal() and slots.isascii() and len(slots) < 10 and int(slots) > 0:  # noqa: PLR2004
            bound = int(slots)
        else:
            raise ConfigurationError(
                f"--queue {text}: behind the colon stands how many of its tasks may run at a time, "
                f"a whole number of at least 1, as in --queue {name or 'mail'}:10"
            )
        check_queue_name(name)
        queues[name] = bound
    return queues


def show_queues(queues: Mapping[str, int | None]) -> str:
    """As they are written on the command line."""
    return ", ".join(name if bound is None else f"{name}:{bound}" for name, bound in queues.items())
