"""What every store promises of its entries: one writer wins, changes are heard, what has ended is
gone."""

import pytest
from anyio import create_task_group, current_time, fail_after
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncq.language.effects import Append, Arrive, Hold, Send
from asyncq.seams.backend import Backend
from asyncq.seams.ledger import Ledger
from asyncq.seams.registry import (
    EPOCH,
    MOST_CHANGES,
    Change,
    Entry,
    Registry,
    changes_of,
    read_change,
)
from asyncq.seams.topics import Place, Topics
from asyncq.testing.contracts.entries import KIND, Reader, Run, get, has_ended, heard, list_all, put
from asyncq.testing.contracts.given import FAR, PATIENCE, DriverFixtures, envelope, now
from asyncq.testing.contracts.ledger_model import ME
from asyncq.testing.contracts.model import OPERATIONS, SHARED, STEPS

MIB = 1024 * 1024


class RegistryContract(DriverFixtures):
    """Entries: put, removed, listed, ended and heard of."""

    @pytest.fixture
    def registry(self, backend: Backend) -> Registry:
        assert backend.offers.registry is not None
        return backend.offers.registry

    @pytest.fixture
    def other_registry(self, other_backend: Backend) -> Registry:
        assert other_backend.offers.registry is not None
        return other_backend.offers.registry

    @pytest.fixture
    def topics(self, backend: Backend) -> Topics:
        assert backend.offers.topics is not None
        return backend.offers.topics

    @pytest.fixture
    def ledger(self, backend: Backend) -> Ledger:
        assert backend.offers.ledger is not None
        return backend.offers.ledger

    async def test_an_entry_is_read_as_it_was_written(
        self, registry: Registry, other_registry: Registry
    ) -> None:
        written = {
            "empty": b"",
            "bytes": b"\x00\xff\n 1 2\n" * 100,
            "größer 🙂/{a}:b%s?*[ ": "größer 🙂".encode(),
            "x" * 300: b"x" * MIB,
        }
        entries = [await put(registry, name, data) for name, data in written.items()]

        assert entries == [
            Entry(KIND, name, number, data)
            for number, (name, data) in enumerate(written.items(), 1)
        ]
        for who in (registry, other_registry):
            assert list(await who.get(KIND, list(written))) == entries
        assert list(await registry.get(KIND, ["nobody's", "empty", ""])) == [None, entries[0], None]
        assert list(await registry.get(KIND, [])) == []
        assert await get(registry, "empty", "workers") is None

    async def test_only_who_has_read_what_stands_writes(
        self, registry: Registry, other_registry: Registry
    ) -> None:
        first = await put(registry, "a", b"1")
        assert await registry.put(KIND, "a", b"late", version=0, keep=None) is None

        second = await put(other_registry, "a", b"2", version=first.version)

        assert second.version > first.version
        for version in (0, first.version, second.version + 1):
            assert await registry.put(KIND, "a", b"late", version=version, keep=None) is None
        assert await registry.put(KIND, "nobody's", b"", version=1, keep=None) is None
        assert await get(registry, "a") == second
        assert await list_all(registry) == [second]

    async def test_of_many_who_write_at_once_one_wins(
        self, registry: Registry, other_registry: Registry, ledger: Ledger
    ) -> None:
        version, winners = 0, list[Entry]()
        for turn in range(5):
            won: list[Entry] = []

            async def write(number: int, version: int, turn: int, won: list[Entry]) -> None:
                who, latch = (registry, other_registry)[number % 2], f"{turn}-{number}"
                entry = await who.put(
                    KIND, "a", latch.encode(), version=version, keep=FAR, holds=[Hold(latch, ())]
                )
                if entry is not None:
                    won.append(entry)

            async with create_task_group() as group:
                for number in range(10):
                    group.start_soon(write, number, version, turn, won)
            winners += won
            version = winners[-1].version

        assert len(winners) == 5
        assert await get(registry, "a") == winners[-1]
        latches = [f"{turn}-{number}" for turn in range(5) for number in range(10)]
        states = await ledger.look(latches)
        held = [name for name, state in zip(latches, states, strict=True) if state is not None]
        assert held == [each.data.decode() for each in winners]

    async def test_holds_are_applied_exactly_if_the_entry_is_written(
        self, registry: Registry, ledger: Ledger
    ) -> None:
        sends = (Send(envelope(b"fired"), "default"), Send(envelope(b"again"), "default"))
        fires, waits = Hold("fires", (), sends[:1]), Hold("waits größer", ("p", "q"), sends)
        counted = Hold("counted", 2, sends[1:], sends[:1], "collect", until=now() + FAR)
        assert await registry.put(KIND, "a", b"1", version=7, keep=None, holds=[fires]) is None
        assert list(await ledger.look(["fires"])) == [None]

        entry = await put(registry, "a", b"1", holds=[fires, waits, counted])

        page = await ledger.unsent("fires", ME, is_failure=False)
        assert page is not None
        assert tuple(page.sends) == fires.sends
        arrives = [Arrive("waits größer", name, True) for name in ("p", "q")]
        arrives += [Arrive("counted", name, False) for name in ("0", "1")]
        assert list(await ledger.apply(arrives, ME)) == ["waits größer", "counted"]
        page = await ledger.unsent("waits größer", ME, is_failure=False)
        assert page is not None
        assert tuple(page.sends) == waits.sends
        # The first hold of a name stands, and the entry is written all the same.
        await put(registry, "a", b"2", version=entry.version, holds=[Hold("fires", (), sends)])
        page = await ledger.unsent("fires", ME, is_failure=False)
        assert page is not None
        assert tuple(page.sends) == fires.sends

    async def test_a_batch_of_holds_is_applied_in_one_step(
        self, registry: Registry, ledger: Ledger
    ) -> None:
        body = b"x" * 1000
        holds = [Hold(f"h{n}", (), (Send(envelope(body), "default"),)) for n in range(200)]

        await put(registry, "a", holds=holds)

        states = await ledger.look([each.latch for each in holds])
        assert [each and each.unsent for each in states] == [1] * len(holds)

    async def test_who_repeats_what_may_be_written_finds_its_data_under_a_later_version(
        self, registry: Registry, other_registry: Registry, ledger: Ledger
    ) -> None:
        before = await put(registry, "a", b"watermark 1")
        holds = [Hold("slot 2", (), (Send(envelope(b"fired"), "default"),))]

        async def move(who: Registry) -> Entry | None:
            return await who.put(
                KIND, "a", b"watermark 2", version=before.version, keep=None, holds=holds
            )

        await move(registry)  # the reply is lost

        assert await move(other_registry) is None

        stands = await get(registry, "a")
        assert stands is not None
        assert (stands.data, stands.version > before.version) == (b"watermark 2", True)
        [state] = await ledger.look(["slot 2"])
        assert state is not None
        assert state.unsent == 1

    async def test_what_is_removed_is_gone_and_its_versions_are_not_used_again(
        self, registry: Registry, other_registry: Registry
    ) -> None:
        first = await put(registry, "a", keep=FAR)
        assert not await registry.remove(KIND, "a", version=first.version + 1)
        assert not await registry.remove(KIND, "a", version=0)

        assert await other_registry.remove(KIND, "a", version=first.version)

        assert await get(registry, "a") is None
        assert await list_all(registry) == []
        for version in (None, first.version, 0):
            assert not await registry.remove(KIND, "a", version=version)
        assert await registry.put(KIND, "a", b"late", version=first.version, keep=None) is None
        second = await put(registry, "a")
        assert second.version > first.version
        assert await registry.remove(KIND, "a", version=None)
        assert not await registry.remove(KIND, "a", version=None)

    async def test_an_entry_ends_by_itself_at_its_time(
        self, registry: Registry, other_registry: Registry
    ) -> None:
        await put(registry, "stays")
        begun, before = current_time(), now()
        entry = await put(registry, "a", keep=0.3)
        assert entry.ends is not None
        assert before + 0.25 < entry.ends < now() + 0.35

        await has_ended(other_registry, "a")

        assert 0.25 < current_time() - begun < 3.0
        assert [each.name for each in await list_all(registry)] == ["stays"]
        assert not await registry.remove(KIND, "a", version=None)
        assert await registry.put(KIND, "a", b"", version=entry.version, keep=FAR) is None
        assert (await put(registry, "a")).version > entry.version

    async def test_who_puts_an_entry_again_moves_its_end(self, registry: Registry) -> None:
        longer = await put(registry, "longer", keep=0.5)
        longer = await put(registry, "longer", version=longer.version, keep=FAR)
        ever = await put(registry, "ever", keep=0.5)
        ever = await put(registry, "ever", version=ever.version, keep=None)
        shorter = await put(registry, "shorter", keep=FAR)
        shorter = await put(registry, "shorter", version=shorter.version, keep=0.7)

        await has_ended(registry, "shorter")

        assert await list_all(registry) == [ever, longer]

    async def test_entries_are_listed_by_name_in_pages(
        self, registry: Registry, other_registry: Registry
    ) -> None:
        names = ["10", "9", "A", "a", "a/b", "b", "größer", "~", "\uffff", "🙂"]
        for name in reversed(names):
            await put(registry, name)
        await put(registry, "of another kind", kind="workers")

        for limit in (1, 3, 10, 11):
            entries = await list_all(other_registry, limit=limit)
            assert [each.name for each in entries] == names
        page = await registry.list(KIND, after="a", limit=2)
        assert ([each.name for each in page.entries], page.after) == (["a/b", "b"], "b")
        page = await registry.list(KIND, after="abc", limit=100)
        assert (page.entries[0].name, page.after) == ("b", "")
        assert page.changes == len(names)
        page = await registry.list("nobodys")
        assert (list(page.entries), page.after, page.changes) == ([], "", 0)

    async def test_a_list_goes_on_past_many_that_have_ended(self, registry: Registry) -> None:
        for number in range(30):
            await put(registry, f"ended {number:02}", keep=0.001)
        await put(registry, "stays")

        await has_ended(registry, "ended 29")

        assert [each.name for each in await list_all(registry, limit=4)] == ["stays"]

    async def test_each_change_is_heard_in_order(
        self, registry: Registry, other_registry: Registry, topics: Topics
    ) -> None:
        first = await put(registry, "größer 🙂")
        await registry.put(KIND, "größer 🙂", b"", version=0, keep=None)
        second = await put(other_registry, "b", keep=FAR)
        third = await put(other_registry, "größer 🙂", version=first.version)
        await registry.remove(KIND, "b", version=None)
        await registry.remove(KIND, "b", version=None)
        await put(registry, "c", kind="workers")

        assert await heard(topics) == [
            (1, Change("größer 🙂", first.version)),
            (2, Change("b", second.version)),
            (3, Change("größer 🙂", third.version)),
            (4, Change("b", 0)),
        ]
        assert await heard(topics, "workers") == [(1, Change("c", 1))]
        assert (await registry.list(KIND)).changes == 4
        assert (first.version, second.version, third.version) == (1, 2, 3)

    async def test_who_listens_is_woken(
        self, registry: Registry, other_registry: Registry, topics: Topics
    ) -> None:
        count = 20
        seen = 0
        begun = current_time()

        async def change_in_turn() -> None:
            version = 0
            for turn in range(count):
                with fail_after(PATIENCE):
                    while seen < turn:
                        await checkpoint()
                version = (await put(other_registry, "a", version=version)).version

        async with topics.listen(changes_of(KIND)) as ear, create_task_group() as group:
            group.start_soon(change_in_turn)
            with fail_after(PATIENCE):
                while seen < count:
                    await ear.wait()
                    seen += len(await heard(topics, after=seen))

        assert current_time() - begun < count * 0.5

    async def test_changes_of_many_at_once_leave_no_number_out(
        self, registry: Registry, other_registry: Registry, topics: Topics
    ) -> None:
        async def write(who: Registry, writer: int) -> None:
            version = 0
            for _ in range(20):
                version = (await put(who, f"w{writer}", version=version)).version

        async with create_task_group() as group:
            for writer in range(4):
                group.start_soon(write, (registry, other_registry)[writer % 2], writer)

        changes = await heard(topics)
        assert [number for number, _ in changes] == list(range(1, 81))
        assert all(number == each.version for number, each in changes)

    async def test_who_lists_and_follows_the_changes_since_has_what_stands(
        self, registry: Registry, other_registry: Registry, topics: Topics
    ) -> None:
        names = [f"e{number}" for number in range(9)]
        for name in names:
            await put(registry, name)
        readers = [Reader(other_registry, topics) for _ in range(3)]

        async def change(name: str, who: Registry) -> None:
            entry = await get(who, name)
            for turn in range(10):
                if turn % 4 == 3:
                    await who.remove(KIND, name, version=None)
                    entry = None
                else:
                    version = 0 if entry is None else entry.version
                    entry = await put(who, name, b"%d" % turn, version=version)

        with fail_after(PATIENCE):
            async with create_task_group() as group:
                for number, name in enumerate(names):
                    group.start_soon(change, name, (registry, other_registry)[number % 2])
                for reader in readers:
                    group.start_soon(reader.follow, 9 * 11)

        stands = {each.name: each for each in await list_all(registry)}
        assert len(stands) == 9
        assert [reader.entries for reader in readers] == [stands] * 3

    async def test_a_reader_can_tell_what_it_has_missed(
        self, registry: Registry, topics: Topics
    ) -> None:
        version = 0
        for _ in range(MOST_CHANGES + 50):
            version = (await put(registry, "a", version=version)).version

        [(first, _), *others] = await heard(topics)

        assert (first, len(others)) == (51, MOST_CHANGES - 1)
        assert (await registry.list(KIND)).changes == version == MOST_CHANGES + 50

    async def test_numbers_go_on_where_the_history_is_forgotten(
        self, registry: Registry, topics: Topics
    ) -> None:
        await put(registry, "a")
        await topics.forget_topics([changes_of(KIND)])

        await put(registry, "b")

        assert await heard(topics) == [(2, Change("b", 2))]

    async def test_what_others_wrote_into_the_topic_refuses_no_change(
        self, registry: Registry, topics: Topics
    ) -> None:
        topic = changes_of(KIND)
        await put(registry, "a")
        for name, epoch, number in (("b", EPOCH + 1, 7), ("c", EPOCH, 10**9)):
            await topics.append([Append(topic, epoch, number, b"\xff not ours", FAR, 10)])

            entry = await put(registry, name)

            assert await get(registry, name) == entry
            [item] = await topics.read(topic)
            assert item.place == Place(EPOCH, entry.version)
            assert read_change(item) == Change(name, entry.version)

    @settings(SHARED, max_examples=max(1, OPERATIONS // STEPS))
    @given(st.data())
    async def test_any_operations_agree_with_a_model(
        self, registry: Registry, other_registry: Registry, topics: Topics, data: st.DataObject
    ) -> None:
        with fail_after(60.0):
            await Run([registry, other_registry], topics, data).play()
