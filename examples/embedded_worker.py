"""A worker inside a program, on the same event loop: python examples/embedded_worker.py"""

import asyncio
import hashlib

import asyncq

app = asyncq.App("sqlite:///asyncq.db")


@app.task(queue="hashes")
def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def main() -> None:
    async with app, app.worker(queues=["hashes"], concurrency=20):
        results = await app.enqueue_many(digest.s(f"message {n}") for n in range(1000))
        async for result in asyncq.as_completed(results, timeout=30):
            value = await result
            if value.startswith("00"):
                print(f"message {result.id} has a lucky digest: {value}")
    # Here the worker has drained: everything that ran is settled.


if __name__ == "__main__":
    asyncio.run(main())
