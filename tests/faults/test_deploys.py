"""Old workers and new messages, as they meet in a rolling deploy."""

from collections.abc import Sequence

import msgspec

from asyncq.codecs.native import VERSION
from asyncq.language.envelope import Envelope
from asyncq.language.message import new_id
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.tasks import QUEUE, TOMORROW
from tests.faults.lab.waiting import until

EACH = 20  # of each kind
LATER_FIELDS = [1, None, None, None, {"since": "later"}, ["and", "more"]]


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
