"""Who keeps the entries of a kind in mind has heard of all, and knows when he has not."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

import anyio
import pytest

from asyncq.client.entries import Entries
from asyncq.errors import BackendUnavailable
from asyncq.language.effects import Append
from asyncq.language.message import new_id
from asyncq.seams.registry import MOST_CHANGES, Entry, Registry, changes_of
from asyncq.seams.topics import Ear, Item, Place, Topics
from tests.client.given import new_app, until

KIND = "things"


class Reader:
    """Who is told."""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}
        self.states: list[bool] = []

    def tell(self, name: str, entry: Entry | None) -> None:
        if entry is None:
            del self.known[name]
        else:
            self.known[name] = entry.data

    @asynccontextmanager
    async def reading(self, registry: Registry, topics: Topics) -> AsyncGenerator[Entries]:
        entries = Entries(
            registry, topics, KIND, tell=self.tell, became=self.states.append, about="things"
        )
        async with anyio.create_task_group() as group:
            group.start_soon(entries.run)
            await entries.until_current()
            yield entries
            group.cancel_scope.cancel()


class Fragile:
    """Topics that can be cut off."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self.cut = asyncio.Event()
        self.is_away = False

    async def append(self, appends: Sequence[Append]) -> None:
        await self._topics.append(appends)

    async def read(
        self, topic: str, *, after: Place | None = None, limit: int = 100
    ) -> Sequence[Item]:
        if self.is_away:
            raise BackendUnavailable("cut off")
        return await self._topics.read(topic, after=after, limit=limit)

    async def last(self, topics: Sequence[str]) -> Sequence[Item | None]:
        return await self._topics.last(topics)

    async def forget_topics(self, topics: Sequence[str]) -> None:
        await self._topics.forget_topics(topics)

    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncGenerator[Ear]:
        if self.is_away:
            raise BackendUnavailable("cut off")
        async with self._topics.listen(topic) as ear:
            yield _FragileEar(ear, self)


class _FragileEar:
    def __init__(self, ear: Ear, topics: Fragile) -> None:
        self._ear = ear
        self._topics = topics

    async def wait(self) -> None:
        cut = asyncio.ensure_future(self._topics.cut.wait())
        heard = asyncio.ensure_future(self._ear.wait())
        try:
            await asyncio.wait((cut, heard), return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()
            heard.cancel()
        if self._topics.is_away:
            raise BackendUnavailable("cut off")


@pytest.fixture(params=["memory", "redis", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncGenerator[Any]:
    url = {"sqlite": f"sqlite:///{tmp_path}/things.db", "memory": None}.get(request.param, "")
    if url == "":
        url = f"{request.getfixturevalue('redis_url')}?prefix=entries-{new_id()}"
    app = new_app(url)
    async with app:
        offers = app.client.backend.offers
        yield offers.registry, offers.topics


async def test_all_that_is_there_is_told_and_all_that_changes(store: Any) -> None:
    registry, topics = store
    for n in range(250):
        await registry.put(KIND, f"before-{n}", b"1", version=0, keep=None)
    reader = Reader()
    async with reader.reading(registry, topics):
        assert len(reader.known) == 250
        one = await registry.put(KIND, "new", b"1", version=0, keep=None)
        await until(lambda: reader.known.get("new") == b"1")
        await registry.put(KIND, "new", b"2", version=one.version, keep=None)
        await until(lambda: reader.known.get("new") == b"2")
        await registry.remove(KIND, "before-7", version=None)
        await until(lambda: "before-7" not in reader.known)
        await registry.remove(KIND, "new", version=None)
        await registry.put(KIND, "new", b"3", version=0, keep=None)
        await until(lambda: reader.known.get("new") == b"3")
    assert len(reader.known) == 250
    assert reader.states == [True]


async def test_who_was_cut_off_says_so_and_reads_all_anew(store: Any) -> None:
    registry, topics = store
    await registry.put(KIND, "goes", b"1", version=0, keep=None)
    await registry.put(KIND, "stays", b"1", version=0, keep=None)
    reader, fragile = Reader(), Fragile(topics)
    async with reader.reading(registry, fragile) as entries:
        fragile.is_away = True
        fragile.cut.set()
        await until(lambda: not entries.is_current)
        await registry.remove(KIND, "goes", version=None)
        for n in range(MOST_CHANGES // 10):
            await registry.put(KIND, f"new-{n}", b"1", version=0, keep=None)
        fragile.is_away = False
        fragile.cut.clear()
        await entries.until_current()
        assert reader.known.keys() == {"stays", *(f"new-{n}" for n in range(MOST_CHANGES // 10))}
    assert [state for state, _ in groupby(reader.states)] == [True, False, True]


async def test_a_change_that_the_topic_has_forgotten_is_not_missed(store: Any) -> None:
    registry, topics = store
    reader = Reader()
    async with reader.reading(registry, topics):
        await registry.put(KIND, "one", b"1", version=0, keep=None)
        await until(lambda: "one" in reader.known)
        await topics.forget_topics([changes_of(KIND)])
        await registry.put(KIND, "two", b"1", version=0, keep=None)
        await topics.forget_topics([changes_of(KIND)])
        await registry.put(KIND, "three", b"1", version=0, keep=None)
        await until(lambda: reader.known.keys() == {"one", "two", "three"})


async def test_who_asks_to_catch_up_knows_all_that_was_written_before(store: Any) -> None:
    registry, topics = store
    reader = Reader()
    async with reader.reading(registry, topics) as entries:
        for n in range(30):
            await registry.put(KIND, f"{n}", b"1", version=0, keep=None)
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(entries.catch_up)
            assert f"{n}" in reader.known


async def test_what_others_hands_have_written_harms_nobody(store: Any) -> None:
    registry, topics = store
    reader = Reader()
    async with reader.reading(registry, topics):
        await topics.append([Append(changes_of(KIND), 1, 1, b"no change", 60.0, 100)])
        await registry.put(KIND, "one", b"1", version=0, keep=None)
        await until(lambda: "one" in reader.known)
