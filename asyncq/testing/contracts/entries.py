"""Entries for the registry's suite: how they are put and read, and a model of them."""

from collections.abc import Sequence

from anyio import fail_after
from anyio.lowlevel import checkpoint
from hypothesis import strategies as st

from asyncq.language.effects import Hold
from asyncq.language.message import new_id
from asyncq.seams.registry import EPOCH, Change, Entry, Registry, changes_of, read_change
from asyncq.seams.topics import Place, Topics
from asyncq.testing.contracts.given import FAR, PATIENCE
from asyncq.testing.contracts.model import STEPS

KIND = "schedules"


async def put(
    registry: Registry,
    name: str,
    data: bytes = b"data",
    *,
    kind: str = KIND,
    version: int = 0,
    keep: float | None = None,
    holds: Sequence[Hold] = (),
) -> Entry:
    """Write an entry; it is an error if another version stands."""
    entry = await registry.put(kind, name, data, version=version, keep=keep, holds=holds)
    assert entry is not None
    return entry


async def get(registry: Registry, name: str, kind: str = KIND) -> Entry | None:
    [entry] = await registry.get(kind, [name])
    return entry


async def has_ended(registry: Registry, name: str) -> None:
    with fail_after(PATIENCE):
        while await get(registry, name) is not None:
            await checkpoint()


async def list_all(registry: Registry, kind: str = KIND, limit: int = 100) -> list[Entry]:
    entries: list[Entry] = []
    page = await registry.list(kind, limit=limit)
    entries += page.entries
    while page.after:
        page = await registry.list(kind, after=page.after, limit=limit)
        assert len(page.entries) <= limit
        entries += page.entries
    return entries


async def heard(topics: Topics, kind: str = KIND, after: int = 0) -> list[tuple[int, Change]]:
    """All changes behind a number, with theirs."""
    found: list[tuple[int, Change]] = []
    place = Place(EPOCH, after)
    while items := await topics.read(changes_of(kind), after=place):
        for each in items:
            place = each.place
            change = read_change(each)
            assert change is not None
            found.append((place.number, change))
    return found


class Reader:
    """Has what stands by one list and the changes since, as the seam says."""

    def __init__(self, registry: Registry, topics: Topics) -> None:
        self.entries: dict[str, Entry] = {}
        self.place = 0
        self._registry = registry
        self._topics = topics

    async def follow(self, through: int) -> None:
        """Until it has heard of so many changes."""
        async with self._topics.listen(changes_of(KIND)) as ear:
            page = await self._registry.list(KIND, limit=2)
            self.place = page.changes
            self._take(page.entries)
            while page.after:
                page = await self._registry.list(KIND, after=page.after, limit=2)
                self._take(page.entries)
            while self.place < through:
                for number, change in await heard(self._topics, after=self.place):
                    assert number == self.place + 1
                    self.place = number
                    await self._hear(number, change)
                if self.place < through:
                    await ear.wait()

    async def _hear(self, number: int, change: Change) -> None:
        known = self.entries.get(change.name)
        if known is not None and known.version >= number:
            return
        self.entries.pop(change.name, None)
        if change.version and (entry := await get(self._registry, change.name)) is not None:
            self.entries[change.name] = entry

    def _take(self, entries: Sequence[Entry]) -> None:
        self.entries |= {each.name: each for each in entries}


_NAMES = ("a", "b", "c", "größer")


class Run:
    """One example: a kind of its own, and what its entries are said to be."""

    def __init__(
        self,
        registries: list[Registry],
        topics: Topics,
        data: st.DataObject,
        names: Sequence[str] = _NAMES,
    ) -> None:
        self._registries = registries
        self._topics = topics
        self._data = data
        self._names = names
        self._kind = f"k-{new_id()}"
        self._stands: dict[str, Entry] = {}
        self._changes: list[tuple[int, Change]] = []

    async def play(self) -> None:
        for _ in range(STEPS):
            await self.step()
        await self.leave()

    async def leave(self) -> None:
        """Look at all changes once more, and leave nothing."""
        assert await heard(self._topics, self._kind) == self._changes
        for name in self._names:
            await self._registries[0].remove(self._kind, name, version=None)

    async def step(self, holds: Sequence[Hold] = ()) -> bool:
        """Do anything; returns whether something was written, and these holds with it."""
        draw, kind = self._data.draw, self._kind
        registry = draw(st.sampled_from(self._registries))
        name = draw(st.sampled_from(self._names))
        standing = self._stands.get(name)
        stands = 0 if standing is None else standing.version
        version = draw(st.sampled_from([stands, stands, 0, 1, max(stands - 1, 0), stands + 1]))
        other = ["put"] if holds else ["put", "put", "lapse", "remove", "get", "list"]
        match draw(st.sampled_from(["put", *other])):
            case "put":
                data, keep = draw(st.binary(max_size=5)), draw(st.sampled_from([None, FAR]))
                entry = await registry.put(
                    kind, name, data, version=version, keep=keep, holds=holds
                )
                assert (entry is not None) == (version == stands)
                if entry is not None:
                    assert (entry.name, entry.data) == (name, data)
                    assert (entry.ends is None) == (keep is None)
                    self._stands[name] = entry
                    self._note(Change(name, entry.version))
                    return True
            case "lapse" if draw(st.integers(0, 5)) == 0:
                entry = await registry.put(kind, name, b"", version=stands, keep=0.001)
                assert entry is not None
                self._note(Change(name, entry.version))
                self._stands.pop(name, None)
                while list(await registry.get(kind, [name])) != [None]:
                    await checkpoint()
            case "remove":
                expected = draw(st.sampled_from([None, version]))
                is_removed = await registry.remove(kind, name, version=expected)
                assert is_removed == (standing is not None and expected in (None, stands))
                if is_removed:
                    del self._stands[name]
                    self._note(Change(name, 0))
            case "list":
                page = await registry.list(kind, limit=100)
                assert page.changes == len(self._changes)
                limit = draw(st.integers(1, 3))
                entries = await list_all(registry, kind, limit)
                assert entries == sorted(self._stands.values(), key=lambda each: each.name)
            case _:
                await self.compare()
        return False

    async def compare(self) -> None:
        found = await self._data.draw(st.sampled_from(self._registries)).get(
            self._kind, self._names
        )
        assert list(found) == [self._stands.get(each) for each in self._names]

    def _note(self, change: Change) -> None:
        number = len(self._changes) + 1
        assert change.version in (0, number)
        self._changes.append((number, change))
