"""A request whose client goes is cancelled, and all that it has begun.

    uvicorn examples.fastapi_scope:web
    curl --max-time 1 localhost:8000/reports/2026
    curl localhost:8000/log

Its worker runs in the same process here; it may as well run elsewhere.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI

import asyncq
from asyncq.integrations.asgi import CancelOnDisconnect

app = asyncq.App()
log: list[str] = []


@app.task
async def count(month: int) -> int:
    try:
        await asyncio.sleep(30)  # a long query, say
    except asyncio.CancelledError as why:
        log.append(f"month {month}: {why}")
        raise
    return month


@app.task
async def report(year: int) -> int:
    async with asyncq.scope(collect=True) as scope:
        for month in range(1, 13):
            await count.enqueue(month)
    return sum(scope.outcomes)


@app.task
async def audit(line: str) -> None:
    log.append(line)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with app, app.worker():
        yield


web = FastAPI(lifespan=lifespan)
web.add_middleware(CancelOnDisconnect)  # added last, and so the outermost


@web.get("/reports/{year}")
async def read_report(year: int) -> int:
    async with asyncq.scope():
        await audit.options(scope=None, delay=2).enqueue(f"{year} was asked for")  # whatever comes
        return await (await report.enqueue(year))


@web.post("/reports/{year}", status_code=202)
async def order_report(year: int, behind: BackgroundTasks) -> None:
    async def note() -> None:
        await audit.enqueue(f"{year} was ordered")

    behind.add_task(note)  # behind the answer nobody is waited for


@web.get("/log")
async def read_log() -> list[str]:
    return log
