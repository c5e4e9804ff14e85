"""What every backend that tells promises of its feeds: all who are subscribed hear, in order."""

from collections.abc import Sequence

import pytest
from anyio import create_task_group, fail_after, move_on_after

from asyncq.language.message import new_id
from asyncq.seams.backend import Backend
from asyncq.seams.feeds import Feed, feed_of_blobs, replies_to
from asyncq.testing.contracts.given import PATIENCE, DriverFixtures, hear, record

MIB = 1024 * 1024


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


class FeedContract(DriverFixtures):
    """Items: pushed, heard by all who are subscribed, by nobody else, and kept for nobody."""

    @pytest.fixture
    def news(self) -> Feed[bytes]:
        return feed_of_blobs("news", new_id())

    async def test_all_who_are_subscribed_hear_all_in_order(
        self, backend: Backend, other_backend: Backend, news: Feed[bytes]
    ) -> None:
        items = numbered(300)
        async with (
            backend.subscribe(news) as one,
            backend.subscribe(news) as another,
            other_backend.subscribe(news) as elsewhere,
        ):
            await backend.push(news, items[:1])
            await backend.push(news, items[1:200])
            await backend.push(news, items[200:])

            for each in (one, another, elsewhere):
                assert await hear(each, 300) == items

    async def test_what_several_push_is_all_heard(
        self, backend: Backend, other_backend: Backend, news: Feed[bytes]
    ) -> None:
        async with backend.subscribe(news) as mine, other_backend.subscribe(news) as theirs:
            async with create_task_group() as group:
                for number in range(20):
                    who = (backend, other_backend)[number % 2]
                    group.start_soon(who.push, news, [b"%d" % number])

            for each in (mine, theirs):
                assert sorted(await hear(each, 20)) == sorted(numbered(20))

    async def test_items_are_heard_as_they_were_pushed(
        self, backend: Backend, other_backend: Backend, news: Feed[bytes]
    ) -> None:
        items = [b"", b"\x00\xff\r\n", "größer 🙂".encode(), b"x" * MIB]
        async with other_backend.subscribe(news) as heard:
            await backend.push(news, items)

            assert await hear(heard, len(items)) == items

    async def test_who_comes_later_hears_what_comes_later(
        self, backend: Backend, other_backend: Backend, news: Feed[bytes]
    ) -> None:
        await backend.push(news, [b"before anybody"])
        async with backend.subscribe(news) as early:
            await backend.push(news, [b"first"])
            async with other_backend.subscribe(news) as late:
                await backend.push(news, [b"second"])

                assert await hear(late, 1) == [b"second"]
            assert await hear(early, 2) == [b"first", b"second"]

    async def test_who_leaves_keeps_the_others_from_nothing(
        self, backend: Backend, other_backend: Backend, news: Feed[bytes]
    ) -> None:
        async with other_backend.subscribe(news) as stays:
            for number in range(3):
                async with backend.subscribe(news) as goes:
                    await backend.push(news, [b"%d" % number])
                    assert await hear(goes, 1) == [b"%d" % number]
            await backend.push(news, [b"3"])

            assert await hear(stays, 4) == numbered(4)

    async def test_feeds_are_told_apart_by_kind_and_by_key(self, backend: Backend) -> None:
        key = new_id()
        feeds = [
            feed_of_blobs("news", key),
            feed_of_blobs("news", f"{key}s"),
            feed_of_blobs("new", f"s{key}"),
            feed_of_blobs("mail", key),
        ]
        async with (
            backend.subscribe(feeds[0]) as first,
            backend.subscribe(feeds[1]) as second,
            backend.subscribe(feeds[2]) as third,
            backend.subscribe(feeds[3]) as fourth,
        ):
            for number, feed in enumerate(feeds):
                await backend.push(feed, [b"%d" % number, b"last"])

            for number, heard in enumerate((first, second, third, fourth)):
                assert await hear(heard, 2) == [b"%d" % number, b"last"]

    async def test_a_feed_of_another_kind_is_not_of_outcomes(self, backend: Backend) -> None:
        address = new_id()
        feed = feed_of_blobs("news", address)
        stored = record(new_id(), reply_to=address)
        async with (
            backend.subscribe(feed) as heard,
            backend.subscribe(replies_to(address)) as replies,
        ):
            await backend.store_records([stored])
            await backend.push(feed, [b"1"])

            assert await hear(heard, 1) == [b"1"]
            assert await hear(replies, 1) == [stored]

    async def test_who_waits_hears_at_once(self, backend: Backend, news: Feed[bytes]) -> None:
        async with backend.subscribe(news) as heard, create_task_group() as group:
            group.start_soon(backend.push, news, [b"1"])

            assert await hear(heard, 1) == [b"1"]

    async def test_nothing_pushed_is_nothing_heard(
        self, backend: Backend, news: Feed[bytes]
    ) -> None:
        async with backend.subscribe(news) as heard:
            await backend.push(news, [])
            await backend.push(news, [b"1"])

            with fail_after(PATIENCE):
                items: Sequence[bytes] = ()
                while not items:  # empty only where something may have been missed
                    items = await heard.receive()
            assert list(items) == [b"1"]

    async def test_a_receive_that_is_cancelled_leaves_the_subscription_usable(
        self, backend: Backend, news: Feed[bytes]
    ) -> None:
        async with backend.subscribe(news) as heard:
            for delay in (0.0, 0.001, 0.02):
                with move_on_after(delay):
                    await heard.receive()

            # It may say that something was missed, and hears what comes from then on.
            with fail_after(PATIENCE):
                items: Sequence[bytes] = ()
                while not items:
                    await backend.push(news, [b"again"])
                    items = await heard.receive()
            assert set(items) == {b"again"}
