"""Messages by somebody who can write to the broker: each harms nobody but itself."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from asyncq.app import App
from asyncq.codecs.native import VERSION
from asyncq.drivers.memory.broker import MemoryBroker
from asyncq.errors import TaskFailed
from asyncq.language.envelope import Envelope
from asyncq.language.message import Status, new_id
from tests.client.given import PATIENCE, new_app, until_status

pack = msgspec.msgpack.encode
DEEP = b"\x91" * 100_000 + b"\xc0"  # arrays in arrays


def body(args: Any = (), kwargs: Any = None, task: str = "work", *rest: Any) -> bytes:
    """A well-formed body around arguments that may be anything."""
    return pack([VERSION, task, args, {} if kwargs is None else kwargs, *rest])


def raw_body(args: bytes, kwargs: bytes = b"\x80") -> bytes:
    return b"\x94" + pack(VERSION) + pack("work") + args + kwargs


BURIED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "Undecodable"),
    "no MessagePack": (lambda: b"\xc1\xff\x00", "Undecodable"),
    "cut short": (lambda: body([1])[:-2], "Undecodable"),
    "JSON": (lambda: b'[1, "work", [1], {}]', "Undecodable"),
    "a pickle": (lambda: b"cos\nsystem\n(S'touch /tmp/owned'\ntR.", "Undecodable"),
    "another shape": (lambda: pack({"task": "work"}), "Undecodable"),
    "no task": (lambda: pack([VERSION]), "Undecodable"),
    "a number for a name": (lambda: pack([VERSION, 5]), "Undecodable"),
    "text for an attempt": (lambda: body([1], {}, "work", "first"), "Undecodable"),
    "no UTF-8 in the name": (lambda: b"\x92\x01\xa1\xff", "Undecodable"),
    "an array that claims to be huge": (lambda: b"\xdd\xff\xff\xff\xff", "Undecodable"),
    "a text that claims to be huge": (lambda: b"\x92\x01\xdb\xff\xff\xff\xff", "Undecodable"),
    "too many bytes": (lambda: body([b"x" * 2**20]), "MessageTooLarge"),
    "too deep a message": (lambda: DEEP, "Undecodable"),
    "too deep an argument": (lambda: raw_body(b"\x91" + DEEP), "Undecodable"),
}
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nil for arguments": (lambda: body(None), "its arguments are no array"),
    "a map for arguments": (lambda: body({"n": 1}), "its arguments are no array"),
    "an array for keywords": (lambda: body([1], [1]), "its keyword arguments are no map"),
    "numbers for keywords": (lambda: body([], {1: 1}), "its keyword arguments are no map"),
    "too many": (lambda: body([1, 2, 3]), "takes 1 positional argument, 3 given"),
    "very many": (lambda: body([1] * 100_000), "takes 1 positional argument, 100000 given"),
    "unknown keywords": (lambda: body([1], {"__class__": 1}), "unexpected argument '__class__'"),
    "given twice": (lambda: body([1], {"n": 1}), "argument 'n' given twice"),
    "none": (body, "missing argument 'n'"),
    "text": (lambda: body(["1"]), "argument n: Expected `int`"),
    "true": (lambda: body([True]), "argument n: Expected `int`"),
    "a nested array": (lambda: body([[[[]]]]), "argument n: Expected `int`"),
    "the context": (lambda: body([1], {"ctx": {}}), "unexpected argument 'ctx'"),
    "an extension": (lambda: body([msgspec.msgpack.Ext(5, b"x")]), "argument n: Expected `int`"),
}


@pytest.fixture
def working() -> App:
    """An app with one task, ``work(n: int)``."""
    app = new_app(grace=1.0)

    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    return app


def envelope(body: bytes, **fields: Any) -> Envelope:
    return Envelope(id=new_id(), queue="default", body=body, **fields)


async def still_works(app: App) -> bool:
    result: Any = await app.tasks["work"].enqueue(5)
    return await result.get(timeout=PATIENCE) == 5


@pytest.mark.parametrize("name", BURIED)
async def test_what_is_no_message_goes_to_the_dead_letters(working: App, name: str) -> None:
    make, why = BURIED[name]
    sent = envelope(make())

    async with working.worker(concurrency=1):
        await working.client.broker.publish([sent])
        assert await still_works(working)
        await until_status(working.result(sent.id), Status.FAILED)
        broker = working.client.broker
        assert isinstance(broker, MemoryBroker)
        [dead] = await broker.dead_letters("default")

    assert dead.envelope.body == sent.body
    assert dead.reason.startswith(why)


@pytest.mark.parametrize("name", REFUSED)
async def test_arguments_that_do_not_fit_are_a_failure(working: App, name: str) -> None:
    make, why = REFUSED[name]
    sent = envelope(make())

    async with working.worker(concurrency=1):
        await working.client.broker.publish([sent])
        with pytest.raises(TaskFailed) as caught:
            await working.result(sent.id).get(timeout=PATIENCE)
        assert await still_works(working)

    assert caught.value.type == "BadArguments"
    assert why in caught.value.message


@pytest.mark.parametrize("depth", [10, 400, 5_000, 400_000])
async def test_nesting_ends_in_a_value_or_a_failure(depth: int) -> None:
    app = new_app(grace=1.0)

    @app.task(name="work")
    async def work(n: Any) -> int:
        return 5

    sent = envelope(raw_body(b"\x91" + b"\x91" * depth + b"\xc0"))
    async with app.worker():
        await app.client.broker.publish([sent])
        assert await still_works(app)
        try:
            assert await app.result(sent.id).get(timeout=PATIENCE) == 5
        except TaskFailed as error:
            assert error.type in {"BadArguments", "Undecodable"}  # noqa: PT017 - either will do


@pytest.mark.parametrize("keep", [float("nan"), float("inf"), -1.0, 1e300])
async def test_no_message_is_kept_for_ever(working: App, keep: float) -> None:
    sent = envelope(body([1], {}, "work", 1, None, None, keep), reply_to="nobody")

    async with working.worker():
        await working.client.broker.publish([sent])
        assert await still_works(working)
        [record] = await working.client.backend.fetch([sent.id])

    assert record is None or record.keep < 1e9


async def test_no_keep_ends_a_worker_on_redis(redis_url: str) -> None:
    app = App(f"{redis_url}?prefix={new_id()}")

    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    async with app.worker():
        for keep in (float("nan"), float("inf"), -1.0, 1e300):
            sent = envelope(body([1], {}, "work", 1, None, None, keep), reply_to="nobody")
            await app.client.broker.publish([sent])
            assert await still_works(app)


async def test_a_message_of_a_newer_version_goes_back(working: App) -> None:
    sent = envelope(pack([VERSION + 1, {"another": "shape"}]))

    async with working.worker():
        await working.client.broker.publish([sent])
        await until_status(working.result(sent.id), Status.SCHEDULED)
        assert await still_works(working)


async def test_names_from_outside_are_cut_in_the_log(
    working: App, caplog: pytest.LogCaptureFixture
) -> None:
    sent = envelope(body([], {}, "x\nCRITICAL all is lost\n" * 10_000))

    with caplog.at_level(logging.DEBUG):
        async with working.worker():
            await working.client.broker.publish([sent])
            await until_status(working.result(sent.id), Status.SCHEDULED)

    assert "\nCRITICAL" not in caplog.text
    assert max(len(line) for line in caplog.text.splitlines()) < 500


async def test_only_registered_names_run_and_nothing_is_imported(working: App) -> None:
    before = set(sys.modules)
    names = ("os.system", "builtins.eval", "antigravity.fly", "work ", "WORK", "wor", "")
    sent = [envelope(body(["1+1"], {}, name)) for name in names]

    async with working.worker():
        await working.client.broker.publish(sent)
        for each in sent:
            await until_status(working.result(each.id), Status.SCHEDULED)

    assert "antigravity" not in set(sys.modules) - before
