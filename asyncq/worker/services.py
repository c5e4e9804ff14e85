"""Services: what a worker does for the tasks that it runs, in whatever thread they are."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from asyncq.errors import BackendUnavailable
from asyncq.language.effects import Append, Send
from asyncq.language.message import Progress
from asyncq.language.signature import Signature
from asyncq.outages import Outage
from asyncq.seams.backend import Backend
from asyncq.seams.records import encode_progress
from asyncq.seams.topics import MOST_PROGRESS, Place, Topics, progress_of


class WorkerServices:
    """Belongs to the worker's event loop. ``follow_up`` makes what is to be sent, ``reason_for``
    knows why a message that runs was asked to end."""

    def __init__(
        self,
        backend: Backend,
        keep: float,
        follow_up: Callable[[Signature[Any], str], Sequence[Send]],
        reason_for: Callable[[str], str | None],
    ) -> None:
        self._backend = backend
        self._keep = keep  # seconds
        self._loop = asyncio.get_running_loop()
        self._outage = Outage(
            "the progress of tasks is not kept", "the progress of tasks is kept again"
        )
        self.follow_up = follow_up
        self.why_cancelled = reason_for

    async def report(self, id: str, place: Place, progress: Progress, /) -> None:
        if (topics := self._backend.offers.topics) is None:
            return
        append = Append(
            progress_of(id), place.epoch, place.number, encode_progress(progress),
            self._keep, MOST_PROGRESS,
        )  # fmt: skip
        storing = self._store(topics, append)
        if asyncio.get_running_loop() is self._loop:
            await storing
        else:  # a plain task runs a loop of its own in its thread
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(storing, self._loop))

    async def _store(self, topics: Topics, append: Append) -> None:
        """What is only told is no reason for a task to fail: while the store is away, it is not."""
        try:
            await topics.append([append])
        except BackendUnavailable as error:
            self._outage.fail(error)
        else:
            self._outage.end()
