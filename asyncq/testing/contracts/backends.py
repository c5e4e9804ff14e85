"""What every backend promises: one outcome for each message, kept for a time, told to who waits."""

import msgspec
import pytest
from anyio import create_task_group, current_time, fail_after, move_on_after
from anyio.lowlevel import checkpoint

from asyncq.language.effects import Append, Send
from asyncq.language.message import (
    Cancelled,
    Expired,
    Failed,
    Failure,
    Ignored,
    Outcome,
    Succeeded,
    new_id,
)
from asyncq.language.record import Record
from asyncq.seams.backend import Backend
from asyncq.seams.broker import MAX_BATCH
from asyncq.seams.feeds import replies_to
from asyncq.testing.contracts.given import (
    FAR,
    PATIENCE,
    DriverFixtures,
    full_envelope,
    hear,
    left_out,
    record,
)

OUTCOMES: list[Outcome] = [
    Succeeded(msgspec.Raw(msgspec.msgpack.encode({"total": [1, None, b"\x00\xff", "ÿ🙂"]}))),
    Failed(Failure("builtins.ValueError", "größer\n\x00", "Traceback …")),
    Cancelled(),
    Cancelled("nobody needs it"),
    Expired(),
    Expired("ValueError: no"),
    Ignored("done already"),
]
MIB = 1024 * 1024


class BackendContract(DriverFixtures):
    """Records: stored, fetched, expired, forgotten and pushed."""

    @pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda each: type(each).__name__)
    async def test_a_record_is_fetched_as_it_was_stored(
        self, backend: Backend, other_backend: Backend, outcome: Outcome
    ) -> None:
        stored = Record(
            id=new_id(),
            outcome=outcome,
            task="shop.add",
            attempt=3,
            started_at=1_700_000_000.125,
            finished_at=1_700_000_001.5,
            worker="host:17",
            keep=120.5,
            reply_to="client-1",
            effects=(
                Send(full_envelope(), "default"),
                Append("progress/1", 7, 2**53, b"item", 60.5, 100),
            ),
            begun=("its-child", "another"),
        )
        assert left_out(stored) == []

        await backend.store_records([stored])

        assert list(await backend.fetch([stored.id])) == [stored]
        assert list(await other_backend.fetch([stored.id])) == [stored]

    async def test_a_result_may_be_large(self, backend: Backend) -> None:
        stored = record("1", "x" * MIB)

        await backend.store_records([stored])

        assert list(await backend.fetch(["1"])) == [stored]

    async def test_records_are_fetched_in_the_order_asked_for(self, backend: Backend) -> None:
        await backend.store_records([record("a", 1), record("b", 2), record("c", 3)])

        found = await backend.fetch(["c", "nobody", "a", "c"])

        assert [each and each.id for each in found] == ["c", None, "a", "c"]

    async def test_batches_may_be_empty(self, backend: Backend) -> None:
        await backend.store_records([])
        await backend.forget([])
        assert list(await backend.fetch([])) == []

    async def test_a_full_batch_goes_through_each_call(self, backend: Backend) -> None:
        stored = [record(new_id(), number) for number in range(MAX_BATCH)]
        ids = [each.id for each in stored]

        await backend.store_records(stored)
        assert list(await backend.fetch(ids)) == stored

        await backend.forget(ids)
        assert list(await backend.fetch(ids)) == [None] * MAX_BATCH

    # The first one stands

    async def test_the_first_record_of_an_id_stands(self, backend: Backend) -> None:
        first, second = record("1", "first"), record("1", "second")

        await backend.store_records([first, second])
        await backend.store_records([second])

        assert list(await backend.fetch(["1"])) == [first]

    async def test_one_record_stands_whoever_stores_it(
        self, backend: Backend, other_backend: Backend
    ) -> None:
        async with create_task_group() as group:
            for number, each in enumerate((backend, other_backend) * 10):
                group.start_soon(each.store_records, [record("1", number)])

        [standing] = await backend.fetch(["1"])
        await backend.store_records([record("1", "late")])
        assert list(await other_backend.fetch(["1"])) == [standing]

    async def test_who_stores_a_record_is_told_which_one_stands(
        self, backend: Backend, other_backend: Backend
    ) -> None:
        first = record("1", "first", effects=(Send(full_envelope(), "default"),))
        assert list(await backend.store_records([first, record("2")])) == []

        late = [record("3"), record("1", "late"), record("1", "later", keep=0.0)]
        assert list(await other_backend.store_records(late[:2])) == [first]
        assert list(await other_backend.store_records(late[2:])) == [first]
        assert list(await backend.fetch(["1"])) == [first]

    # How long it is kept

    async def test_a_record_is_kept_for_its_time_and_then_forgotten(self, backend: Backend) -> None:
        begun = current_time()
        await backend.store_records([record("short", keep=0.4), record("long", keep=FAR)])

        with fail_after(PATIENCE):
            while (await backend.fetch(["short"]))[0] is not None:
                await checkpoint()

        assert 0.35 < current_time() - begun < 3.0
        assert (await backend.fetch(["long"]))[0] is not None

    async def test_after_its_time_another_record_may_stand(self, backend: Backend) -> None:
        second = record("1", "second", keep=FAR)
        await backend.store_records([record("1", "first", keep=0.05)])

        with fail_after(PATIENCE):
            while list(await backend.fetch(["1"])) != [second]:
                await backend.store_records([second])

    @pytest.mark.parametrize("keep", [1e-9, 0.0005, 0.0015, 1e9])
    async def test_a_record_may_be_kept_for_any_time_at_all(
        self, backend: Backend, keep: float
    ) -> None:
        stored = record(new_id(), keep=keep)

        await backend.store_records([stored])

        [found] = await backend.fetch([stored.id])
        assert found == stored or (found is None and keep < 1)

    async def test_a_record_with_nothing_to_keep_is_told_and_not_kept(
        self, backend: Backend
    ) -> None:
        told = record("1", keep=0.0, reply_to="me")
        async with backend.subscribe(replies_to("me")) as replies:
            await backend.store_records([told])

            assert await hear(replies, 1) == [told]
        assert list(await backend.fetch(["1"])) == [None]

    async def test_what_is_forgotten_is_gone(self, backend: Backend) -> None:
        await backend.store_records([record("1", "first"), record("2")])

        await backend.forget(["1", "nobody"])
        assert [each and each.id for each in await backend.fetch(["1", "2"])] == [None, "2"]

        second = record("1", "second")
        await backend.store_records([second])
        assert list(await backend.fetch(["1"])) == [second]

    # Telling who waits

    async def test_records_are_pushed_in_the_order_they_were_stored(
        self, backend: Backend, other_backend: Backend
    ) -> None:
        stored = [record(str(number), number, reply_to="me") for number in range(600)]
        async with backend.subscribe(replies_to("me")) as replies:
            await other_backend.store_records(stored[:1])
            await other_backend.store_records(stored[1:500])
            await other_backend.store_records(stored[500:])

            assert await hear(replies, 600) == stored

    async def test_a_waiting_watch_hears_at_once(self, backend: Backend) -> None:
        async with backend.subscribe(replies_to("me")) as replies, create_task_group() as group:
            stored = record("1", reply_to="me")
            group.start_soon(backend.store_records, [stored])

            assert await hear(replies, 1) == [stored]

    async def test_only_the_address_it_is_for_hears_of_a_record(self, backend: Backend) -> None:
        mine, theirs = record("1", reply_to="me"), record("2", reply_to="them")
        nobodys, last = record("3"), record("4", reply_to="me")
        async with (
            backend.subscribe(replies_to("me")) as me,
            backend.subscribe(replies_to("them")) as them,
        ):
            await backend.store_records([mine, theirs, nobodys])
            await backend.store_records([last])

            assert await hear(me, 2) == [mine, last]
            assert await hear(them, 1) == [theirs]

    async def test_a_second_outcome_is_never_told(self, backend: Backend) -> None:
        first = record("1", "first", reply_to="me")
        last = record("2", reply_to="me")
        async with backend.subscribe(replies_to("me")) as replies:
            await backend.store_records([first])
            await backend.store_records([record("1", "second", reply_to="me")])
            await backend.store_records([last])

            heard: list[Record] = []
            while last not in heard:
                heard += await hear(replies, 1)

        assert [each for each in heard if each.id == "1"] == [first] * (len(heard) - 1)

    async def test_watching_may_end_and_begin_again(self, backend: Backend) -> None:
        for number in range(3):
            stored = record(str(number), reply_to="me")
            async with backend.subscribe(replies_to("me")) as replies:
                await backend.store_records([stored])
                assert await hear(replies, 1) == [stored]

    async def test_a_cancelled_receive_leaves_the_watch_usable(self, backend: Backend) -> None:
        async with backend.subscribe(replies_to("me")) as replies:
            for delay in (0.0, 0.001, 0.02):
                with move_on_after(delay):
                    await replies.receive()

            # It may say that something was missed, and hears what comes from then on.
            with fail_after(PATIENCE):
                number, heard = 0, list[Record]()
                while not heard:
                    number += 1
                    await backend.store_records([record(str(number), reply_to="me")])
                    heard += await replies.receive()
