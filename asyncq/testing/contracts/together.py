"""Mixed operations on all that one store keeps, against the models of each: none touches another.

Messages, latches, topics and entries have the same names. What a latch releases is published into
the queue, and a latch is held by the entry that is written with it.
"""

import os
from collections.abc import Sequence

from anyio import fail_after
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncq.language.effects import Send
from asyncq.seams.backend import Backend
from asyncq.testing.contracts.entries import Run as EntriesRun
from asyncq.testing.contracts.given import DriverFixtures, FullBroker
from asyncq.testing.contracts.ledger_model import LedgerRun
from asyncq.testing.contracts.model import EXAMPLE_TIMEOUT, SHARED, STEPS, a_step
from asyncq.testing.contracts.model import Run as QueueRun
from asyncq.testing.contracts.topics_model import TopicsRun

OPERATIONS = int(os.environ.get("ASYNCQ_TEST_OPERATIONS", "2000"))  # in all examples together

_what = [*["queue"] * 10, *["ledger"] * 6, "topics", "topics", "entries", "entries", "held"]


class TogetherContract(DriverFixtures):
    """Broker and backend are one store: any operations on all of it in any order."""

    @settings(SHARED, max_examples=max(1, OPERATIONS // STEPS))
    @given(st.data())
    async def test_all_that_is_in_one_store_is_as_the_models_have_it(
        self,
        broker: FullBroker,
        other_broker: FullBroker,
        backend: Backend,
        other_backend: Backend,
        data: st.DataObject,
    ) -> None:
        with fail_after(EXAMPLE_TIMEOUT):
            await Run([broker, other_broker], [backend, other_backend], data).play()


class Run:
    """One example: a queue, two latches, two topics, a kind of entries."""

    def __init__(
        self, brokers: Sequence[FullBroker], backends: Sequence[Backend], data: st.DataObject
    ) -> None:
        self._data = data
        self._queue = QueueRun(brokers, backends[0])
        ids = self._queue.ids
        offers = [backend.offers for backend in backends]
        topics = [each.topics for each in offers if each.topics is not None]
        ledgers = [each.ledger for each in offers if each.ledger is not None]
        registries = [each.registry for each in offers if each.registry is not None]
        assert len(topics) == len(ledgers) == len(registries) == len(backends)
        self._topics = TopicsRun(topics, data, ids[:2])
        self._ledger = LedgerRun(ledgers, data, ids[:2], make=self._send, publish=self._publish)
        self._entries = EntriesRun(registries, topics[0], data, ids[:4])

    async def play(self) -> None:
        async with self._queue.staffed():
            for _ in range(STEPS):
                await self._step()
                await self._queue.compare()
                await self._ledger.compare_all()
                await self._topics.compare()
                await self._entries.compare()
        await self._topics.leave()
        await self._ledger.leave()
        await self._entries.leave()

    async def _step(self) -> None:
        match self._data.draw(st.sampled_from(_what)):
            case "queue":
                await self._queue.step(*self._data.draw(a_step))
            case "ledger":
                await self._ledger.step()
            case "topics":
                await self._topics.step()
            case "entries":
                await self._entries.step()
            case _:
                hold = self._ledger.hold()
                if await self._entries.step([hold]):
                    self._ledger.held(hold)

    def _send(self) -> Send:
        """A message of the queue that a latch may hold."""
        message_id = self._data.draw(st.sampled_from(self._queue.ids))
        priority = self._data.draw(st.integers(0, 9))
        return Send(self._queue.envelope(message_id, priority, later=False), "default")

    async def _publish(self, sends: Sequence[Send]) -> None:
        """What was released goes where every message does."""
        broker = self._data.draw(st.sampled_from(self._queue.brokers))
        await self._queue.publish_all(broker, [each.envelope for each in sends])
