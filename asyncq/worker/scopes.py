"""Scopes, as a worker meets them: what belongs to one that is over ends, or never starts.

Whether a scope stands is looked up in the backend (`asyncq.language.scopes`) before a message that
belongs to it is started, and now and then while one runs. What was seen a moment ago holds: a scope
that is cancelled is heard of by its mark (`asyncq.worker.cancellations`).

An owner that is missing is looked for once more, a moment later: it may be there and have had no
backend to say so. Whoever finds that it is gone says that its scope is over.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import anyio
import msgspec

from asyncq.client.cancelling import HEARD_WITHIN
from asyncq.errors import BackendError, BrokerUnavailable, ConfigurationError
from asyncq.language.marks import Mark
from asyncq.language.scopes import (
    IT_IS_OVER,
    KIND,
    LOOKS,
    is_opened_in_task,
    opened_by,
    owner_of,
    why_over,
)
from asyncq.loggers import get_logger
from asyncq.outages import Outage
from asyncq.seams.broker import Delivery
from asyncq.seams.registry import PAGE, Entry, Registry

log = get_logger(__name__)

MOST_NAMES = 500  # that are looked up at a time
MOST_SEEN = 10_000  # names that are remembered
OWNER_IS_GONE = "who began its scope is gone"
RUNS_AGAIN = "the task that began its scope runs again"

End = Callable[[str, str], Awaitable[Any]]
Cancel = Callable[["asyncio.Task[Any]", Delivery, Mark], None]


class _Seen(msgspec.Struct, frozen=True, gc=False):
    """What was found of a scope or an owner."""

    at: float
    """Loop time."""
    why_over: str | None = None
    missing_since: float = math.inf
    """Loop time; of an owner."""


class Scopes:
    """Those that one worker meets. ``end`` says of one that it is over, ``cancel`` ends a task."""

    def __init__(
        self,
        registry: Registry | None,
        *,
        lease: float,
        now: Callable[[], float],
        end: End,
        cancel: Cancel,
    ) -> None:
        self._registry = registry
        self._look = lease / LOOKS  # seconds
        self._now = now
        self._end = end
        self._cancel = cancel
        self._seen: dict[str, _Seen] = {}
        self._wanted: set[str] = set()
        self._turns = 0  # how often was looked up
        self._looking = anyio.Lock()
        self._inside: dict[asyncio.Task[Any], tuple[Delivery, Sequence[str]]] = {}
        self._entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._outage = Outage("whether scopes stand is not known", "whether scopes stand is known")

    async def mark_of(self, names: Sequence[str]) -> Mark | None:
        """Why what belongs to these is not to be started; waits until that is known."""
        registry = self._registry
        if registry is None:
            return None
        owners = {owner_of(name): name for name in names}
        while True:
            since = self._loop.time() - self._look
            unsure = [
                name
                for name in (*names, *owners)
                if (seen := self._seen.get(name)) is None or seen.at <= since
            ]
            if unsure:
                await self._know(registry, unsure)
                continue
            mark = await self._mark_of(names)
            if mark is not None:
                return mark
            if all(self._seen[owner].missing_since == math.inf for owner in owners):
                return None
            await anyio.sleep(self._look / 2)

    def enter(self, delivery: Delivery, names: Sequence[str]) -> None:
        """The current task runs this, which belongs to these scopes."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._inside[task] = delivery, names
        task.add_done_callback(self._leave)
        self._entered.set()

    async def end_opened_by(self, task_id: str) -> None:
        """This message's task runs again: what its earlier run began is over."""
        registry, begin = self._registry, opened_by(task_id)
        if registry is None:
            return
        after, are_ended = begin, False
        while after:
            page = await registry.list(KIND, after=after, limit=PAGE)
            own = [each for each in page.entries if each.name.startswith(begin)]
            for entry in own:
                # Who sends may call a message as an owner calls itself.
                if is_opened_in_task(entry.name) and why_over(entry.data) is None:
                    await self._end(entry.name, RUNS_AGAIN)
                    are_ended = True
            after = page.after if len(own) == len(page.entries) else ""
        if are_ended:
            await anyio.sleep(HEARD_WITHIN)  # then nobody starts any of it any more

    async def run(self) -> None:
        """Look now and then for the scopes of what runs, until cancelled."""
        registry = self._registry
        if registry is None:
            return
        while True:
            if not self._inside:
                self._entered.clear()
                await self._entered.wait()
            await anyio.sleep(self._look)
            inside = tuple(self._inside.items())
            paths = {names for _, (_, names) in inside}
            wanted = {name for names in paths for name in names}
            wanted |= {owner_of(name) for name in wanted}
            if not await self._know(registry, wanted):
                continue
            marks = {names: await self._mark_of(names) for names in paths}
            for task, (delivery, names) in inside:
                mark = marks[names]
                if mark is not None and not task.done():
                    self._cancel(task, delivery, mark)

    def _leave(self, task: "asyncio.Task[Any]") -> None:
        self._inside.pop(task, None)

    async def _mark_of(self, names: Sequence[str]) -> Mark | None:
        """What is known of these says so."""
        for name in names:
            seen, owner = self._seen.get(name), self._seen.get(owner_of(name))
            if seen is not None and seen.why_over is not None:
                return Mark(at=self._now(), reason=seen.why_over, scope=name)
            if owner is not None and owner.at - owner.missing_since >= self._look:
                log.info("scope %s is over: %s", name, OWNER_IS_GONE)
                self._seen[name] = _Seen(self._loop.time(), OWNER_IS_GONE)
                with suppress(BackendError, BrokerUnavailable, ConfigurationError):
                    await self._end(name, OWNER_IS_GONE)
                return Mark(at=self._now(), reason=OWNER_IS_GONE, scope=name)
        return None

    async def _know(self, registry: Registry, names: Iterable[str]) -> bool:
        """Look these up, with what others ask for meanwhile; whether that could be done."""
        self._wanted.update(names)
        turn = self._turns + 1
        async with self._looking:
            if self._turns >= turn:  # somebody else has
                return True
            self._turns += 1
            wanted, self._wanted = list(self._wanted), set()
            try:
                for start in range(0, len(wanted), MOST_NAMES):
                    some = wanted[start : start + MOST_NAMES]
                    self._learn(some, await registry.get(KIND, some))
            # A component that must survive, whatever a driver raises here.
            except Exception as error:  # noqa: BLE001
                await anyio.sleep(self._outage.fail(error))
                return False
            if self._outage.error is not None:
                self._outage.end()
            return True

    def _learn(self, names: Sequence[str], entries: Sequence[Entry | None]) -> None:
        now = self._loop.time()
        if len(self._seen) > MOST_SEEN:
            self._seen = {
                name: seen for name, seen in self._seen.items() if seen.at > now - self._look
            }
        for name, entry in zip(names, entries, strict=True):
            if entry is not None:
                why = why_over(entry.data)
                self._seen[name] = _Seen(now, None if why is None else why or IT_IS_OVER)
            elif " " in name:
                self._seen[name] = _Seen(now, IT_IS_OVER)
            else:
                before = self._seen.get(name)
                is_old = before is None or before.at < now - 2 * self._look
                since = now if is_old or before is None else min(before.missing_since, now)
                self._seen[name] = _Seen(now, missing_since=since)
