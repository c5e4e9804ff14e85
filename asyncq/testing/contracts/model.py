"""Mixed operations against a model of a queue that fits on a page: both must say the same.

After each operation every id is looked for: it is in the place where the model has it, and the
counts of the places leave no room for a second copy.
"""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import msgspec
import pytest
from anyio import fail_after
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncq.errors import LeaseLost
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status
from asyncq.language.record import Record
from asyncq.seams.backend import Backend
from asyncq.seams.broker import (
    Ack,
    Completion,
    Consumer,
    Delivery,
    Lease,
    Nack,
    QueueSpec,
    Reject,
    Settlement,
)
from asyncq.testing.contracts.given import (
    FAR,
    DriverFixtures,
    FullBroker,
    end_lease,
    envelope,
    ids_of,
    new_lease,
    now,
    record,
    sweep,
    take,
)

OPERATIONS = int(os.environ.get("ASYNCQ_TEST_OPERATIONS", "10000"))  # in all examples together
STEPS = 100  # operations in one example
WORKERS = 3
ALONE_FROM = 2  # crashes, with which a suspect is alone in its quarantine
EXAMPLE_TIMEOUT = 60.0  # seconds

# Each example has ids of its own and an empty queue, so they share the fixtures; and each driver's
# suite inherits its tests.
SHARED = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)

_WEIGHTS = {
    "nothing": 1,  # first: a failing example shrinks towards it
    "publish": 8,
    "publish_later": 2,
    "receive": 12,
    "ack": 4,
    "give_back": 3,
    "delay": 2,
    "retry": 3,
    "retry_later": 1,
    "reject": 4,
    "complete": 4,
    "complete_dead": 1,
    "settle_again": 2,
    "crash": 4,
    "visit": 2,
    "store": 1,
    "forget": 2,
    "replay": 5,
    "delete": 1,
    "purge": 1,
}
_names = [name for name, weight in _WEIGHTS.items() for _ in range(weight)]
_numbers = st.integers(0, 59)
Step = tuple[str, int, int]  # what to do, and two numbers to choose by
a_step = st.tuples(st.sampled_from(_names), _numbers, _numbers)
_steps = st.lists(a_step, min_size=STEPS, max_size=STEPS)
_runs = count(1)
_clean = ["model-0"]  # queues that an example left empty: it costs time to look in ever more


class ModelContract(DriverFixtures):
    """Any operations in any order."""

    @settings(SHARED, max_examples=max(1, OPERATIONS // STEPS))
    @given(steps=_steps)
    async def test_every_message_is_where_the_model_has_it(
        self, broker: FullBroker, other_broker: FullBroker, backend: Backend, steps: list[Step]
    ) -> None:
        with fail_after(EXAMPLE_TIMEOUT):
            await Run([broker, other_broker], backend).play(steps)


class Kept(msgspec.Struct, frozen=True):
    """A message as the model knows it."""

    envelope: Envelope
    crashes: int = 0
    suspect: bool = False


class Model:
    """One queue: which message is where."""

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}  # what the places below name
        self.ready: list[str] = []
        self.suspects: list[str] = []
        self.delayed: list[str] = []
        self.in_flight: list[str] = []
        self.dead: list[str] = []
        self.records: dict[str, Record] = {}

    def find(self, message_id: str) -> Status | None:
        for place, status in (
            (self.ready, Status.QUEUED),
            (self.suspects, Status.QUEUED),
            (self.delayed, Status.SCHEDULED),
            (self.in_flight, Status.RUNNING),
            (self.dead, Status.FAILED),
        ):
            if message_id in place:
                return status
        return None

    def in_order(self) -> list[str]:
        """The ready ones as they should come, suspects aside."""
        return sorted(self.ready, key=lambda each: -self.kept[each].envelope.priority)

    def publish(self, sent: Envelope) -> None:
        if sent.id not in self.kept and sent.id not in self.records:
            self.kept[sent.id] = Kept(sent)
            (self.ready if sent.eta is None else self.delayed).append(sent.id)

    def claim(self, message_id: str) -> None:
        (self.suspects if self.kept[message_id].suspect else self.ready).remove(message_id)
        self.in_flight.append(message_id)

    def settle(self, settlement: Settlement) -> None:
        message_id = settlement.delivery.envelope.id
        self.in_flight.remove(message_id)
        kept = self.kept[message_id]
        match settlement:
            case Ack():
                del self.kept[message_id]
            case Reject():
                self.dead.append(message_id)
            case Nack(delay=delay, replacement=replacement):
                self.kept[message_id] = msgspec.structs.replace(
                    kept, envelope=replacement or kept.envelope
                )
                if delay or (replacement is not None and replacement.eta is not None):
                    self.delayed.append(message_id)
                else:
                    (self.suspects if kept.suspect else self.ready).insert(0, message_id)

    def store(self, new: Record) -> None:
        self.records.setdefault(new.id, new)

    def crash(self, in_flight: Sequence[str]) -> None:
        caught = any(self.kept[each].suspect for each in in_flight)
        for each in in_flight:
            kept = self.kept[each]
            crashes = kept.crashes + (1 if kept.suspect or not caught else 0)
            self.kept[each] = Kept(kept.envelope, crashes, suspect=True)
            self.in_flight.remove(each)
            self.suspects.append(each)

    def replay(self, message_id: str) -> None:
        self.dead.remove(message_id)
        self.kept[message_id] = Kept(self.kept[message_id].envelope)
        self.ready.append(message_id)

    def delete(self, message_id: str) -> None:
        self.dead.remove(message_id)
        del self.kept[message_id]

    def purge(self) -> int:
        removed = [*self.ready, *self.suspects, *self.delayed]
        for each in removed:
            del self.kept[each]
        for place in (self.ready, self.suspects, self.delayed):
            place.clear()
        return len(removed)


class Worker(msgspec.Struct):
    """A consumer under test, and what it holds."""

    lease: Lease
    consumer: Consumer
    in_flight: dict[str, Delivery]
    settled: Delivery | None = None
    """The last one it settled."""


class Run:
    """One example: a queue, some workers, and the model that they are compared with."""

    def __init__(self, brokers: Sequence[FullBroker], backend: Backend) -> None:
        number = next(_runs)
        self.brokers = brokers
        self.broker = brokers[0]
        self.backend = backend
        self.queue = QueueSpec(_clean.pop() if _clean else f"model-{number}")
        self.ids = [f"{number}-{letter}" for letter in "abcdefghijkl"]
        self.model = Model()
        self.workers: list[Worker] = []
        self.bodies = count()
        self.stays = False  # the last completion, before it was settled

    async def play(self, steps: Sequence[Step]) -> None:
        async with self.staffed():
            for step in steps:
                await self.step(*step)
                await self.compare()

    @asynccontextmanager
    async def staffed(self) -> AsyncGenerator[None]:
        """With workers; then let all leave and look at every message once more."""
        async with AsyncExitStack() as stack:
            self.stack = stack
            for _ in range(WORKERS):
                self.workers.append(await self.hire())
            yield
        found = await self.backend.fetch(self.ids)
        assert list(found) == [self.model.records.get(each) for each in self.ids]
        await self.drain()
        _clean.append(self.queue.name)

    async def step(self, name: str, first: int, second: int) -> None:
        match name:
            case "publish" | "publish_later":
                await self.publish(first, second, later=name == "publish_later")
            case "receive":
                await self.receive(self.workers[first % WORKERS], 1 + second % 7)
            case "settle_again":
                await self.settle_again(self.workers[first % WORKERS])
            case "crash":
                await self.crash(first % WORKERS)
            case "visit":
                async with self.broker.consume(self.queue, new_lease()) as consumer:
                    await consumer.receive(1)
            case "store" | "forget" | "replay" | "delete" | "purge":
                await self.administer(name, self.ids[first % len(self.ids)], second)
            case "nothing":
                pass
            case _:
                worker = self.workers[first % WORKERS]
                if worker.in_flight:
                    delivery = list(worker.in_flight.values())[second % len(worker.in_flight)]
                    await self.settle(worker, self.completion(name, delivery, second))

    async def hire(self) -> Worker:
        lease = new_lease(alone_from=ALONE_FROM)
        broker = self.brokers[len(self.workers) % len(self.brokers)]
        consumer = await self.stack.enter_async_context(broker.consume(self.queue, lease))
        return Worker(lease, consumer, {})

    async def publish(self, first: int, second: int, *, later: bool) -> None:
        batch = [
            self.envelope(self.ids[(first + more) % len(self.ids)], second % 10, later=later)
            for more in range(1 + second // 10)
        ]
        await self.publish_all(self.brokers[first % len(self.brokers)], batch)

    async def publish_all(self, broker: FullBroker, batch: Sequence[Envelope]) -> None:
        await broker.publish(batch)
        for sent in batch:
            self.model.publish(sent)

    async def receive(self, worker: Worker, limit: int) -> None:
        model = self.model
        deliveries = await worker.consumer.receive(limit)

        suspects = [delivery for delivery in deliveries if delivery.suspect]
        others = deliveries[len(suspects) :]
        assert ids_of(others) == model.in_order()[: limit - len(suspects)]
        self.judge(worker, suspects, limit)
        for delivery in deliveries:
            kept = model.kept[delivery.envelope.id]
            assert Kept(delivery.envelope, delivery.crashes, delivery.suspect) == kept
            model.claim(delivery.envelope.id)
            worker.in_flight[delivery.envelope.id] = delivery

    def judge(self, worker: Worker, came: Sequence[Delivery], limit: int) -> None:
        """Whether these are suspects that the worker's quarantine has room for."""
        inside = [each for each in worker.in_flight.values() if each.suspect]
        if any(each.crashes >= ALONE_FROM for each in inside):
            assert came == []
        elif any(each.crashes >= ALONE_FROM for each in came):
            assert (len(inside), len(came)) == (0, 1)
        elif not any(self.model.kept[id].crashes >= ALONE_FROM for id in self.model.suspects):
            assert len(came) == min(limit, len(self.model.suspects))
        elif not inside:  # one that is to be alone may be the first, or the next
            assert 1 <= len(came) <= limit

    def completion(self, name: str, delivery: Delivery, second: int) -> Completion:
        message_id = delivery.envelope.id
        settlement: Settlement = Ack(delivery)
        match name:
            case "give_back":
                settlement = Nack(delivery)
            case "delay":
                settlement = Nack(delivery, delay=FAR)
            case "retry" | "retry_later":
                later = name == "retry_later"
                replacement = self.envelope(message_id, second % 10, later=later)
                settlement = Nack(delivery, replacement=replacement)
            case "reject" | "complete_dead":
                settlement = Reject(delivery, "bad")
            case _:
                pass
        is_end = name in ("complete", "complete_dead")
        return Completion(settlement, record(message_id, next(self.bodies)) if is_end else None)

    async def settle(self, worker: Worker, completion: Completion) -> None:
        settlement, new = completion.settlement, completion.record
        if new is None:
            fenced = await worker.consumer.settle([settlement])
        elif (complete := worker.consumer.offers.complete) is not None:
            self.stays = not self.stays
            if self.stays:  # as if something followed
                first = msgspec.structs.replace(completion, stays=True)
                assert not (await complete([first])).fenced
                completion = Completion(settlement)
            fenced = (await complete([completion])).fenced
        else:
            await self.backend.store_records([new])
            fenced = await worker.consumer.settle([settlement])
        assert list(fenced) == []
        if new is not None:
            self.model.store(new)
        self.model.settle(settlement)
        worker.settled = worker.in_flight.pop(settlement.delivery.envelope.id)

    async def settle_again(self, worker: Worker) -> None:
        last = worker.settled
        if last is not None and last.envelope.id not in worker.in_flight:
            assert ids_of(await worker.consumer.settle([Ack(last)])) == [last.envelope.id]

    async def crash(self, number: int) -> None:
        """Kill a worker, let its ghost try everything, and hire another."""
        worker = self.workers[number]
        if not worker.in_flight:
            return
        await end_lease(self.broker, worker.lease, self.queue.name)
        await sweep(self.broker, len(worker.in_flight), self.queue.name)
        in_flight = list(worker.in_flight.values())
        self.model.crash(ids_of(in_flight))
        if (complete := worker.consumer.offers.complete) is not None:
            late = [Completion(Ack(each), record(each.envelope.id, "late")) for each in in_flight]
            assert ids_of((await complete(late)).fenced) == ids_of(in_flight)
        assert ids_of(await worker.consumer.settle([Nack(each) for each in in_flight])) == ids_of(
            in_flight
        )
        with pytest.raises(LeaseLost):
            await worker.consumer.receive(1)
        self.workers[number] = await self.hire()

    async def administer(self, name: str, message_id: str, second: int) -> None:
        model, queue = self.model, self.queue.name
        is_dead = message_id in model.dead
        if name == "store":
            new = record(message_id, second)
            await self.backend.store_records([new])
            model.store(new)
        elif name == "forget":
            await self.backend.forget([message_id])
            model.records.pop(message_id, None)
        elif name == "replay":
            replayed = await self.broker.replay(queue, [message_id])
            assert list(replayed) == ([message_id] if is_dead else [])
            if is_dead:
                model.replay(message_id)
        elif name == "delete":
            assert await self.broker.delete_dead(queue, [message_id]) == is_dead
            if is_dead:
                model.delete(message_id)
        elif second % 3 == 0:  # purging often would leave little to look at
            assert await self.broker.purge(queue) == model.purge()

    async def compare(self) -> None:
        model = self.model
        assert list(await self.broker.find(self.ids)) == [model.find(each) for each in self.ids]
        depth = await self.broker.depth(self.queue.name)
        assert depth.ready == len(model.ready) + len(model.suspects)
        assert depth.delayed == len(model.delayed)
        assert depth.in_flight == len(model.in_flight)
        assert depth.dead == len(model.dead)

    async def drain(self) -> None:
        """Everybody has left: whatever was held or waited can be received, once. Leaves nothing."""
        model = self.model
        left = [*model.ready, *model.suspects, *model.in_flight]
        found: dict[str, Kept] = {}
        async with self.broker.consume(self.queue, new_lease()) as consumer:
            while len(found) < len(left):
                [delivery] = await take(consumer, 1)
                kept = Kept(delivery.envelope, delivery.crashes, delivery.suspect)
                assert found.setdefault(delivery.envelope.id, kept) is kept
                await consumer.settle([Ack(delivery)])
            assert list(await consumer.receive(10)) == []
        assert found == {each: model.kept[each] for each in left}
        letters = list(await self.broker.dead_letters(self.queue.name))
        # In any order among those that died at one moment, as the broker tells moments apart.
        assert sorted(letter.envelope.id for letter in letters) == sorted(model.dead)
        assert letters == sorted(letters, key=lambda letter: letter.died_at)
        for letter in letters:
            kept = model.kept[letter.envelope.id]
            assert (letter.envelope, letter.crashes) == (kept.envelope, kept.crashes)
        assert await self.broker.delete_dead(self.queue.name, model.dead) == len(model.dead)
        assert await self.broker.purge(self.queue.name) == len(model.delayed)

    def envelope(self, message_id: str, priority: int, *, later: bool) -> Envelope:
        body = str(next(self.bodies)).encode()
        eta = now() + FAR if later else None
        return envelope(body, id=message_id, queue=self.queue.name, priority=priority, eta=eta)
