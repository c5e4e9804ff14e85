"""FastAPI that only sends: uvicorn web_sends:web."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from shop import add, app, hold

VERSION = 1
client = app.sync()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    with client:  # for plain endpoints, which run in threads
        async with app:
            yield


web = FastAPI(lifespan=lifespan)


@web.get("/version")
async def version() -> int:
    return VERSION


@web.get("/add/{x}")
async def add_here(x: int) -> int:
    return await (await add.enqueue(x, 1)).get(timeout=30)


@web.get("/plain/{x}")
def add_in_a_thread(x: int) -> int:
    return client.enqueue(add.s(x, 1)).get(timeout=30)


@web.get("/hold/{name}")
async def begin(name: str) -> str:
    return (await hold.enqueue(name)).id


@web.get("/wait/{name}")
async def wait(name: str) -> str:
    return await (await hold.enqueue(name))
