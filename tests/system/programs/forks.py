"""Forks of a process that is connected: python forks.py URL HOW. Prints what came of it."""

import asyncio
import gc
import multiprocessing
import os
import sys
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import asyncq

app = asyncq.App(sys.argv[1] if len(sys.argv) > 1 else None)
PATIENCE = 20.0


@app.task
async def add(x: int, y: int) -> int:
    return x + y


async def ask_connected(x: int) -> int:
    async with app:
        return await (await add.enqueue(x, 1)).get(timeout=PATIENCE)


def work(x: int) -> int:
    """What a child does: a client of its own, in a loop of its own."""
    try:
        asyncio.run(add.enqueue(x, 1))
    except asyncq.ConfigurationError as error:
        assert "not connected" in str(error), error
    return asyncio.run(ask_connected(x))


def in_a_child(call: Any, *args: Any) -> int:
    """Its exit code. It leaves as a program does: with all that Python does at its end."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        code = 0 if call(*args) is not False else 2
        gc.collect()
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # what `sys.exit` waits for, without the rest of the parent's stack
        sys.stdout.flush()
        os._exit(code)


async def by_fork() -> None:
    """A fork in a coroutine, as careless as it is."""
    async with app, app.worker():
        first = await add.enqueue(1, 1)
        assert await first.get(timeout=PATIENCE) == 2
        codes = [
            await asyncio.to_thread(in_a_child, lambda x=x: work(x) == x + 1) for x in range(3)
        ]
        assert await (await add.enqueue(2, 2)).get(timeout=PATIENCE) == 4
        print(codes)


async def by_processes() -> None:
    """multiprocessing, and a pool of its processes."""
    fork = multiprocessing.get_context("fork")
    loop = asyncio.get_running_loop()
    async with app, app.worker():
        process = fork.Process(target=work, args=(1,))
        process.start()
        await asyncio.to_thread(process.join, PATIENCE)
        with ProcessPoolExecutor(2, mp_context=fork) as pool:
            answers = [loop.run_in_executor(pool, work, x) for x in range(6)]
            values = [await answer for answer in answers]
        assert await (await add.enqueue(2, 2)).get(timeout=PATIENCE) == 4
        print(process.exitcode, values)


def by_sync_client() -> None:
    """A client that a module opened when it was imported, as gunicorn --preload has it."""
    client = app.sync().__enter__()

    async def serve(done: asyncio.Event) -> None:
        async with app.worker():
            await done.wait()

    before, parent = client.enqueue(add.s(0, 0)), os.getpid()
    done = asyncio.Event()
    loop = asyncio.new_event_loop()
    server = threading.Thread(target=lambda: loop.run_until_complete(serve(done)))
    server.start()

    def use() -> bool:
        again = client.enqueue(add.s(1, 1)).get(timeout=PATIENCE) == 2
        try:
            return again and before.get(timeout=PATIENCE) == 0
        except asyncq.UnknownResult:  # RabbitMQ tells it to the process that sent it, and says so
            return again and sys.argv[1].startswith("amqp") and os.getpid() != parent

    codes = [in_a_child(use) for _ in range(3)]
    print(codes, use())
    loop.call_soon_threadsafe(done.set)
    server.join()


def in_the_middle() -> None:
    """Threads that hold whatever locks there are, and forks among them."""
    client = app.sync().__enter__()
    over = threading.Event()

    def keep_sending() -> None:
        while not over.is_set():
            client.enqueue_many(add.s(n, n) for n in range(20))
            with app.sync() as other:
                other.enqueue(add.s(1, 1))

    threads = [threading.Thread(target=keep_sending) for _ in range(4)]
    for thread in threads:
        thread.start()

    def use() -> bool:
        with app.sync() as other:
            ids = {client.enqueue(add.s(1, 1)).id, other.enqueue(add.s(1, 1)).id}
            return len(ids) == 2

    codes = {in_a_child(use) for _ in range(12)}
    over.set()
    for thread in threads:
        thread.join()
    client.enqueue(add.s(1, 1))
    print(codes)


def orphaned() -> None:
    """A child that goes on when its parent has closed the file and gone."""
    with app.sync() as client:
        client.enqueue(add.s(1, 1))
        parent = os.getpid()
        if os.fork():
            return
        while os.getppid() == parent:
            time.sleep(0.01)
        client.enqueue_many(add.s(n, n) for n in range(20))
        print("sent")


if __name__ == "__main__":
    match sys.argv[2]:
        case "orphan":
            orphaned()
        case "fork":
            asyncio.run(by_fork())
        case "processes":
            asyncio.run(by_processes())
        case "sync":
            by_sync_client()
        case _:
            in_the_middle()
