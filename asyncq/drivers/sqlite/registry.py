"""Entries in the file, as a part of what its backend does."""

from collections.abc import Sequence

from asyncq.drivers.sqlite import entries as rows
from asyncq.drivers.sqlite.store import SqliteDriver
from asyncq.language.effects import Hold
from asyncq.seams.registry import PAGE, Entry, Page


class SqliteRegistry(SqliteDriver):
    """The entries of one SQLite file."""

    async def put(
        self,
        kind: str,
        name: str,
        data: bytes,
        *,
        version: int,
        keep: float | None,
        holds: Sequence[Hold] = (),
    ) -> Entry | None:
        ears = self._file.ears
        entry, _ = await self._write(
            lambda file: rows.put(
                file, kind, name, data, self._clock.now(), version=version, keep=keep, holds=holds
            ),
            lambda done: ears.hear(done[1]),
        )
        return entry

    async def remove(self, kind: str, name: str, *, version: int | None) -> bool:
        ears = self._file.ears
        is_removed, _ = await self._write(
            lambda file: rows.remove(file, kind, name, version, self._clock.now()),
            lambda done: ears.hear(done[1]),
        )
        return is_removed

    async def get(self, kind: str, names: Sequence[str]) -> Sequence[Entry | None]:
        return await self._read(lambda file: rows.get(file, kind, names, self._clock.now()))

    async def list(self, kind: str, *, after: str = "", limit: int = PAGE) -> Page:
        return await self._read(lambda file: rows.page(file, kind, after, limit, self._clock.now()))
