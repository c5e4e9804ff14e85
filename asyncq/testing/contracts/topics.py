"""What every store promises of its topics: an order, one copy, bounds, and that news are heard."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from anyio import create_task_group, current_time, fail_after, move_on_after
from anyio.lowlevel import checkpoint

from asyncq.language.effects import Append
from asyncq.language.message import new_id
from asyncq.seams.backend import Backend
from asyncq.seams.broker import MAX_BATCH
from asyncq.seams.topics import Place, Topics
from asyncq.testing.contracts.given import FAR, PATIENCE, DriverFixtures

MIB = 1024 * 1024


def item(
    topic: str,
    number: int,
    data: bytes = b"",
    *,
    epoch: int = 1,
    keep: float = FAR,
    most: int = 1000,
) -> Append:
    """An item whose data say where it stands, if nothing else is given."""
    return Append(topic, epoch, number, data or f"{epoch}-{number}".encode(), keep, most)


class TopicsContract(DriverFixtures):
    """Items: appended, read, overtaken, given way, forgotten and heard of."""

    @pytest.fixture
    def topics(self, backend: Backend) -> Topics:
        assert backend.offers.topics is not None
        return backend.offers.topics

    @pytest.fixture
    def other_topics(self, other_backend: Backend) -> Topics:
        assert other_backend.offers.topics is not None
        return other_backend.offers.topics

    async def test_items_are_read_in_their_order_and_as_they_were(
        self, topics: Topics, other_topics: Topics
    ) -> None:
        data = [b"\x00\xff", "größer 🙂".encode(), b"x" * MIB]
        await topics.append([item("t", n, each) for n, each in enumerate(data)])

        for who in (topics, other_topics):
            read = await who.read("t")
            assert [each.data for each in read] == data
            assert [each.place for each in read] == [Place(1, 0), Place(1, 1), Place(1, 2)]

    async def test_who_has_read_some_reads_on_from_there(self, topics: Topics) -> None:
        await topics.append([item("t", n) for n in range(10)])

        first = await topics.read("t", limit=4)
        second = await topics.read("t", after=first[-1].place, limit=100)

        assert [each.place.number for each in first] == [0, 1, 2, 3]
        assert [each.place.number for each in second] == [4, 5, 6, 7, 8, 9]
        assert list(await topics.read("t", after=second[-1].place)) == []

    async def test_what_was_sent_twice_is_there_once(self, topics: Topics) -> None:
        await topics.append([item("t", 1), item("t", 2)])

        await topics.append([item("t", 1, b"again"), item("t", 2, b"again"), item("t", 3)])

        assert [each.data for each in await topics.read("t")] == [b"1-1", b"1-2", b"1-3"]

    async def test_a_later_run_takes_the_place_of_an_earlier_one_for_good(
        self, topics: Topics
    ) -> None:
        await topics.append([item("t", n, epoch=1) for n in range(5)])
        await topics.append([item("t", 0, epoch=2)])

        await topics.append([item("t", 5, epoch=1), item("t", 1, epoch=2)])

        assert [each.data for each in await topics.read("t")] == [b"2-0", b"2-1"]
        assert [each.data for each in await topics.read("t", after=Place(1, 3))] == [b"2-0", b"2-1"]

    async def test_places_may_be_large_and_sparse(self, topics: Topics) -> None:
        places = [Place(0, 0), Place(0, 2**53), Place(2**53, 0), Place(2**53, 2**53)]
        for epoch, number in places:
            await topics.append([item("t", number, epoch=epoch)])

        assert [each.place for each in await topics.read("t")] == places[2:]

    async def test_no_more_than_so_many_are_kept_and_the_oldest_give_way(
        self, topics: Topics
    ) -> None:
        for start in range(0, 40, 10):
            await topics.append([item("t", n, most=7) for n in range(start, start + 10)])

        assert [each.place.number for each in await topics.read("t")] == list(range(33, 40))

    async def test_the_last_of_many_topics_is_asked_for_at_once(self, topics: Topics) -> None:
        await topics.append([item("a", 1), item("b", 1), item("a", 2)])

        found = await topics.last(["a", "nobody's", "b"])

        assert [each and each.data for each in found] == [b"1-2", None, b"1-1"]
        assert list(await topics.last([])) == []

    async def test_a_topic_is_forgotten_when_nothing_came_for_its_time(
        self, topics: Topics
    ) -> None:
        begun = current_time()
        await topics.append([item("t", 1, keep=0.3), item("stays", 1)])

        with fail_after(PATIENCE):
            while await topics.read("t"):
                await checkpoint()

        assert 0.25 < current_time() - begun < 3.0
        assert list(await topics.last(["t"])) == [None]
        assert len(await topics.read("stays")) == 1
        await topics.append([item("t", 0)])
        assert [each.data for each in await topics.read("t")] == [b"1-0"]

    async def test_each_item_lengthens_the_time_of_all(self, topics: Topics) -> None:
        await topics.append([item("t", 1, keep=0.2)])
        await topics.append([item("t", 2, keep=FAR)])

        begun = current_time()
        while current_time() - begun < 0.4:
            await checkpoint()

        assert len(await topics.read("t")) == 2

    async def test_what_is_forgotten_is_gone_and_may_begin_anew(self, topics: Topics) -> None:
        await topics.append([item("t", 5), item("u", 5)])

        await topics.forget_topics(["t", "nobody's"])

        assert list(await topics.read("t")) == []
        assert len(await topics.read("u")) == 1
        await topics.append([item("t", 1)])
        assert [each.data for each in await topics.read("t")] == [b"1-1"]

    async def test_a_batch_may_be_as_large_as_any(self, topics: Topics) -> None:
        names = [new_id() for _ in range(MAX_BATCH // 2)]
        await topics.append([item(name, n) for name in names for n in range(2)])

        found = await topics.last(names)

        assert [each and each.place.number for each in found] == [1] * len(names)
        await topics.append([])

    async def test_names_may_be_of_any_text(self, topics: Topics) -> None:
        names = ["progress/1", "{a}:b c", "größer 🙂", "%s?*[", "x" * 300]
        await topics.append([item(name, 1, name.encode()) for name in names])

        for name in names:
            assert [each.data for each in await topics.read(name)] == [name.encode()]

    async def test_who_listens_hears_of_what_another_appends(
        self, topics: Topics, other_topics: Topics
    ) -> None:
        async with other_topics.listen("t") as ear:
            await topics.append([item("t", 1)])
            with fail_after(PATIENCE):
                await ear.wait()

            assert len(await other_topics.read("t")) == 1

    async def test_several_read_all_while_it_is_written(
        self, topics: Topics, other_topics: Topics
    ) -> None:
        count = 200
        heard: list[list[int]] = []

        async def follow(who: Topics) -> None:
            numbers: list[int] = []
            heard.append(numbers)
            place = None
            async with who.listen("t") as ear:
                while len(numbers) < count:
                    for each in await who.read("t", after=place):
                        place = each.place
                        numbers.append(place.number)
                    if len(numbers) < count:
                        await ear.wait()

        with fail_after(PATIENCE):
            async with create_task_group() as group:
                for who in (topics, other_topics, other_topics):
                    group.start_soon(follow, who)
                for number in range(count):
                    await topics.append([item("t", number)])

        assert heard == [list(range(count))] * 3

    async def test_news_are_heard_soon(self, topics: Topics, other_topics: Topics) -> None:
        took = await _delays(topics, other_topics)

        assert sorted(took)[len(took) // 2] < 0.5

    async def test_who_leaves_an_ear_while_it_waits_leaves_nothing_behind(
        self, topics: Topics
    ) -> None:
        for _ in range(3):
            with move_on_after(0.05):
                async with topics.listen("t") as ear:
                    while True:
                        await ear.wait()

        await topics.append([item("t", 1)])
        async with topics.listen("t") as ear:
            await topics.append([item("t", 2)])
            with fail_after(PATIENCE):
                await ear.wait()


async def _delays(writer: Topics, reader: Topics) -> Sequence[float]:
    """Seconds from each of a few appends until its item is read by who listens."""
    moments: list[float] = []
    async with reader.listen("soon") as ear:
        for number in range(1, 8):
            moments.append(current_time())
            await writer.append([item("soon", number)])
            with fail_after(PATIENCE):
                while not await reader.read("soon", after=Place(1, number - 1)):
                    await ear.wait()
        moments.append(current_time())
    return [after - before for before, after in pairwise(moments)]
