"""Chords made by hand, of what a task has follow: a latch that holds a body, and its parts."""

from collections.abc import Sequence
from typing import Any

from asyncq.app import App
from asyncq.client.context import Context
from asyncq.language.effects import Arrive, Effect, Hold, Policy, Send
from asyncq.language.message import End, derived_id
from asyncq.language.signature import Signature
from asyncq.seams.ledger import Ledger

CLIENT = "a client"  # as a sender


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


def growth(
    app: App, context: Context, children: Sequence[Signature[Any]]
) -> tuple[Arrive, list[Send]]:
    """What a part of a chord has follow that adds others to it; their ids are derived from its own.

    A child has the name of its id: it is what a latch that looks for it knows.
    """
    [end] = context.message.header.ends
    names = [derived_id(context.id, str(number)) for number in range(len(children))]
    members: list[Send] = []
    for name, child in zip(names, children, strict=True):
        members += app.client.follow_up(child, name, (End(end.latch, name),))
    return Arrive(end.latch, end.part, True, adds=tuple(names)), members


def ledger_of(app: App) -> Ledger:
    ledger = app.client.backend.offers.ledger
    assert ledger is not None
    return ledger


async def apply(app: App, effects: Sequence[Hold | Arrive]) -> list[str]:
    """Carry these out as somebody who is no worker; returns the latches that it is to send."""
    return list(await ledger_of(app).apply(effects, CLIENT))


async def send_released(app: App, latch: str) -> None:
    """Send all that a latch has released."""
    ledger = ledger_of(app)
    while (page := await ledger.unsent(latch, CLIENT, is_failure=False)) is not None:
        for future in app.client.send(page.sends):
            await future
        await ledger.confirm(page)


def begin(context: Context, effects: Sequence[Effect]) -> None:
    """Have these follow from the task that runs."""
    context.effects = [*(context.effects or ()), *effects]
