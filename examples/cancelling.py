"""Cancelling what waits, what runs, and all of a tenant: python examples/cancelling.py"""

import asyncio
import time

import asyncq

app = asyncq.App("sqlite:///asyncq.db")


@app.task
async def export(tenant: str) -> str:
    try:
        await asyncio.sleep(60)  # a long query, say
    except asyncio.CancelledError:
        await asyncio.sleep(0.1)  # let go of it; there are `cancel_grace` seconds for that
        print(f"the export of {tenant} has cleaned up")
        raise
    return f"export-{tenant}.csv"


@app.task
def count(ctx: asyncq.Context, to: int) -> int:
    for number in range(to):
        ctx.checkpoint()  # in a thread, where nothing else can end it
        time.sleep(0.01)
        if number == 10:
            print("counting")
    return to


async def said(result: asyncq.Result[object]) -> str:
    try:
        return f"returned {await result!r}"
    except asyncq.TaskCancelled as error:
        return f"cancelled: {error.reason}"


async def main() -> None:
    async with app, app.worker(concurrency=3):
        runs = await export.enqueue("ann")
        counts = await count.enqueue(10_000)
        waits = await export.options(delay=3600).enqueue("bob")
        others = [
            await export.options(headers={"tenant": "eve"}).enqueue(f"eve-{n}") for n in range(5)
        ]
        await asyncio.sleep(0.5)

        print("what waits:", await waits.cancel("bob has left"))
        print("what runs:", await runs.cancel("ann has seen enough"))
        print("what runs in a thread:", await counts.cancel("nobody needs it"))
        await app.cancel(headers={"tenant": "eve"}, reason="eve did not pay")

        for result in (waits, runs, counts, *others):
            print(await said(result))


if __name__ == "__main__":
    asyncio.run(main())
