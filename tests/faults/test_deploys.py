"""Old workers and new messages, as they meet in a rolling deploy."""

from collections.abc import Sequence

import msgspec

from asyncq.codecs.native import VERSION
from asyncq.language.effects import Hold, Send
from asyncq.language.envelope import Envelope
from asyncq.language.message import Succeeded, derived_id, new_id
from tests.chords import apply, chord
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.scale import scaled
from tests.faults.lab.tasks import PARTS, QUEUE, TOMORROW
from tests.faults.lab.waiting import until
from tests.faults.test_follow_ups import either_bench

__all__ = ["either_bench"]  # a fixture

EACH = 20  # of each kind
OLD = scaled(3, 16)  # workers
CHORDS = scaled(5, 50)
PROMPT = 40.0  # seconds; later an audit of the latches mends what was forgotten
LATER_FIELDS = [1, None, None, None, [], None, {"since": "later"}, ["and", "more"]]


def bodies(*head: object) -> list[bytes]:
    """Messages of this version and task, with fields that only a later release knows."""
    return [msgspec.msgpack.encode([*head, [], {}, *LATER_FIELDS])] * EACH


def envelopes(some: Sequence[bytes]) -> list[Envelope]:
    return [Envelope(id=new_id(), queue=QUEUE, body=body) for body in some]


async def test_what_old_workers_do_not_know_waits_for_new_ones(
    bench: Bench[Bed], report: Report
) -> None:
    bench.configure(unknown_delay=0.2, unknown_ttl=60.0)
    readable = envelopes(bodies(VERSION, "work"))
    newer = envelopes(bodies(VERSION, "work"))
    unknown = envelopes(bodies(VERSION, TOMORROW) + bodies(VERSION + 1, "work"))
    async with bench.app() as app:
        old = await bench.hired()

        async def publish() -> None:
            await app.client.broker.publish([*readable, *unknown])
            for envelope in newer:
                bench.bed.put_newer(envelope)

        await bench.note([e.id for e in (*readable, *unknown, *newer)], publish)
        await bench.send(app, EACH)
        await old.says(": UnknownTask")
        await old.says(": NewerVersion")
        await until(lambda: len(bench.ended()) == 3 * EACH, 60, "it runs what it knows")
        # While one is given back, its copy is there before it is gone; RabbitMQ counts both.
        waiting = await bench.until_audit(
            lambda audit: len(audit.waiting | audit.in_flight) == len(unknown), "each is there once"
        )

        new = await bench.hired(later=True)
        findings = await bench.audit_all()
    report(findings)
    ran_by = {start.id: start.pid for start in bench.starts()}
    assert not waiting.dead
    assert findings.ok == 5 * EACH
    assert {ran_by[envelope.id] for envelope in unknown} == {new.pid}
    assert {ran_by[envelope.id] for envelope in (*readable, *newer)} == {old.pid}
    assert len(bench.starts()) == 5 * EACH


async def test_what_ends_at_a_latch_goes_through_old_workers_as_it_was(
    either_bench: Bench[Bed], report: Report
) -> None:
    bench = either_bench
    bench.configure(unknown_delay=0.2, unknown_ttl=60.0)
    roots = [new_id() for _ in range(CHORDS)]
    parts = [derived_id(root, str(number)) for root in roots for number in range(PARTS)]
    bodies = [derived_id(root, "body") for root in roots]
    async with bench.app() as app:
        old = [await bench.hired(before=True) for _ in range(OLD)]

        async def begin_chords() -> None:
            work = app.tasks["work"].options(keep_result=0.0).s()
            body = app.tasks["work"].s()
            for root in roots:
                effects = chord(app, root, [work] * PARTS, body, body)
                await apply(app, [each for each in effects if isinstance(each, Hold)])
                for future in app.client.send([each for each in effects if isinstance(each, Send)]):
                    await future

        await bench.note([*parts, *bodies], begin_chords)
        await bench.send(app, EACH)
        for worker in old:
            await worker.says(": NewerVersion")
        await until(lambda: len(bench.ended()) == EACH, 60, "they run what they know")
        given_back = await bench.until_audit(
            lambda audit: len(audit.waiting | audit.in_flight) == len(parts), "each is there once"
        )

        new = await bench.hired()
        await bench.settled(PROMPT)
        findings = await bench.audit_all()
    report(findings)
    assert not given_back.dead
    assert findings.ok == EACH + len(parts) + len(bodies)
    assert {start.pid for start in bench.starts() if start.id in {*parts}} == {new.pid}
    assert all(isinstance(bench.records[id].outcome, Succeeded) for id in bodies)
