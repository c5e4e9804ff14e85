"""Waiting for what other processes do: looked for again and again, within a deadline."""

from collections.abc import Callable

import anyio

LOOK = 0.02  # seconds between two looks


async def until(condition: Callable[[], bool], within: float, what: str) -> None:
    """Return once the condition holds.

    Raises:
        AssertionError: it did not hold ``within`` so many seconds; says what was waited for.
    """
    try:
        with anyio.fail_after(within):
            while not condition():  # noqa: ASYNC110 - other processes set no event of ours
                await anyio.sleep(LOOK)
    except TimeoutError:
        raise AssertionError(f"waited {within} s in vain until {what}") from None
