"""What is not run ends as what it is."""

from asyncq.codecs.native import NativeCodec
from asyncq.config import Config
from asyncq.language.envelope import Envelope
from asyncq.language.message import Failed, FailureType
from asyncq.seams.broker import Delivery, purged
from asyncq.worker.dead_letters import DeadLetters
from asyncq.worker.tasks import TaskLog
from asyncq.worker.unrun import Unrun
from tests.client.given import new_app


async def test_a_suspect_that_was_purged_ends_as_that_however_many_workers_died_with_it() -> None:
    async def end_scopes_of(id: str) -> None:
        pass

    config, codec = Config(max_crashes=3), NativeCodec()
    envelope = Envelope(id="a", queue="narrow", body=b"")
    suspect = Delivery(envelope=envelope, crashes=3, suspect=True, verdict=purged())

    async with new_app() as app:
        unrun = Unrun(
            codec=codec,
            backend=app.client.backend,
            config=config,
            now=lambda: 1e9,
            worker="w",
            dead_letters=DeadLetters(codec, "w"),
            log=TaskLog(),
            made={},
            apart=set(),
            end_scopes_of=end_scopes_of,
            runs_already=lambda id: False,
        )
        assert await unrun.judge(suspect) is None
        record = unrun.doomed(suspect).record

    assert record is not None
    assert isinstance(record.outcome, Failed)
    assert record.outcome.error.type == FailureType.PURGED
