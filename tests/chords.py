"""Chords made by hand, of what a task has follow: a latch that holds a body, and its parts."""

from collections.abc import Sequence
from typing import Any

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.language.effects import Effect, Hold, Policy, Send
from asyncq.language.message import End, derived_id
from asyncq.language.signature import Signature


def chord(
    app: App,
    root: str,
    parts: Sequence[Signature[Any]],
    body: Signature[Any],
    failed: Signature[Any] | None = None,
    *,
    policy: Policy = "fail",
    until: float | None = None,
) -> list[Effect]:
    """What a task has follow that begins a chord: first the latch, which has the name of its root.

    The ids of all are derived from the root: by "body", "failed" or the number of the part.
    """
    follow_up = app.client.follow_up
    sends = follow_up(body, derived_id(root, "body"))
    on_failure = [] if failed is None else follow_up(failed, derived_id(root, "failed"))
    hold = Hold(
        root, len(parts), tuple(sends), tuple(on_failure), policy=policy, until=until, root=root
    )
    members: list[Send] = []
    for number, part in enumerate(parts):
        name = str(number)
        members += follow_up(part, derived_id(root, name), (End(root, name),))
    return [hold, *members]


def begin(context: Context, effects: Sequence[Effect]) -> None:
    """Have these follow from the task that runs."""
    context.effects = [*(context.effects or ()), *effects]
