"""What is put into a queue by those who cannot, or do not want to, play by the rules."""

import os
import random

import msgspec
import pytest

from asyncq import TaskFailed
from asyncq.language.envelope import Envelope
from asyncq.language.message import new_id
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.tasks import QUEUE

NEIGHBOURS = 50
BIG = 5 * 1024 * 1024  # bytes
SOME = 20
TTL = 1.5  # seconds for which a worker keeps what it does not know


async def test_what_is_no_message_goes_to_the_dead_letters_with_its_bytes(
    bench: Bench[Bed], report: Report
) -> None:
    chance = random.Random(5)
    bodies = {new_id(): chance.randbytes(chance.randrange(1, 400)) for _ in range(SOME)}
    bodies[new_id()] = b""
    bodies[new_id()] = b"\x91" * 10_000  # an array in an array in an array
    bodies[new_id()] = os.urandom(BIG)
    async with bench.app() as app:
        worker = await bench.hired()
        await bench.send(app, NEIGHBOURS)
        await app.client.broker.publish(
            [Envelope(id=id, queue=QUEUE, body=body) for id, body in bodies.items()]
        )
        raw = {new_id(): chance.randbytes(chance.randrange(1, 400)) for _ in range(SOME)}
        for id, blob in raw.items():
            bench.bed.put_raw(id.encode(), blob)
        await bench.send(app, NEIGHBOURS)

        count = len(bodies) + len(raw)
        await bench.until_audit(lambda audit: len(audit.dead) == count, "they are dead")
        letters = {letter.envelope.id: letter for letter in await bench.dead_letters(app)}
        findings = await bench.audit_all(dead=count)
    report(findings)
    assert worker.exit_code == 0
    assert findings.ok == 2 * NEIGHBOURS
    assert {id: letter.envelope.body for id, letter in letters.items()} == bodies | raw
    reasons = {letter.reason.partition(":")[0] for letter in letters.values()}
    assert reasons == {"Undecodable", "MessageTooLarge"}


async def test_an_id_that_is_no_text_ends_in_the_dead_letters_too(
    bench: Bench[Bed], report: Report
) -> None:
    async with bench.app() as app:
        worker = await bench.hired()
        bench.bed.put_raw(b"\xff\xfe\x80 no text", b"\x00\x01")
        await bench.send(app, NEIGHBOURS)

        await bench.until_audit(lambda audit: len(audit.dead) == 1, "it is dead")
        [letter] = await bench.dead_letters(app)
        findings = await bench.audit_all(dead=1)
    report(findings)
    assert worker.exit_code == 0
    assert findings.ok == NEIGHBOURS
    assert letter.envelope.body == b"\x00\x01"


@pytest.mark.parametrize("kind", ["UnknownTask", "NewerVersion"])
async def test_what_a_newer_worker_may_know_is_given_back_for_a_while(
    bench: Bench[Bed], report: Report, kind: str
) -> None:
    bench.configure(unknown_delay=0.3, unknown_ttl=TTL)
    version, task = (1, "tomorrow") if kind == "UnknownTask" else (99, "work")
    body = msgspec.msgpack.encode([version, task, [], {}])
    async with bench.app() as app:
        worker = await bench.hired()
        id = new_id()
        await app.client.broker.publish([Envelope(id=id, queue=QUEUE, body=body)])
        await worker.says(f"message {id} is requeued with a delay of 0.3 s: {kind}")
        await bench.send(app, NEIGHBOURS)
        given_back = await bench.audit()

        with pytest.raises(TaskFailed) as failure:
            await app.result(id).get(timeout=60)
        # The outcome comes first where these are two stores.
        await bench.until_audit(lambda audit: len(audit.dead) == 1, "it is a dead letter")
        [letter] = await bench.dead_letters(app)
        findings = await bench.audit_all(dead=1)
    report(findings)
    assert worker.exit_code == 0
    assert findings.ok == NEIGHBOURS
    assert not given_back.dead
    assert failure.value.type == kind
    assert letter.envelope.body == body
    assert letter.reason.startswith(f"{kind}: ")
