"""Latches in the file, as a part of what its backend does."""

import sqlite3
from collections.abc import Sequence

from asyncq.drivers.sqlite import latches as rows
from asyncq.drivers.sqlite.store import SqliteDriver
from asyncq.language.effects import Arrive, Hold
from asyncq.seams.ledger import PAGE, SENDER_AWAY, Due, LatchState, Missing, Part, Unsent


class SqliteLedger(SqliteDriver):
    """The latches of one SQLite file."""

    async def apply(self, effects: Sequence[Hold | Arrive], sender: str) -> Sequence[str]:
        if not effects:
            return ()
        return await self._write(lambda file: rows.apply(file, effects, self._clock.now(), sender))

    async def unsent(
        self, latch: str, sender: str, *, is_failure: bool, limit: int = PAGE
    ) -> Unsent | None:
        def ask(file: sqlite3.Connection) -> tuple[Unsent | None, bool]:
            now = self._clock.now()
            return rows.unsent(file, latch, sender, limit, now, is_failure=is_failure)

        page, has_to_take = await self._read(ask)
        if has_to_take:
            # A power cut may undo it: then this sender is silent, and another takes its place.
            await self._write(
                lambda file: rows.take(file, latch, sender, self._clock.now()), durable=False
            )
            page, _ = await self._read(ask)
        return page

    async def confirm(self, unsent: Unsent) -> None:
        # What a power cut takes back is sent again, under the same ids.
        await self._write(lambda file: rows.confirm(file, unsent, self._clock.now()), durable=False)

    async def due(
        self, sender: str, limit: int = PAGE, *, lease: float = SENDER_AWAY
    ) -> Sequence[Due]:
        now = self._clock.now()
        if not await self._read(lambda file: rows.is_due(file, now)):
            return ()
        return await self._write(
            lambda file: rows.due(file, sender, limit, lease, self._clock.now())
        )

    async def missing(self, latch: str, cursor: str = "", limit: int = PAGE) -> Missing:
        return await self._read(
            lambda file: rows.missing(file, latch, cursor, limit, self._clock.now())
        )

    async def parts(self, latch: str, names: Sequence[str]) -> Sequence[Part | None]:
        return await self._read(lambda file: rows.parts(file, latch, names, self._clock.now()))

    async def look(self, latches: Sequence[str]) -> Sequence[LatchState | None]:
        return await self._read(lambda file: rows.look(file, latches, self._clock.now()))

    async def forget_latches(self, latches: Sequence[str]) -> None:
        if latches:
            await self._write(lambda file: rows.forget(file, latches, self._clock.now()))
