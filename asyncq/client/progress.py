"""Following what a running task says of its progress."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from asyncq.client.result import Expectation, Result
from asyncq.errors import UnknownResult
from asyncq.language.message import Progress
from asyncq.language.record import Record
from asyncq.seams.records import read_progress
from asyncq.seams.topics import Ear, Place, Topics, progress_of


async def follow(topics: Topics, result: Result[Any]) -> AsyncGenerator[Progress]:
    """Each that is kept, from the earliest on, and then as they come, until the task has ended."""
    topic = progress_of(result.id)
    place: Place | None = None
    async with topics.listen(topic) as ear:
        end = _End(result)
        try:
            while True:
                has_ended = end.future.done()  # what was said before is there by now
                items = await topics.read(topic, after=place)
                for item in items:
                    place = item.place
                    if (progress := read_progress(result.id, item.data)) is not None:
                        yield progress
                if items:
                    continue
                if has_ended:
                    if not (place and isinstance(end.future.exception(), UnknownResult)):
                        end.future.result()  # else its outcome is not kept, and that is all
                    return
                await _first(ear, end.future)
        finally:
            end.leave()


async def _first(ear: Ear, end: "asyncio.Future[Record]") -> None:
    """Return when there are news, or the task has ended.

    Raises:
        BackendUnavailable: as `Ear.wait`.
    """
    news = asyncio.ensure_future(ear.wait())
    try:
        await asyncio.wait((news, end), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not news.done():
            news.cancel()
            await asyncio.wait((news,))  # who is cancelled meanwhile hears of that
        error = None if news.cancelled() else news.exception()  # looked at, whoever leaves
    if error is not None:
        raise error


class _End(Expectation[Any]):
    """That of the task. Who follows does not wait for it, and so lends no slot."""

    __slots__ = ("future",)

    def __init__(self, result: Result[Any]) -> None:
        super().__init__(result)
        self.future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        if (record := result.at_hand()) is not None:
            self.future.set_result(record)
        else:
            result.expect(self)

    def tell(self, end: Record | BaseException) -> None:
        if self.future.done():
            return
        if isinstance(end, Record):
            self.future.set_result(end)
        else:
            self.future.set_exception(end)
            self.future.exception()  # who leaves before the end never looks at it
