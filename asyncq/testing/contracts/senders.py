"""What every store promises of who sends what a latch has released: one at a time, and somebody."""

import pytest
from anyio import create_task_group, current_time, fail_after, sleep

from asyncq.language.effects import Arrive, Hold
from asyncq.language.message import new_id
from asyncq.seams.backend import Backend
from asyncq.seams.ledger import SENDER_AWAY, Ledger
from asyncq.testing.contracts.given import (
    PATIENCE,
    DriverFixtures,
    now,
)
from asyncq.testing.contracts.ledger_model import ME, OTHER, send, send_all, send_line


class SendersContract(DriverFixtures):
    """Latches with something unsent: whose that is, for how long, and in which pages."""

    @pytest.fixture
    def ledger(self, backend: Backend) -> Ledger:
        assert backend.offers.ledger is not None
        return backend.offers.ledger

    @pytest.fixture
    def other_ledger(self, other_backend: Backend) -> Ledger:
        assert other_backend.offers.ledger is not None
        return other_backend.offers.ledger

    @pytest.fixture
    def latch(self) -> str:
        return f"latch {new_id()} größer/🙂"

    async def told(self, ledger: Ledger, latch: str, lease: float, sender: str = ME) -> bool:
        """Look until this one is due; returns whether it has something unsent."""
        with fail_after(PATIENCE):
            while True:
                for due in await ledger.due(sender, lease=lease):
                    if due.latch == latch:
                        return due.has_unsent
                await sleep(0.05)

    async def test_a_sender_that_comes_again_hears_what_is_unsent_until_it_is_confirmed(
        self, ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, ("a",), (send(b"1"),))], ME)
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == [latch]
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == [latch]
        assert list(await ledger.apply([Hold(latch, ("a",), (send(b"other"),))], ME)) == [latch]

        assert await send_all(ledger, latch) == [b"1"]

        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == []
        assert list(await ledger.apply([Hold(latch, ("a",), (send(b"other"),))], ME)) == []
        assert await ledger.unsent(latch, ME, is_failure=False) is None

    async def test_who_releases_is_the_one_sender(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        held = Hold(latch, ("a",), tuple(map(send, (b"1", b"2"))))
        assert list(await ledger.apply([held], OTHER)) == []
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == [latch]

        for again in (held, Arrive(latch, "a", True), Arrive(latch, "b", False)):
            assert list(await other_ledger.apply([again], OTHER)) == []
        assert await send_all(other_ledger, latch, OTHER) == []
        assert latch not in [each.latch for each in await other_ledger.due(OTHER)]
        first = await ledger.unsent(latch, ME, is_failure=False, limit=1)
        assert first is not None
        await ledger.confirm(first)
        assert await send_all(other_ledger, latch, OTHER) == []

        assert await send_all(ledger, latch, ME) == [b"2"]
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == []

    async def test_of_two_who_release_at_once_one_is_the_sender(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        heard: list[tuple[str, str]] = []

        async def hold(who: Ledger, sender: str, name: str) -> None:
            found = await who.apply([Hold(name, (), (send(),)), Arrive(name, "a", True)], sender)
            heard.extend((each, sender) for each in found)

        names = [f"{latch} {number}" for number in range(20)]
        async with create_task_group() as group:
            for name in names:
                group.start_soon(hold, ledger, ME, name)
                group.start_soon(hold, other_ledger, OTHER, name)

        assert sorted(name for name, _ in heard) == sorted(names)
        for name, sender in heard:
            assert await send_all(ledger, name, OTHER if sender == ME else ME) == []
            assert await send_all(ledger, name, sender) == [b"hello"]

    async def test_the_sender_of_one_line_is_that_of_what_the_other_releases_meanwhile(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, ("a",), (send(b"body"),), (send(b"failed"),))], OTHER)
        assert list(await ledger.apply([Arrive(latch, "a", False)], ME)) == [latch]
        assert list(await other_ledger.apply([Arrive(latch, "a", True)], OTHER)) == []
        assert await send_all(other_ledger, latch, OTHER) == []

        assert await send_all(ledger, latch, ME) == [b"failed", b"body"]

    async def test_who_releases_where_all_is_sent_is_the_sender(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, ("a",), (send(b"body"),), (send(b"failed"),))], ME)
        await ledger.apply([Arrive(latch, "a", False)], ME)
        assert await send_all(ledger, latch, ME) == [b"failed"]

        assert list(await other_ledger.apply([Arrive(latch, "a", True)], OTHER)) == [latch]

        assert await send_all(ledger, latch, ME) == []
        assert await send_all(other_ledger, latch, OTHER) == [b"body"]

    async def test_what_is_sent_on_failure_holds_up_nothing_that_a_success_releases(
        self, ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, ("a",), (send(b"body"),), (send(b"failed"),))], ME)
        await ledger.apply([Arrive(latch, "a", False), Arrive(latch, "a", True)], ME)

        assert await send_line(ledger, latch, is_failure=False) == [b"body"]
        [state] = await ledger.look([latch])
        assert state is not None
        assert state.unsent == 1
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == [latch]

        assert await send_line(ledger, latch, is_failure=True) == [b"failed"]
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == []

    async def test_what_nobody_sends_is_told_to_one_at_a_time(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        fresh = f"{latch} fresh"
        await ledger.apply([Hold(fresh, (), (send(),))], ME)
        assert fresh not in [each.latch for each in await ledger.due(ME)]  # who caused it sends it
        await ledger.apply([Hold(latch, ("a",), (), (send(),), until=now() - 1.0)], ME)

        assert await self.told(ledger, latch, 0.5)
        told_at = current_time()
        assert latch not in [each.latch for each in await other_ledger.due(OTHER, lease=0.0)]
        assert await self.told(other_ledger, latch, 0.0, OTHER)
        assert current_time() - told_at > 0.3

        await send_all(ledger, latch)
        assert latch not in [each.latch for each in await other_ledger.due(ME)]

    async def test_a_sender_that_is_silent_is_followed_by_who_comes_next(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        for number, come in enumerate(("bring", "ask", "look")):
            name = f"{latch} {come}"
            failing = tuple(send(str(n).encode()) for n in range(3))
            await ledger.apply([Hold(name, ("a",), (), failing, until=now() - 1.0)], ME)
            assert await self.told(ledger, name, 0.5, ME)
            assert list(await other_ledger.apply([Arrive(name, "a", True)], OTHER)) == []
            assert await send_all(other_ledger, name, OTHER) == []
            await sleep(0.6)

            match come:
                case "bring":
                    assert list(await other_ledger.apply([Arrive(name, "a", True)], OTHER)) == [
                        name
                    ]
                case "ask":
                    page = await other_ledger.unsent(name, OTHER, is_failure=True, limit=1)
                    assert page is not None
                    await other_ledger.confirm(page)
                case _:
                    assert await self.told(other_ledger, name, 60.0, OTHER)

            assert list(await ledger.apply([Arrive(name, "a", True)], ME)) == []
            assert await send_all(ledger, name, ME) == []
            left = [b"0", b"1", b"2"][number == 1 :]
            assert await send_all(other_ledger, name, OTHER) == left

    async def test_what_a_sender_asks_for_prolongs_its_time(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        names = [f"{latch} {is_failure}" for is_failure in (True, False)]
        for name in names:
            await ledger.apply([Hold(name, ("a",), (), (send(b"late"),), until=now() - 1.0)], ME)
            assert await self.told(ledger, name, 0.3, ME)
            # Also by asking for the line that has nothing.
            await ledger.unsent(name, ME, is_failure=name == names[0])

        await sleep(0.5)

        for name in names:
            assert list(await other_ledger.apply([Arrive(name, "a", True)], OTHER)) == []
            assert await send_all(other_ledger, name, OTHER) == []
        assert not {*names} & {each.latch for each in await other_ledger.due(OTHER)}

    async def test_what_others_bring_prolongs_no_senders_time(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        count = int(4 * (SENDER_AWAY + PATIENCE))
        await ledger.apply([Hold(latch, count, (), (send(b"1"), send(b"2")))], ME)
        assert list(await ledger.apply([Arrive(latch, "0", False)], ME)) == [latch]
        released_at = current_time()
        page = await ledger.unsent(latch, ME, is_failure=True, limit=1)
        assert page is not None

        for number in range(1, count):
            if await other_ledger.apply([Arrive(latch, str(number), True)], OTHER):
                break
            if number == 1:
                await other_ledger.confirm(page)
            await sleep(0.25)

        assert SENDER_AWAY - 0.1 < current_time() - released_at < SENDER_AWAY + 2.0
        await ledger.confirm(page)  # late, and once more
        assert await send_all(ledger, latch, ME) == []
        assert await send_all(other_ledger, latch, OTHER) == [b"2"]

    async def test_a_release_is_sent_in_pages_and_goes_on_where_it_was_left(
        self, ledger: Ledger, other_ledger: Ledger, latch: str
    ) -> None:
        bodies = [str(number).encode() for number in range(250)]
        await ledger.apply([Hold(latch, (), tuple(map(send, bodies)))], ME)

        first = await ledger.unsent(latch, ME, is_failure=False)
        assert first is not None
        assert [each.envelope.body for each in first.sends] == bodies[:100]
        assert await ledger.unsent(latch, ME, is_failure=False) == first, "nobody has confirmed it"
        await ledger.confirm(first)
        await other_ledger.confirm(first)
        second = await other_ledger.unsent(latch, ME, is_failure=False, limit=10)
        assert second is not None
        assert second.start == 100
        await ledger.confirm(second)
        await ledger.confirm(first)  # late
        [state] = await ledger.look([latch])
        assert state is not None
        assert state.unsent == 140

        assert await send_all(other_ledger, latch) == bodies[110:]

    async def test_what_is_confirmed_late_confirms_nothing_of_a_later_latch_of_its_name(
        self, ledger: Ledger, latch: str
    ) -> None:
        await ledger.apply([Hold(latch, (), (send(b"old"),))], ME)
        page = await ledger.unsent(latch, ME, is_failure=False)
        assert page is not None
        await ledger.forget_latches([latch])
        await ledger.apply([Hold(latch, ("a",), (send(b"new"),))], ME)

        await ledger.confirm(page)
        await sleep(0.01)
        assert list(await ledger.apply([Arrive(latch, "a", True)], ME)) == [latch]
        await ledger.confirm(page)

        assert await send_all(ledger, latch) == [b"new"]
