"""Messages that were mangled on their way."""

from random import Random

import msgspec

from asyncq.client.values.parameters import BadArguments, Parameters
from asyncq.codecs.native import VERSION, NativeCodec
from asyncq.errors import Undecodable
from asyncq.language.envelope import Envelope
from asyncq.language.message import new_id
from asyncq.seams.broker import MAX_BATCH
from tests.faults.conftest import Report
from tests.faults.lab.beds import Bed
from tests.faults.lab.bench import Bench
from tests.faults.lab.ledger import Attempted, now
from tests.faults.lab.scale import scaled
from tests.faults.lab.tasks import QUEUE, echo

BODIES = scaled(1000, 95_000)  # mangled messages, put in by the driver
BLOBS = scaled(100, 5000)  # mangled envelopes, put in behind its back
SEED = 1
NEIGHBOURS = 50
SAMPLE = 100  # dead letters whose bytes are compared
TASK = "echo"
ECHO = Parameters(echo, TASK)


async def test_every_mangled_message_is_dead_once_and_the_worker_is_well(
    bench: Bench[Bed], report: Report
) -> None:
    chance = Random(SEED)
    bench.configure(unknown_ttl=0.0)  # nobody will ever know these tasks and versions
    async with bench.app() as app:
        worker = await bench.hired()
        await bench.send(app, NEIGHBOURS)
        sent = [Envelope(id=new_id(), queue=QUEUE, body=mangled(chance)) for _ in range(BODIES)]
        blobs = {new_id(): mangle(chance, bench.bed.wrap(an_envelope())) for _ in range(BLOBS)}
        for start in range(0, BODIES, MAX_BATCH):
            batch = sent[start : start + MAX_BATCH]
            bench.ledger.write(Attempted([envelope.id for envelope in batch], now()))
            await app.client.broker.publish(batch)
        for id, blob in blobs.items():
            bench.ledger.write(Attempted([id], now()))
            bench.bed.put_raw(id.encode(), blob)
        await bench.send(app, NEIGHBOURS)

        arrived = [*sent, *(bench.bed.unwrap(id, blob) for id, blob in blobs.items())]
        bad = {envelope.id: envelope.body for envelope in arrived if is_bad(envelope)}
        await bench.until_audit(lambda audit: audit.is_idle, "all of them are gone")
        audit = await bench.until_audit(lambda audit: len(audit.dead) == len(bad), "they are dead")
        letters = await bench.dead_letters(app)
        findings = await bench.audit_all(dead=len(bad))
    report(findings, seed=SEED, mangled=len(arrived), bad=len(bad))
    assert not audit.faults
    assert all(bad[letter.envelope.id] == letter.envelope.body for letter in letters[:SAMPLE])
    assert findings.ok == 2 * NEIGHBOURS
    assert worker.exit_code == 0


def is_bad(envelope: Envelope) -> bool:
    """Whether no worker can run it, or its task takes no such arguments."""
    try:
        message = NativeCodec().decode(envelope)
        if message.task != TASK:
            return True
        ECHO.decode(message.args, message.kwargs)
    except (Undecodable, BadArguments):
        return True
    return False


def a_body() -> bytes:
    value: dict[str, object] = {
        "text": "ünï",
        "numbers": [1, -2, 3.5, None, True],
        "deep": [[[{}]]],
        "raw": b"\x00",
    }
    return msgspec.msgpack.encode([VERSION, TASK, [], {"value": value}, 1, None, None])


def an_envelope() -> Envelope:
    return Envelope(id=new_id(), queue=QUEUE, body=a_body(), headers={"header": "value"})


def mangled(chance: Random) -> bytes:
    return mangle(chance, a_body())


def mangle(chance: Random, data: bytes) -> bytes:
    """A few of the things that befall bytes."""
    raw = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at, end = sorted(chance.choices(range(len(raw) + 1), k=2))
        match chance.randrange(6):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << chance.randrange(8)
            case 1:
                raw[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 2:
                del raw[at:end]
            case 3:
                raw[at:at] = raw[at:end]
            case 4:
                del raw[at:]
            case _:
                raw[at:end] = chance.randbytes(end - at)
    return bytes(raw)
