"""The shortest program there is: python examples/quickstart.py. It needs no server."""

import asyncio

import asyncq

app = asyncq.App()  # SQLite, in ./asyncq.db


@app.task
async def add(x: int, y: int) -> int:
    return x + y


async def main() -> None:
    async with app, app.worker():
        result = await add.enqueue(1, 2)
        print(await result)


if __name__ == "__main__":
    asyncio.run(main())
