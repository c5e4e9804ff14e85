"""Topics in Redis: what other hands wrote, what is refused, one connection for all who listen."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio import fail_after

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.redis import hearing, topics
from asyncq.drivers.redis.backend import RedisBackend
from asyncq.drivers.redis.connection import Link
from asyncq.drivers.redis.topics import RedisTopics
from asyncq.drivers.redis.wire import Wire
from asyncq.errors import BackendError, BackendUnavailable
from asyncq.language.message import new_id
from asyncq.seams.topics import Ear, Place
from asyncq.testing.contracts.topics import item
from tests.contracts.redis_given import warnings
from tests.contracts.test_redis_refusals import PATIENCE, asking
from tests.servers import start_redis

MIB = 1024 * 1024
ALL = ("on", ">secret", "~*", "&*", "+@all")


@asynccontextmanager
async def open_topics(url: str) -> AsyncGenerator[RedisTopics]:
    async with RedisBackend(Url(url), SystemClock()) as backend:
        kept = backend.offers.topics
        assert isinstance(kept, RedisTopics)
        yield kept


@pytest.fixture
def prefix() -> str:
    return new_id()


@pytest.fixture
async def kept(redis_url: str, prefix: str) -> AsyncIterator[RedisTopics]:
    async with open_topics(f"{redis_url}?prefix={prefix}") as kept:
        yield kept


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Link]:
    async with asking(redis_url) as link:
        yield link


async def until_subscribed(link: Link, connections: int, channels: int) -> None:
    """Return once there are so many; what ends is seen by the server a moment later."""
    with fail_after(PATIENCE):
        while (  # noqa: ASYNC110 - it tells nobody
            (await link("CLIENT", "LIST", "TYPE", "pubsub")).count(b"\n") != connections
            or len(await link("PUBSUB", "CHANNELS")) != channels
        ):
            await anyio.sleep(0.005)


async def hear(ear: Ear) -> None:
    with fail_after(PATIENCE):
        await ear.wait()


async def hear_for_ever(ear: Ear) -> None:
    with fail_after(PATIENCE):
        while True:
            await ear.wait()


# What is there


async def test_a_topic_that_is_written_on_and_on_takes_no_more_room(
    kept: RedisTopics, link: Link, prefix: str
) -> None:
    sizes: list[int] = []

    for start in range(0, 10_000, 500):
        await kept.append([item("t", n, most=100) for n in range(start, start + 500)])
        sizes.append(await link("MEMORY", "USAGE", f"{prefix}:topic:t", "SAMPLES", 0))

    assert await link("XLEN", f"{prefix}:topic:t") == 100
    assert max(sizes[1:]) < 1.5 * sizes[0]


async def test_what_other_hands_wrote_is_left_out_of_what_is_read(
    kept: RedisTopics, link: Link, prefix: str
) -> None:
    key = f"{prefix}:topic:t"
    await link("XADD", key, "1-0", "item", "no place of ours")
    await kept.append([item("t", 0)])
    for n in range(2, 250):
        await link("XADD", key, f"1-{n}", "other", b"\xff")
    await link("XADD", key, "1-250", "item", "a", "item", "b")
    await kept.append([item("t", 300)])
    await link("XADD", key, "1-400", "other", "hands")

    read = await kept.read("t", limit=2)

    assert [each.place.number for each in read] == [0, 300]
    assert [each.place.number for each in await kept.read("t", after=Place(1, 0), limit=1)] == [300]
    last, nobodys = await kept.last(["t", "nobody's"])
    assert last is not None
    assert last.place == Place(1, 300)
    assert nobodys is None


async def test_a_key_of_another_type_is_no_topic_and_gives_way_to_one(
    kept: RedisTopics, link: Link, prefix: str
) -> None:
    await link("SET", f"{prefix}:topic:odd", "by other hands")
    await kept.append([item("good", 1)])

    assert list(await kept.read("odd")) == []
    odd, good = await kept.last(["odd", "good"])
    assert odd is None
    assert good is not None
    await kept.append([item("good", 2), item("odd", 1), item("good", 3)])

    assert [each.data for each in await kept.read("odd")] == [b"1-1"]
    assert len(await kept.read("good")) == 3


@pytest.mark.parametrize(
    "place", [Place(-1, -5), Place(1, -1), Place(2**70, 2**70), Place(1, 2**64)]
)
async def test_a_place_from_anywhere_can_be_asked_for(kept: RedisTopics, place: Place) -> None:
    await kept.append([item("t", 0)])

    read = await kept.read("t", after=place)

    assert [each.place for each in read] == [Place(1, 0)][: Place(1, 0) > place]


async def test_who_was_overtaken_neither_lengthens_the_time_nor_is_heard_of(
    kept: RedisTopics, link: Link, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "LONGEST_WAIT", 0.2)
    await kept.append([item("t", 1, epoch=2, keep=100.0)])
    async with asking(str(kept._link.store.url.reveal())) as listening:  # pyright: ignore[reportPrivateUsage]
        await listening("SUBSCRIBE", f"{prefix}:topic:t")

        await kept.append([item("t", 1, epoch=2, keep=1000.0), item("t", 9, keep=1000.0)])
        await kept.append([item("u", 1)])
        await link("PUBLISH", f"{prefix}:topic:t", "the first that is heard")

        assert (await listening.next_push())[2] == b"the first that is heard"
    assert 0 < await link("PTTL", f"{prefix}:topic:t") <= 100_000


async def test_items_of_one_batch_may_have_bounds_of_their_own(kept: RedisTopics) -> None:
    await kept.append(
        [
            *(item("t", n, most=5) for n in range(4)),
            item("u", 1),
            item("t", 4, most=3),
            item("t", 5, most=5),
            item("t", 0, epoch=2),
            item("t", 6, most=5),
        ]
    )

    assert [each.data for each in await kept.read("t")] == [b"2-0"]
    assert len(await kept.read("u")) == 1


# How it is sent


async def test_a_batch_is_one_round_trip_unless_it_is_large(
    kept: RedisTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept.append([item("t", 0)])
    asked: list[int] = []
    real = Wire.ask

    def ask(wire: Wire, questions: bytes, count: int, patience: float) -> object:
        asked.append(count)
        return real(wire, questions, count, patience)

    monkeypatch.setattr(Wire, "ask", ask)

    await kept.append([item(f"t{n % 10}", n) for n in range(500)])
    monkeypatch.setattr(topics, "PART", 1000)
    await kept.append([item("parts", n, b"x" * 600) for n in range(3)])

    assert asked == [10, 1, 1, 1]
    assert len(await kept.read("parts")) == 3


async def test_the_script_is_sent_again_after_the_server_forgot_it(
    kept: RedisTopics, link: Link
) -> None:
    await kept.append([item("t", 1)])

    await link("SCRIPT", "FLUSH")
    await kept.append([item("t", 2), item("u", 1)])

    assert len(await kept.read("t")) == 2
    assert len(await kept.read("u")) == 1


async def test_what_the_server_never_takes_is_named(tmp_path: Path) -> None:
    with start_redis(tmp_path, "--proto-max-bulk-len", str(MIB)) as server:
        async with open_topics(server.url) as kept:
            with pytest.raises(BackendError, match=r"an item of a topic cannot be kept: .*1048577"):
                await kept.append([item("t", 1, b"x" * (MIB + 1))])


async def test_a_full_server_is_away_and_what_it_has_is_read(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        async with open_topics(server.url) as kept, asking(server.url) as link:
            await kept.append([item("t", 1)])
            await link("CONFIG", "SET", "maxmemory", "1")

            with pytest.raises(BackendUnavailable, match="its memory is full"):
                await kept.append([item("t", 2)])

            assert len(await kept.read("t")) == 1


# Who listens


async def test_all_who_listen_share_one_connection_which_ends_with_the_last(
    tmp_path: Path,
) -> None:
    with start_redis(tmp_path) as server:
        async with open_topics(server.url) as kept, asking(server.url) as link:
            for _ in range(2):
                async with AsyncExitStack() as stack, anyio.create_task_group() as group:
                    listening = [kept.listen(f"t{n % 10}") for n in range(50)]
                    for each in listening[:-1]:
                        group.start_soon(stack.enter_async_context, each)
                    ear = await stack.enter_async_context(listening[-1])
                    await until_subscribed(link, 1, 10)
                    await kept.append([item("t9", n) for n in range(3)])
                    await hear(ear)
                await until_subscribed(link, 0, 0)


async def test_who_leaves_is_told_of_nothing_while_others_still_are(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        async with (
            open_topics(server.url) as kept,
            asking(server.url) as link,
            kept.listen("stays") as stays,
        ):
            for _ in range(3):
                async with kept.listen("goes"), kept.listen("goes") as goes:
                    await until_subscribed(link, 1, 2)
                    await kept.append([item("goes", 1)])
                    await hear(goes)
                await kept.forget_topics(["goes"])
            await until_subscribed(link, 1, 1)
            await kept.append([item("stays", 1)])
            await hear(stays)


async def test_who_listens_hears_that_the_connection_was_lost_and_listens_anew(
    tmp_path: Path,
) -> None:
    with start_redis(tmp_path) as server:
        async with open_topics(server.url) as kept, asking(server.url) as link:
            async with kept.listen("t") as one, kept.listen("u") as other:
                await link("CLIENT", "KILL", "TYPE", "pubsub")
                for ear in (one, other):
                    with pytest.raises(BackendUnavailable):
                        await hear_for_ever(ear)
                async with kept.listen("t") as anew:
                    await kept.append([item("t", 1)])
                    await hear(anew)
                    await until_subscribed(link, 1, 1)
            await until_subscribed(link, 0, 0)


async def test_a_silent_connection_is_asked_for_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(hearing, "PING_EVERY", 0.05)
    monkeypatch.setattr(hearing, "PONG_TIMEOUT", 0.5)
    with start_redis(tmp_path) as server:
        async with open_topics(server.url) as kept, kept.listen("t") as ear:
            begun = anyio.current_time()
            while anyio.current_time() - begun < 1.0:
                await ear.wait()
            server.pause()
            try:
                with pytest.raises(BackendUnavailable):
                    await hear_for_ever(ear)
            finally:
                server.resume()


async def test_a_subscription_that_is_not_confirmed_is_no_hearing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_redis(tmp_path) as server:
        async with open_topics(server.url) as kept, kept.listen("t") as ear:
            monkeypatch.setattr(hearing, "CALL_TIMEOUT", 0.2)
            server.pause()
            try:
                with fail_after(PATIENCE), pytest.raises(BackendUnavailable):
                    await kept.listen("u").__aenter__()
            finally:
                server.resume()
            with pytest.raises(BackendUnavailable):
                await hear_for_ever(ear)


async def test_nobody_at_the_url_is_unavailable_to_who_wants_to_listen() -> None:
    async with open_topics("redis://127.0.0.1:1") as kept:
        with fail_after(PATIENCE), pytest.raises(BackendUnavailable):
            await kept.listen("t").__aenter__()


@pytest.mark.parametrize("right", ["publish", "subscribe"])
async def test_without_the_right_to_tell_or_to_be_told_items_are_read_late(
    tmp_path: Path, right: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "LONGEST_WAIT", 0.1)
    with start_redis(tmp_path) as server:
        async with asking(server.url) as root:
            await root("ACL", "SETUSER", "bob", *ALL, f"-{right}")
        url = server.url.replace("redis://", "redis://bob:secret@")
        async with open_topics(url) as kept:
            for number in range(1, 4):
                async with kept.listen("t") as ear, kept.listen("u"):
                    await kept.append([item("t", number), item("u", number)])
                    await hear(ear)
                    assert len(await kept.read("t")) == number

    assert warnings(caplog).count(f"does not let us {right} to channels") == 1
    assert f"+{right} &asyncq:topic:*" in warnings(caplog)


async def test_without_rights_on_channels_of_topics_all_else_goes_on(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        async with asking(server.url) as root:
            await root("ACL", "SETUSER", "bob", *ALL, "resetchannels")
        url = server.url.replace("redis://", "redis://bob:secret@")
        async with open_topics(url) as kept, kept.listen("t") as ear:
            await kept.append([item("t", 1)])
            await hear(ear)

            assert len(await kept.read("t")) == 1


async def test_what_anybody_tells_on_the_channel_is_no_item(
    kept: RedisTopics, link: Link, prefix: str
) -> None:
    async with kept.listen("t") as ear:
        for raw in (b"", b"\xc1", b"x" * MIB):
            await link("PUBLISH", f"{prefix}:topic:t", raw)
            await hear(ear)

        assert list(await kept.read("t")) == []


async def test_a_backend_that_is_left_ends_what_listens(redis_url: str) -> None:
    async with AsyncExitStack() as stack:
        async with open_topics(redis_url) as kept:
            ear = await stack.enter_async_context(kept.listen("t"))

        with fail_after(PATIENCE), pytest.raises(BackendUnavailable):
            await ear.wait()
