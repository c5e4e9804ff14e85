"""Topics in the file, as a part of what its backend does."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from anyio.lowlevel import checkpoint

from asyncq.drivers.sqlite import items
from asyncq.drivers.sqlite.ears import SqliteEar
from asyncq.drivers.sqlite.store import SqliteDriver
from asyncq.language.effects import Append
from asyncq.seams.topics import Ear, Item, Place


class SqliteTopics(SqliteDriver):
    """Topics in one SQLite file. A power cut may take the last moments."""

    async def append(self, appends: Sequence[Append]) -> None:
        if not appends:
            return
        await self._write(
            lambda file: items.append(file, appends, self._clock.now()),
            self._file.ears.hear,
            durable=False,
        )

    async def read(
        self, topic: str, *, after: Place | None = None, limit: int = 100
    ) -> Sequence[Item]:
        return await self._read(
            lambda file: items.read(file, topic, after, limit, self._clock.now())
        )

    async def last(self, topics: Sequence[str]) -> Sequence[Item | None]:
        return await self._read(lambda file: items.read_last(file, topics, self._clock.now()))

    async def forget_topics(self, topics: Sequence[str]) -> None:
        await self._write(lambda file: items.forget(file, topics, self._clock.now()))

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncGenerator[Ear]:
        await checkpoint()
        ear = SqliteEar(topic)
        with self._file.listening(ear):
            yield ear
