"""What asyncq hands out can be returned from a FastAPI endpoint as it is."""

import typing
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, cast

import httpx
import msgspec
import pydantic
import pytest
from fastapi import FastAPI

import asyncq
from asyncq import testing
from asyncq.app import App
from asyncq.client.queues import DeadLetters, Queues
from asyncq.client.sync import SyncClient, SyncResult
from asyncq.client.task import TaskOptions
from asyncq.language.envelope import Envelope, LastAttempt
from asyncq.language.message import End, Failure, Progress, Status
from asyncq.language.signature import CallOptions, Signature
from asyncq.seams.admin import DeadLetter, Depth, Waiting
from asyncq.shown import Shown
from tests.client.given import PATIENCE

ENVELOPE = Envelope(id="one", queue="mail", body=b"\x93\xff", headers={"raw": b"\xff", "of": [1]})
FAILED = LastAttempt(Failure("E", "no"), 3, "worker")
EXCHANGE = asyncq.Exchange("news", "topic")
BINDING = asyncq.Binding(EXCHANGE, key="*.de")


def is_worth_it(error: BaseException) -> bool:
    return "try again" in str(error)


RECORDS: list[Any] = [
    Progress(3, 4),
    End("latch", "part"),
    Failure("E", "no"),
    Depth(ready=1, oldest_age=2.5),
    Waiting(envelope=ENVELOPE, due=5.0),
    DeadLetter(envelope=ENVELOPE, reason="E: no", died_at=5.0, last=FAILED),
    ENVELOPE,
    FAILED,
    EXCHANGE,
    BINDING,
    asyncq.Queue("mail", bindings=[BINDING], ttl=timedelta(minutes=1)),
    asyncq.Route(queue="mail"),
    asyncq.Retry(times=5, on=(OSError, asyncq.BrokerUnavailable)),
    asyncq.Retry(not_on=KeyError, when=is_worth_it, for_seconds=60),
    asyncq.Config(),
    CallOptions(queue="mail", delay=5.0),
    TaskOptions(queue="mail", retry=asyncq.Retry(3)),
]
NO_DATA = {Signature}
"""A call: its arguments are the user's own, and none may be data."""
BETWEEN_US = {"at_hand", "expect", "result_shape"}
"""What the parts of asyncq ask each other."""


def shown(record: Any) -> str:
    return type(record).__name__


async def get(web: FastAPI, path: str) -> Any:
    transport = httpx.ASGITransport(app=web)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get(path)
    assert response.status_code == 200, response.text
    return response.json()


async def returned(record: Any, annotation: Any) -> Any:
    """What an endpoint answers that returns it under this annotation; None is under none."""
    web = FastAPI()

    async def endpoint() -> Any:
        return record

    endpoint.__annotations__ = {} if annotation is None else {"return": annotation}
    web.get("/")(endpoint)
    return await get(web, "/")


@pytest.mark.parametrize("record", RECORDS, ids=shown)
async def test_every_record_is_returned_as_it_is(record: Any) -> None:
    cls = cast("type[Shown]", type(record))
    names = set(cls.__struct_fields__)

    typed = await returned(record, cls)

    assert typed.keys() == names
    assert await returned(record, None) == await returned(record, Any) == typed
    assert await returned([record], list[cls]) == [typed]
    assert await returned({"it": record}, dict[str, cls | None]) == {"it": typed}
    assert await returned({"it": [record]}, None) == {"it": [typed]}
    assert await returned({"it": [record]}, dict[str, Any]) == {"it": [typed]}


@pytest.mark.parametrize("record", RECORDS, ids=shown)
async def test_every_record_is_documented_with_its_fields(record: Any) -> None:
    web = FastAPI()
    cls = cast("type[Shown]", type(record))
    web.get("/", response_model=cls)(returned)

    document = await get(web, "/openapi.json")

    reply = document["paths"]["/"]["get"]["responses"]["200"]["content"]
    schema = reply["application/json"]["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    required = {field.name for field in msgspec.structs.fields(cls) if field.required}
    assert set(schema["properties"]) == set(cls.__struct_fields__)
    assert set(schema.get("required", ())) == required


def records_in(hint: Any, seen: set[Any]) -> Iterator[Any]:
    """The records that an annotation names, and those in their fields."""
    cls = typing.get_origin(hint) or hint
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and cls not in seen:
        seen.add(cls)
        yield cls
        for inner in typing.get_type_hints(cls).values():
            yield from records_in(inner, seen)
    for inner in typing.get_args(hint):
        yield from records_in(inner, seen)


def public_hints() -> Iterable[Any]:
    """What `asyncq` exports, and what the public methods of what it hands out return."""
    for name in asyncq.__all__:
        yield getattr(asyncq, name)
    holders = [asyncq.App, asyncq.Task, asyncq.Result, asyncq.Context, Queues, DeadLetters]
    for holder in [*holders, SyncClient, SyncResult, testing.Run]:
        for name, method in vars(holder).items():
            function = method.fget if isinstance(method, property) else method
            if callable(function) and not name.startswith("_") and name not in BETWEEN_US:
                yield typing.get_type_hints(function).get("return")


def test_no_public_record_is_forgotten() -> None:
    seen: set[Any] = set()

    found = {cls for hint in public_hints() for cls in records_in(hint, seen)}

    assert {DeadLetter, Depth, Waiting, Progress, asyncq.Queue} <= found
    assert found - NO_DATA <= {type(record) for record in RECORDS}
    assert all(issubclass(cls, Shown) for cls in found - NO_DATA)


async def test_an_operators_endpoint_answers_with_what_it_was_told() -> None:
    app, web = App("memory://"), FastAPI()

    @app.task
    async def fail(name: str) -> None:
        raise ValueError(name)

    @web.get("/dead")
    async def dead() -> list[DeadLetter]:  # pyright: ignore[reportUnusedFunction] - FastAPI's
        return list(await app.dead.list("default"))

    @web.get("/depth")
    async def depth() -> Any:  # pyright: ignore[reportUnusedFunction] - FastAPI's
        return {"default": await app.queues.depth("default")}

    @web.get("/status")
    async def status(id: str) -> Status:  # pyright: ignore[reportUnusedFunction] - FastAPI's
        return await app.result(id).status()

    async with testing.run(app) as run:
        result = await fail.enqueue("ann")
        with pytest.raises(asyncq.TaskFailed):
            await result.get(timeout=PATIENCE)
        await run.until_idle()

        [letter] = await get(web, "/dead")
        assert letter["envelope"]["id"] == result.id
        assert letter["last"]["error"]["message"] == "ann"
        assert (await get(web, "/depth"))["default"]["dead"] == 1
        assert await get(web, f"/status?id={result.id}") == "failed"


@pytest.mark.parametrize("record", RECORDS[:7], ids=shown)
def test_pydantic_reads_what_it_has_written(record: Any) -> None:
    cls = cast("type[Shown]", type(record))
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(cls)
    plain = msgspec.structs.replace(ENVELOPE, headers={})
    if isinstance(record, Envelope):
        record = plain
    elif hasattr(record, "envelope"):
        record = msgspec.structs.replace(record, envelope=plain)

    assert adapter.validate_json(adapter.dump_json(record)) == record
    assert adapter.validate_python(record) == record


def test_on_the_wire_they_are_what_they_were() -> None:
    assert msgspec.msgpack.encode(Progress(1, 2)) == b"\x92\x01\x02"
    assert msgspec.msgpack.encode(Failure("E", "no")) == b"\x93\xa1E\xa2no\xa0"


@pytest.mark.parametrize("queues", [asyncq.Queue("mail"), "mail", ["mail"], 5], ids=repr)
def test_what_is_no_list_of_queues_is_refused(queues: Any) -> None:
    with pytest.raises(asyncq.InvalidValue, match=r"a list of them, as in queues=\[Queue"):
        App("memory://", queues=queues)
