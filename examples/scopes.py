"""A task group whose children run anywhere: python examples/scopes.py"""

import asyncio

import asyncq

app = asyncq.App("sqlite:///asyncq.db")


@app.task
async def fetch(page: int) -> str:
    if page == 13:
        raise LookupError("there is no page 13")
    await asyncio.sleep(0.05)
    return f"page {page}"


@app.task
async def crawl(pages: list[int]) -> int:
    for page in pages:
        await fetch.enqueue(page)  # belongs to the scope that this task was sent in
    return len(pages)


@app.task
async def search(engine: str, seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError as why:
        print(f"{engine} was told to stop: {why}")
        raise
    return f"found by {engine}"


async def main() -> None:
    async with app, app.worker():
        # Left normally, it waits for all, children of children included.
        async with asyncq.scope() as scope:
            await crawl.enqueue([1, 2, 3])
        print("left", scope)

        # What failed is raised when all have ended.
        try:
            async with asyncq.scope():
                await crawl.enqueue([12, 13, 14])
        except* asyncq.TaskFailed as failed:
            print("failed:", *failed.exceptions)

        # Or it is told in its place.
        async with asyncq.scope(collect=True) as scope:
            for page in (12, 13):
                await fetch.enqueue(page)
        print("collected:", *scope.outcomes)

        # The first answer is enough.
        async with asyncq.scope() as scope:
            engines = {"tortoise": 60.0, "hare": 0.1}
            results = [await search.enqueue(name, seconds) for name, seconds in engines.items()]
            async for first in asyncq.as_completed(results):
                print(await first)
                await scope.cancel("another was quicker")
                break

        # Left by an error, or late, it cancels the whole tree; what is sent apart goes on.
        apart: list[asyncq.Result[str]] = []
        try:
            async with asyncq.scope(timeout=0.3):
                await search.enqueue("snail", 60.0)
                apart.append(await fetch.options(scope=None).enqueue(7))
        except TimeoutError as error:
            print("too late:", error)
        print("apart:", *await asyncq.gather(*apart))


if __name__ == "__main__":
    asyncio.run(main())
