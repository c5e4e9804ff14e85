"""Entries: those of one kind, as they are and as they change, for who keeps them in mind."""

import asyncio
from collections.abc import Callable, Iterable

import anyio
from anyio.lowlevel import checkpoint

from asyncq.errors import BackendError, BackendUnavailable, ConfigurationError
from asyncq.outages import Outage
from asyncq.seams.registry import EPOCH, PAGE, Entry, Registry, changes_of, read_change
from asyncq.seams.topics import Ear, Place, Topics

LOOK = 60.0  # seconds between two questions whether a change was missed
MOST_BATCH = 500  # entries that are asked for at a time


class Entries:
    """Tells of the entries of one kind: of each as it is found, changes or goes.

    What its reader has been told may be told again. Ends are not told: he knows them beforehand.
    """

    def __init__(
        self,
        registry: Registry,
        topics: Topics,
        kind: str,
        *,
        tell: Callable[[str, Entry | None], None],
        became: Callable[[bool], None],
        about: str,
    ) -> None:
        self._registry = registry
        self._topics = topics
        self._kind = kind
        self._tell = tell
        self._became = became
        """Told when what was told is all there is, and when it may not be any more."""
        self._versions: dict[str, int] = {}  # of what was told
        self._seen = 0  # the number of the last change
        self._outage = Outage(f"hearing of {about} is interrupted", f"hearing of {about} goes on")
        self._current = asyncio.Event()
        self._reading = anyio.Lock()
        self._begun = self._done = 0  # readings that somebody asked for

    @property
    def is_current(self) -> bool:
        """Whether what changes is heard; what was told is as good as what there is."""
        return self._current.is_set()

    async def until_current(self) -> None:
        await self._current.wait()

    def forget(self, names: Iterable[str]) -> None:
        """These have ended."""
        for name in names:
            self._versions.pop(name, None)

    async def catch_up(self) -> None:
        """Return once all is told that was written before; or it cannot be read.

        Who asks while one reading is under way shares the next.
        """
        wanted = self._begun + 1
        while self._done < wanted:
            async with self._reading:
                if self._done >= wanted:
                    return
                self._begun += 1
                try:
                    if not await self._read_on():
                        await self._list()
                except (BackendUnavailable, BackendError, ConfigurationError):
                    pass  # `run` says so
                self._done = self._begun

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            try:
                async with self._topics.listen(changes_of(self._kind)) as ear:
                    async with self._reading:
                        await self._list()
                    self._current.set()
                    self._became(True)
                    if self._outage.error is not None:
                        self._outage.end()
                    await self._follow(ear)
            # A component that must survive, whatever a driver raises here: until it can be read
            # again, its reader knows that he does not know.
            except Exception as error:  # noqa: BLE001
                self._current.clear()
                self._became(False)
                await anyio.sleep(self._outage.fail(error))

    async def _follow(self, ear: Ear) -> None:
        loop = asyncio.get_running_loop()
        look = loop.time() + LOOK
        while True:
            await ear.wait()
            async with self._reading:
                changes = 0
                if loop.time() >= look:
                    look = loop.time() + LOOK
                    changes = (await self._registry.list(self._kind, limit=1)).changes
                    if changes < self._seen:  # the store was restored from a backup
                        self._seen = -1
                if not await self._read_on() or self._seen < changes:
                    await self._list()

    async def _list(self) -> None:
        """Tell of all that there is, and of all that there is no more."""
        known, found = self._versions, dict[str, int]()
        after, first = "", True
        while first or after:
            page = await self._registry.list(self._kind, after=after, limit=PAGE)
            if first:
                self._seen, first = page.changes, False
            for entry in page.entries:
                found[entry.name] = entry.version
                if known.get(entry.name) != entry.version:
                    self._tell(entry.name, entry)
            after = page.after
        self._versions = found
        for name in known.keys() - found.keys():
            self._tell(name, None)

    async def _read_on(self) -> bool:
        """Tell of what has changed since; False if the topic has forgotten some of it."""
        topic = changes_of(self._kind)
        while items := await self._topics.read(topic, after=Place(EPOCH, self._seen)):
            names: dict[str, None] = {}
            for item in items:
                change = read_change(item)
                if item.place != Place(EPOCH, self._seen + 1) or change is None:
                    return False
                self._seen = item.place.number
                names[change.name] = None
            wanted = list(names)
            for start in range(0, len(wanted), MOST_BATCH):
                await self._tell_of(wanted[start : start + MOST_BATCH])
        return True

    async def _tell_of(self, names: list[str]) -> None:
        found = await self._registry.get(self._kind, names)
        for name, entry in zip(names, found, strict=True):
            if entry is None:
                if self._versions.pop(name, None) is not None:
                    self._tell(name, None)
            elif self._versions.get(name, 0) < entry.version:
                self._versions[name] = entry.version
                self._tell(name, entry)
        await checkpoint()
