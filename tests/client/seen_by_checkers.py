"""Tasks whose annotations name what only type checkers import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncq.app import App

if TYPE_CHECKING:
    import asyncq
    from asyncq import Context
    from asyncq.clock import Clock


def make_tasks(app: App) -> dict[str, Any]:
    @app.task(name="context")
    async def context(ctx: Context, x: int) -> int:
        return x + ctx.attempt

    @app.task(name="dotted")
    async def dotted(x: int, *, ctx: asyncq.Context | None = None) -> int:
        return x + (0 if ctx is None else ctx.attempt)

    @app.task(name="returns")
    async def returns(x: int) -> Clock:
        return {"x": x}  # type: ignore[return-value] # whatever it is, it is plain data

    @app.task(name="takes")
    async def takes(x: Clock) -> int:
        return 1

    return dict(app.tasks)
