"""FastAPI with a worker inside: uvicorn web_fastapi:web."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from shop import add, app, hold

VERSION = 1
client = app.sync()


def make_web(*, works: bool) -> FastAPI:
    """With a worker, or one that only sends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        with client:  # for plain endpoints, which run in threads
            async with app, AsyncExitStack() as stack:
                if works:
                    await stack.enter_async_context(app.worker())
                yield

    web = FastAPI(lifespan=lifespan)
    web.get("/version")(version)
    web.get("/add/{x}")(add_here)
    web.get("/plain/{x}")(add_in_a_thread)
    web.get("/hold/{name}")(begin)
    web.get("/wait/{name}")(wait)
    return web


async def version() -> int:
    return VERSION


async def add_here(x: int) -> int:
    return await (await add.enqueue(x, 1)).get(timeout=30)


def add_in_a_thread(x: int) -> int:
    return client.enqueue(add.s(x, 1)).get(timeout=30)


async def begin(name: str) -> str:
    return (await hold.enqueue(name)).id


async def wait(name: str) -> str:
    return await (await hold.enqueue(name))


web = make_web(works=True)
