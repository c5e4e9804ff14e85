"""Doomed messages where all can be seen: in the memory driver and the SQLite driver.

What every broker promises of them is in `DoomedContract`.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from anyio import create_task_group, fail_after

from asyncq.config import Url
from asyncq.drivers.sqlite import admin, lines
from asyncq.drivers.sqlite.broker import SqliteBroker
from asyncq.language.envelope import Envelope
from asyncq.language.message import End, Status
from asyncq.language.topology import Queue
from asyncq.seams.broker import PURGED, WAITED_TOO_LONG, Ack, Nack, Reject
from asyncq.testing.contracts import DriverFixtures, FullBroker
from asyncq.testing.contracts.given import (
    FAR,
    MAIL,
    PATIENCE,
    bodies_of,
    end_lease,
    envelope,
    envelopes,
    ids_of,
    make_suspects,
    new_lease,
    now,
    sweep,
    take,
)
from tests.contracts.sqlite_given import broker, path, url

__all__ = ["broker", "path", "url"]  # fixtures

ENDS = (End("latch", "part"),)
SOON = 0.05  # seconds


class Doomed(DriverFixtures):
    """What the two have in common, since both know where each message is."""

    async def test_a_suspect_that_is_purged_stays_one(self, broker: FullBroker) -> None:
        await make_suspects(broker, envelopes(2, ends=ENDS))

        assert await broker.purge(MAIL.name) == 2
        assert await broker.purge(MAIL.name) == 0
        async with broker.consume(MAIL, new_lease()) as consumer:
            first = await take(consumer, 1)
            assert list(await consumer.receive(10)) == [], "it is alone in the quarantine"
            await consumer.settle([Ack(first[0])])
            second = await take(consumer, 1)
        assert bodies_of([*first, *second]) == [b"0", b"1"]
        assert all(each.suspect and each.verdict.startswith(PURGED) for each in [*first, *second])

    async def test_one_that_a_worker_was_lost_with_is_a_suspect(self, broker: FullBroker) -> None:
        await _doom(broker, envelopes(2, ends=ENDS))
        lease = new_lease()
        async with broker.consume(MAIL, lease) as consumer:
            assert not any(each.suspect for each in await take(consumer, 2))
            await end_lease(broker, lease)
            await sweep(broker, 2)

        assert await broker.purge(MAIL.name) == 0
        async with broker.consume(MAIL, new_lease(alone_from=5)) as consumer:
            taken = await take(consumer, 2)
        assert [(each.suspect, each.crashes, bool(each.verdict)) for each in taken] == [
            (True, 1, True)
        ] * 2

    async def test_a_purge_leaves_one_that_is_delayed(self, broker: FullBroker) -> None:
        [sent] = await _doom(broker, envelopes(1, ends=ENDS))
        async with broker.consume(MAIL, new_lease()) as consumer:
            [delivery] = await take(consumer, 1)
            await consumer.settle([Nack(delivery, FAR)])
            await broker.publish([envelope(eta=now() + FAR)])

            assert await broker.purge(MAIL.name) == 1
            assert list(await broker.find([sent.id])) == [Status.SCHEDULED]
            assert list(await consumer.receive(10)) == []
        assert (await broker.depth(MAIL.name)).delayed == 1

    async def test_who_waits_is_woken_by_a_purge(self, broker: FullBroker) -> None:
        await broker.publish(envelopes(1, ends=ENDS, eta=now() + FAR))

        async with broker.consume(MAIL, new_lease()) as consumer, create_task_group() as group:
            group.start_soon(broker.purge, MAIL.name)
            assert (await take(consumer, 1))[0].verdict

    async def test_it_leaves_its_room_to_the_new(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, max_length=2)])
        await _doom(broker, envelopes(2, ends=ENDS))

        await broker.publish(envelopes(2))

        assert (await broker.depth(MAIL.name)).ready == 4

    async def test_it_does_not_wait_too_long(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, ttl=SOON)])
        await _doom(broker, envelopes(2, ends=ENDS))
        end = now() + SOON

        async with broker.consume(MAIL, new_lease()) as consumer:
            taken = await take(consumer, 1)
            await consumer.settle([Nack(taken[0], 1.5 * SOON)])
            with fail_after(PATIENCE):
                while now() <= end:
                    await consumer.receive(0)
            taken = await take(consumer, 2)
        assert all(each.verdict.startswith(PURGED) for each in taken)

    async def test_many_that_waited_too_long_all_come(self, broker: FullBroker) -> None:
        await broker.declare([Queue(MAIL.name, ttl=SOON)])
        late = [envelope(ends=ENDS, priority=number % 10) for number in range(50)]
        await broker.publish([each for one in late for each in (*envelopes(3), one)])
        end = now() + SOON

        async with broker.consume(MAIL, new_lease()) as consumer:
            with fail_after(PATIENCE):
                while now() <= end:
                    await consumer.receive(0)
            taken = await take(consumer, 50)
            assert list(await consumer.receive(10)) == []
        assert sorted(ids_of(taken)) == sorted(ids_of(late))
        assert all(each.verdict.startswith(WAITED_TOO_LONG) for each in taken)
        assert (await broker.depth(MAIL.name)).dead == 150

    async def test_they_are_shown_in_the_order_in_which_they_come(self, broker: FullBroker) -> None:
        await _doom(broker, [envelope(b"1", ends=ENDS), envelope(b"0", ends=ENDS, priority=9)])
        await broker.publish([envelope(b"2", priority=9)])

        seen = [each.envelope.body for each in await broker.peek(MAIL.name)]
        async with broker.consume(MAIL, new_lease()) as consumer:
            assert bodies_of(await take(consumer, 3)) == seen == [b"0", b"1", b"2"]


class TestMemory(Doomed):
    scheme = "memory"

    @pytest.fixture
    def url(self, tmp_path: Path) -> Url:
        return Url(f"memory://{tmp_path}")


class TestSqlite(Doomed):
    scheme = "sqlite"

    @pytest.fixture
    def url(self, tmp_path: Path) -> Url:
        return Url(f"sqlite:///{tmp_path}/asyncq.db")


# What other hands put into the file


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe", "", "text", 17])
async def test_whatever_is_said_as_a_verdict_is_delivered_as_text(
    broker: SqliteBroker, path: Path, garbage: Any
) -> None:
    [sent] = await _doom(broker, envelopes(1, ends=ENDS))
    _spoil(path, "UPDATE messages SET verdict = ?", garbage)

    async with broker.consume(MAIL, new_lease()) as consumer:
        [delivery] = await take(consumer, 1)
        await consumer.settle([Reject(delivery, delivery.verdict)])

    raw = garbage if isinstance(garbage, bytes) else str(garbage).encode()
    assert delivery.verdict == raw.decode(errors="replace")
    [letter] = await broker.dead_letters(MAIL.name)
    assert letter.envelope == sent


@pytest.mark.parametrize("garbage", [b"", b"\xc1\x00garbage", b"\x81\xa2id\x01", "text", 17])
async def test_what_is_no_envelope_is_purged(
    broker: SqliteBroker, path: Path, garbage: Any
) -> None:
    await broker.publish(envelopes(2, ends=ENDS))
    _spoil(path, "UPDATE messages SET envelope = ? WHERE seq = 1", garbage)

    assert await broker.purge(MAIL.name) == 2
    async with broker.consume(MAIL, new_lease()) as consumer:
        assert bodies_of(await consumer.receive(10)) == [b"1"]


async def test_what_is_no_envelope_any_more_keeps_its_verdict(
    broker: SqliteBroker, path: Path
) -> None:
    await _doom(broker, envelopes(1, ends=ENDS))
    _spoil(path, "UPDATE messages SET envelope = ?", b"\xc1")

    async with broker.consume(MAIL, new_lease()) as consumer:
        [delivery] = await take(consumer, 1)
    assert delivery.verdict.startswith(PURGED)
    assert delivery.envelope.body == b"\xc1"


async def test_a_place_without_a_message_wedges_nothing(broker: SqliteBroker, path: Path) -> None:
    await _doom(broker, [envelope(id="gone", ends=ENDS), envelope(b"doomed", ends=ENDS)])
    await broker.publish([envelope(id="gone, too", ends=ENDS), envelope(b"ready")])
    _spoil(path, "DELETE FROM messages WHERE id LIKE ?", "gone%")

    async with broker.consume(MAIL, new_lease()) as consumer:
        assert bodies_of(await take(consumer, 2)) == [b"doomed", b"ready"]
        assert list(await consumer.receive(10)) == []

    await broker.publish([envelope(id="gone, too")])
    _spoil(path, "DELETE FROM messages WHERE id LIKE ?", "gone%")
    await broker.purge(MAIL.name)
    assert (await broker.depth(MAIL.name)).ready == 1, "what is doomed"


async def test_a_verdict_and_a_place_that_do_not_match_lose_nothing(
    broker: SqliteBroker, path: Path
) -> None:
    await broker.publish([envelope(b"first"), envelope(b"second")])
    _spoil(path, "UPDATE messages SET verdict = ? WHERE seq = 1", "odd")
    _spoil(path, "UPDATE ready SET rank = ? WHERE seq = 2", lines.DOOMED)

    assert await broker.purge(MAIL.name) == 0
    async with broker.consume(MAIL, new_lease()) as consumer:
        taken = await take(consumer, 2)
    assert [(each.envelope.body, each.verdict) for each in taken] == [
        (b"second", ""),
        (b"first", "odd"),
    ]


# Transactions


async def test_a_purge_dooms_a_bounded_number_at_a_time(
    broker: SqliteBroker, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "PURGE_BITE", 4)
    await broker.publish([*envelopes(3, ends=ENDS), *envelopes(3)])
    await broker.publish(envelopes(4, ends=ENDS, eta=now() + FAR))

    with closing(sqlite3.connect(path)) as file, file:
        bites = [admin.purge_some(file, MAIL.name) for _ in range(4)]

    assert bites == [4, 4, 2, 0]
    async with broker.consume(MAIL, new_lease()) as consumer:
        taken = await take(consumer, 7)
    assert bodies_of(taken) == [b"0", b"1", b"2", b"0", b"1", b"2", b"3"]


async def _doom(broker: FullBroker, sent: list[Envelope]) -> list[Envelope]:
    await broker.publish(sent)
    assert await broker.purge(MAIL.name) == len(sent)
    return sent


def _spoil(path: Path, statement: str, value: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(statement, (value,))
