"""Tasks whose annotations are strings, because of the import below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

import asyncq
from asyncq.app import App
from asyncq.client.context import Context
from asyncq.client.task import Task


def make_tasks(app: App) -> dict[str, Task[..., Any]]:
    @app.task(name="coroutine")
    async def coroutine(thing: Thing) -> Thing:
        return Thing(thing.size + 1)

    @app.task(name="plain")
    def plain(thing: Thing) -> Thing:
        return Thing(thing.size + 1)

    @app.task(name="with_context")
    async def with_context(ctx: Context, thing: Thing) -> Thing:
        return Thing(thing.size + ctx.attempt)

    @app.task(name="dotted")
    async def dotted(thing: Thing, *, ctx: asyncq.Context) -> Thing:
        return Thing(thing.size + ctx.attempt)

    return dict(app.tasks)


def make_model_task(app: App) -> Task[..., Any]:
    @app.task
    async def size_of(box: Box) -> int:
        return box.inside.size

    return size_of


def make_context_task(app: App) -> Task[..., Any]:
    @app.task
    async def id_of(ctx: Context, thing: Thing) -> str:
        assert thing.size
        return ctx.id

    return id_of


@dataclass
class Thing:
    """Defined below the tasks that take it."""

    size: int


class Box(BaseModel):
    """Of something that is defined below it, and after its tasks if they are declared early."""

    inside: Inside


EARLY = App("memory://deferred")
early = make_model_task(EARLY)  # at this line nobody knows what is inside of a box


class Inside(BaseModel):
    size: int
