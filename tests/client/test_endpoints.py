"""What asyncq hands out can be returned from a FastAPI endpoint as it is."""

from typing import Any

import httpx
import msgspec
import pydantic
from fastapi import FastAPI

from asyncq.message import Failure, Progress, Status

web = FastAPI()


@web.get("/typed")
async def typed() -> Progress:
    return Progress(3, 4)


@web.get("/untyped")
async def untyped():  # pyright: ignore[reportUnknownParameterType] - the point
    return {"progress": Progress(3), "status": Status.RUNNING, "error": Failure("E", "no")}


@web.get("/optional")
async def optional() -> Progress | None:
    return Progress(1)


@web.get("/status")
async def status() -> Status:
    return Status.QUEUED


async def get(path: str) -> Any:
    transport = httpx.ASGITransport(app=web)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get(path)
    assert response.status_code == 200, response.text
    return response.json()


async def test_progress_and_status_are_returned_as_they_are() -> None:
    assert await get("/typed") == {"value": 3, "total": 4}
    assert await get("/optional") == {"value": 1, "total": None}
    assert await get("/status") == "queued"
    assert await get("/untyped") == {
        "progress": {"value": 3, "total": None},
        "status": "running",
        "error": {"type": "E", "message": "no", "traceback": ""},
    }


async def test_they_are_documented_with_their_fields() -> None:
    document = await get("/openapi.json")

    reply = document["paths"]["/typed"]["get"]["responses"]["200"]["content"]
    schema = reply["application/json"]["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert set(schema["properties"]) == {"value", "total"}
    assert schema["required"] == ["value"]


def test_pydantic_reads_what_it_has_written() -> None:
    adapter = pydantic.TypeAdapter(Progress)

    assert adapter.validate_json(adapter.dump_json(Progress(1, 2))) == Progress(1, 2)
    assert adapter.validate_python(Progress(1)) == Progress(1)


def test_on_the_wire_they_are_what_they_were() -> None:
    assert msgspec.msgpack.encode(Progress(1, 2)) == b"\x92\x01\x02"
