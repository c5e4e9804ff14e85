"""What every store promises of its latches: what they release, when, and that nothing is lost."""

import pytest
from anyio import create_task_group, fail_after, sleep
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncq.language.effects import Arrive, Hold, Send
from asyncq.language.message import derived_id, new_id
from asyncq.seams.ledger import FAILED, OK, PENDING, Ledger, Unsent
from asyncq.testing.contracts.given import (
    PATIENCE,
    full_envelope,
    now,
)
from asyncq.testing.contracts.ledger_model import ME, LedgerRun, send, send_all
from asyncq.testing.contracts.model import OPERATIONS, SHARED, STEPS
from asyncq.testing.contracts.senders import SendersContract

MIB = 1024 * 1024


class LedgerContract(SendersContract):
    """Latches: held, arrived at, released, failed, over, looked at and forgotten."""

    async def test_the_last_part_releases_what_is_held_as_it_was(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        sends = (Send(full_envelope(), "default"), Send(full_envelope(), "other"))
        assert list(await ledger.apply([Hold(latch, ("a", "b"), sends)], ME)) == []

        assert list(await other_ledger.apply([Arrive(latch, "a", True)], ME)) == []
        assert await ledger.unsent(latch, ME, is_failure=False) is None
        before = now()
        assert list(await ledger.apply([Arrive(latch, "b", True)], ME)) == [latch]

        page = await other_ledger.unsent(latch, ME, is_failure=False)
        assert page is not None
        assert before - 0.1 <= page.released_at <= now() + 0.1
        at = page.released_at
        assert page == Unsent(latch, False, 0, page.sends, at, 2)
        assert tuple(page.sends) == sends

    async def test_what_has_no_parts_is_released_at_once(self, ledger: Ledger, latch: str) -> None:
        assert list(await ledger.apply([Hold(latch, (), (send(b"1"),))], ME)) == [latch]
        assert await send_all(ledger, latch) == [b"1"]

        assert list(await ledger.apply([Hold(latch + "2", 0, (send(b"2"),))], ME)) == [latch + "2"]
        assert await send_all(ledger, latch + "2") == [b"2"]

    async def test_an_arrival_counts_once(self, ledger: Ledger, latch: str) -> None:
        await ledger.apply([Hold(latch, ("a", "b"), (send(),))], ME)
        for _ in range(3):
            assert list(await ledger.apply([Arrive(latch, "a", True, b"first")], ME)) == []
        await ledger.apply([Arrive(latch, "a", False, b"late")], ME)

        [state] = await ledger.look([latch])
        assert state is not None
        assert (state.missing, state.failed, state.is_released) == (1, 0, False)
        [part] = await ledger.parts(latch, ["a"])
        assert part is not None
        assert (part.state, part.value) == (OK, b"first")

    async def test_numbered_parts_need_no_names(self, ledger: Ledger, latch: str) -> None:
        await ledger.apply([Hold(latch, 3, (send(),))], ME)
        for stray in ("3", "-1", "01", "²", "1.0", "", " 1", "9" * 40):
            assert list(await ledger.apply([Arrive(latch, stray, True)], ME)) == []
        await ledger.apply([Arrive(latch, "0", True, b"zero"), Arrive(latch, "2", True)], ME)
        [state] = await ledger.look([latch])
        assert state is not None
        assert state.missing == 1

        assert list(await ledger.apply([Arrive(latch, "1", True)], ME)) == [latch]

        found = await ledger.parts(latch, ["0", "1", "7"])
        assert [None if each is None else each.value for each in found] == [b"zero", b"", None]

    async def test_the_first_failure_sends_at_once_and_success_heals_it(
        self, ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, ("a", "b", "c"), (send(b"body"),), (send(b"failed"),))], ME)

        assert list(await ledger.apply([Arrive(latch, "a", False, b"why")], ME)) == [latch]
        assert await send_all(ledger, latch) == [b"failed"]
        for part, ok in (("a", False), ("b", False), ("c", True)):
            assert list(await ledger.apply([Arrive(latch, part, ok)], ME)) == []
        [state] = await ledger.look([latch])
        assert state is not None
        assert (state.missing, state.failed) == (0, 2)
        assert (state.has_failed, state.is_released) == (True, False)

        assert list(await ledger.apply([Arrive(latch, "a", True, b"healed")], ME)) == []
        assert list(await ledger.apply([Arrive(latch, "b", True)], ME)) == [latch]
        assert await send_all(ledger, latch) == [b"body"]
        [part] = await ledger.parts(latch, ["a"])
        assert part is not None
        assert part.value == b"healed"

    async def test_a_latch_may_take_failures_as_ends(self, ledger: Ledger, latch: str) -> None:
        held = Hold(latch, ("a", "b"), (send(b"body"),), (send(b"never"),), "collect")
        await ledger.apply([held, Arrive(latch, "a", False, b"why")], ME)
        assert await ledger.unsent(latch, ME, is_failure=False) is None

        assert list(await ledger.apply([Arrive(latch, "b", True)], ME)) == [latch]

        assert await send_all(ledger, latch) == [b"body"]
        [part] = await ledger.parts(latch, ["a"])
        assert part is not None
        assert (part.state, part.value) == (FAILED, b"why")

    async def test_a_part_may_add_others_as_it_arrives(self, ledger: Ledger, latch: str) -> None:
        await ledger.apply([Hold(latch, ("a",), (send(),))], ME)
        assert list(await ledger.apply([Arrive(latch, "a", True, adds=("b", "c", "b"))], ME)) == []
        await ledger.apply([Arrive(latch, "a", True, adds=("late",))], ME)
        [state] = await ledger.look([latch])
        assert state is not None
        assert state.missing == 2
        assert list(await ledger.parts(latch, ["late"])) == [None]

        assert list(await ledger.apply([Arrive(latch, "b", True)], ME)) == []
        assert list(await ledger.apply([Arrive(latch, "c", True)], ME)) == [latch]

    async def test_children_that_are_quicker_than_their_parents_count_from_when_they_are_added(
        self, ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, ("a",), (send(),))], ME)
        early = [Arrive(latch, "child", True, b"v", ("grandchild",))]
        early += [Arrive(latch, "grandchild", True, adds=("last",))]
        assert list(await ledger.apply(early, ME)) == []
        [part] = await ledger.parts(latch, ["child"])
        assert part is not None
        assert not part.is_member

        await ledger.apply([Arrive(latch, "a", True, adds=("child",))], ME)

        found = await ledger.parts(latch, ["child", "grandchild", "last"])
        states = [(part.state, part.is_member) for part in found if part is not None]
        assert states == [(OK, True), (OK, True), (PENDING, True)]
        assert list(await ledger.apply([Arrive(latch, "last", True)], ME)) == [latch]

    async def test_an_early_failure_counts_when_it_is_added(
        self, ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, ("a",), (send(),), (send(b"failed"),))], ME)
        assert list(await ledger.apply([Arrive(latch, "child", False)], ME)) == []

        assert list(await ledger.apply([Arrive(latch, "a", True, adds=("child",))], ME)) == [latch]

        assert await send_all(ledger, latch) == [b"failed"]

    async def test_nothing_arrives_where_there_is_no_latch(
        self, ledger: Ledger, latch: str
    ) -> None:
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == []
        assert list(await ledger.look([latch])) == [None]
        assert list(await ledger.parts(latch, ["a"])) == [None]
        assert await ledger.unsent(latch, ME, is_failure=False) is None
        assert list((await ledger.missing(latch)).ids) == []
        await ledger.confirm(Unsent(latch, False, 0, [send()], now(), 1))
        await ledger.forget_latches([latch])
        await ledger.forget_latches([])
        assert list(await ledger.apply([], ME)) == []
        assert list(await ledger.look([])) == []

    async def test_a_latch_whose_time_is_over_fails_and_takes_nothing_any_more(
        self, ledger: Ledger, latch: str
    ) -> None:
        until = now() + 0.2
        held = Hold(latch, ("a",), (send(b"body"),), (send(b"late"),), until=until)
        assert list(await ledger.apply([held], ME)) == []

        assert await self.told(ledger, latch, 0.0)

        assert now() >= until - 0.05
        await ledger.apply([Arrive(latch, "a", True)], ME)
        assert await send_all(ledger, latch) == [b"late"]
        [state] = await ledger.look([latch])
        assert state is not None
        assert state.is_over
        assert not state.is_released

    async def test_what_comes_after_its_time_is_late_though_nobody_has_looked(
        self, ledger: Ledger, latch: str
    ) -> None:
        held = Hold(latch, ("a",), (send(b"body"),), (send(b"late"),), until=now() - 1.0)
        await ledger.apply([held], ME)

        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == [latch]

        assert await send_all(ledger, latch) == [b"late"]

    async def test_one_that_sends_nothing_on_failure_is_over_all_the_same(
        self, ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, ("a",), (send(),), until=now() + 0.2)], ME)
        await ledger.apply([Arrive(latch, "b", True)], ME)
        assert latch not in [each.latch for each in await ledger.due(ME)]

        assert not await self.told(ledger, latch, 0.0)

        [state] = await ledger.look([latch])
        assert state is not None
        assert (state.is_over, state.unsent) == (True, 0)

    async def test_who_is_missing_is_told_with_the_ids_of_their_messages(
        self, ledger: Ledger, latch: str
    ) -> None:
        root = new_id()
        await ledger.apply([Hold(latch, 5, (send(),), root=root)], ME)
        await ledger.apply([Arrive(latch, "3", True, adds=("added", "early"))], ME)
        await ledger.apply([Arrive(latch, "early", False), Arrive(latch, "stray", True)], ME)

        found = await self.all_missing(ledger, latch, 2)

        numbered = {(name, derived_id(root, name)) for name in ("0", "1", "2", "4")}
        assert found == numbered | {("added", "added")}

    async def test_of_numbered_parts_without_a_root_nobody_knows_the_messages(
        self, ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, 5, (send(),)), Arrive(latch, "1", True, adds=("x",))], ME)

        assert await self.all_missing(ledger, latch, 2) == {("x", "x")}

    async def all_missing(self, ledger: Ledger, latch: str, limit: int) -> set[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        cursor = None
        with fail_after(PATIENCE):
            while cursor != "":
                missing = await ledger.missing(latch, cursor or "", limit)
                found += missing.ids
                cursor = missing.cursor
        return set(found)

    async def test_a_closed_latch_is_remembered_for_its_time(
        self, ledger: Ledger, latch: str
    ) -> None:
        names = [latch + kind for kind in ("released", "failed", "open", "unsent")]
        holds = [Hold(name, ("a",), (send(),), keep=0.3) for name in names]
        holds[1] = Hold(names[1], ("a",), keep=0.3)
        await ledger.apply(holds, ME)
        arrivals = [Arrive(names[0], "a", True), Arrive(names[1], "a", False)]
        await ledger.apply([*arrivals, Arrive(names[3], "a", True)], ME)
        await send_all(ledger, names[0])
        assert None not in await ledger.look(names)

        await sleep(0.6)
        await ledger.apply([Hold(new_id(), ("a",), keep=0.1)], ME)  # others come and go

        states = await ledger.look(names)
        assert [state is None for state in states] == [True, True, False, False]
        assert await send_all(ledger, names[3]) == [b"hello"]

    async def test_what_was_forgotten_may_be_held_anew(self, ledger: Ledger, latch: str) -> None:
        await ledger.apply([Hold(latch, ("a", "b"), (send(b"old"),), (send(b"old failed"),))], ME)
        await ledger.apply([Arrive(latch, "a", True), Arrive(latch, "early", True)], ME)
        await ledger.forget_latches([latch])
        assert list(await ledger.look([latch])) == [None]

        await ledger.apply([Hold(latch, ("a",), (send(b"new"),))], ME)

        assert list(await ledger.parts(latch, ["b", "early"])) == [None, None]
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == [latch]
        assert await send_all(ledger, latch) == [b"new"]

    @pytest.mark.parametrize("until", [float("inf"), float("nan"), 1e18])
    async def test_a_time_that_never_comes_is_none(
        self, ledger: Ledger, latch: str, until: float
    ) -> None:
        await ledger.apply([Hold(latch, ("a",), (send(),), until=until)], ME)
        assert latch not in [each.latch for each in await ledger.due(ME)]
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == [latch]

    async def test_what_arrives_at_a_closed_latch_ends_with_it(
        self, ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, (), keep=0.3)], ME)
        await ledger.apply([Arrive(latch, "stray", True)], ME)
        await sleep(0.6)
        assert list(await ledger.parts(latch, ["stray"])) == [None]
        await ledger.apply([Hold(latch, ("stray",), (send(),))], ME)
        assert list(await ledger.apply([Arrive(latch, "stray", True)], ME)) == [latch]

    async def test_parts_that_arrive_at_once_release_once(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        count = 200
        await ledger.apply([Hold(latch, count, (send(b"body"),))], ME)
        heard: list[tuple[str, str]] = []

        async def arrive(who: Ledger, start: int) -> None:
            sender = f"sender {start}"
            for number in range(start, count, 4):
                found = await who.apply([Arrive(latch, str(number), True)], sender)
                heard.extend((sender, each) for each in found)

        async with create_task_group() as group:
            for start in range(4):
                group.start_soon(arrive, (ledger, other_ledger)[start % 2], start)

        [(sender, name)] = heard
        assert name == latch
        assert await send_all(ledger, latch, sender) == [b"body"]

    async def test_values_are_as_they_were(self, ledger: Ledger, latch: str) -> None:
        values = {"a": b"\x00\xff" * 100, "b": b"x" * MIB, "größer 🙂": b""}
        await ledger.apply([Hold(latch, tuple(values))], ME)
        await ledger.apply([Arrive(latch, name, True, each) for name, each in values.items()], ME)

        found = await ledger.parts(latch, list(values))

        assert [None if part is None else part.value for part in found] == list(values.values())

    @settings(SHARED, max_examples=max(1, OPERATIONS // STEPS))
    @given(st.data())
    async def test_any_operations_agree_with_a_model(
        self, ledger: Ledger, other_ledger: Ledger, data: st.DataObject
    ) -> None:
        with fail_after(60.0):
            await LedgerRun([ledger, other_ledger], data).play()
