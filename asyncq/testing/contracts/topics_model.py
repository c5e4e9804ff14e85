"""Any operations on topics, against a model of a topic that fits on a page."""

from collections.abc import Sequence

from hypothesis import strategies as st

from asyncq.language.effects import Append
from asyncq.seams.topics import Item, Place, Topics
from asyncq.testing.contracts.given import FAR

_places = st.builds(Place, st.integers(0, 4), st.integers(0, 12))


class TopicsRun:
    """One example: a few topics, and the items that they are said to have."""

    def __init__(self, stores: list[Topics], data: st.DataObject, names: Sequence[str]) -> None:
        self._stores = stores
        self._data = data
        self._names = names
        self._items: dict[str, list[Item]] = {name: [] for name in names}

    async def step(self) -> None:
        draw = self._data.draw
        topics, name = draw(st.sampled_from(self._stores)), draw(st.sampled_from(self._names))
        match draw(st.sampled_from([*["append", "next"] * 3, "read", "read", "forget"])):
            case "append":
                places = draw(st.lists(_places, min_size=1, max_size=4))
                await self._append(topics, name, places)
            case "next":
                place = self._items[name][-1].place if self._items[name] else Place(0, 0)
                await self._append(topics, name, [Place(place.epoch, place.number + 1)])
            case "read":
                after, limit = draw(st.none() | _places), draw(st.integers(1, 4))
                items = self._items[name]
                later = [each for each in items if after is None or each.place > after]
                assert list(await topics.read(name, after=after, limit=limit)) == later[:limit]
            case _ if draw(st.integers(0, 3)) == 0:
                await topics.forget_topics([name])
                self._items[name].clear()
            case _:
                pass

    async def _append(self, topics: Topics, name: str, places: Sequence[Place]) -> None:
        most = self._data.draw(st.integers(1, 5))
        data = self._data.draw(st.binary(max_size=5))
        await topics.append([Append(name, *place, data, FAR, most) for place in places])
        items = self._items[name]
        for place in places:
            if items and place <= items[-1].place:
                continue
            if items and place.epoch > items[-1].place.epoch:
                items.clear()
            items.append(Item(place, data))
            del items[:-most]

    async def compare(self) -> None:
        topics = self._data.draw(st.sampled_from(self._stores))
        found = await topics.last(self._names)
        assert list(found) == [items[-1] if items else None for items in self._items.values()]
        for name, items in self._items.items():
            assert list(await topics.read(name)) == items

    async def leave(self) -> None:
        await self._stores[0].forget_topics(self._names)
