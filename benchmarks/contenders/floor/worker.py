"""The floor's worker: claim, run, settle.

    python -m benchmarks.contenders.floor.worker

It works until it is killed: there is no shutdown.
"""

import asyncio
from collections import defaultdict
from itertools import chain

import msgspec
import uvloop

from benchmarks import tasks
from benchmarks.contenders.floor.store import (
    AWAKE,
    CLAIM,
    SETTLE,
    Failed,
    Message,
    Outcome,
    Store,
    Succeeded,
)
from benchmarks.contenders.interface import CONCURRENCY

BATCH = 500  # messages claimed or settled at a time: Lua's stack is bounded

TASKS = {"noop": tasks.noop, "sleeper": tasks.sleeper}
decode = msgspec.msgpack.Decoder(Message).decode
encode = msgspec.msgpack.Encoder().encode


class Worker:
    """Two loops and a coroutine per message; all share one event loop, so nothing is locked."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}
        self._done: list[tuple[Message, Outcome]] = []
        self._freed = asyncio.Event()  # a slot is free
        self._ended = asyncio.Event()  # there is something to settle

    async def run(self) -> None:
        """Work until killed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claim())
            group.create_task(self._settle())

    async def _claim(self) -> None:
        store = Store()
        await store.open()
        loop = asyncio.get_running_loop()
        while True:
            while not (free := CONCURRENCY - len(self._running)):
                self._freed.clear()
                await self._freed.wait()
            bodies = await store.run(CLAIM, min(free, BATCH))
            if not bodies:
                await store.call("BLPOP", AWAKE, 0)
            for body in bodies:
                message = decode(body)
                # Bare, as a task in a group costs five times as much; the set owns it.
                self._running[message.id] = loop.create_task(self._execute(message))

    async def _execute(self, message: Message) -> None:
        try:
            outcome: Outcome = Succeeded(await TASKS[message.task](*message.args))
        except Exception as error:  # noqa: BLE001 whatever a task raises is its outcome
            outcome = Failed(repr(error))
        del self._running[message.id]
        self._done.append((message, outcome))
        self._freed.set()
        self._ended.set()

    async def _settle(self) -> None:
        store = Store()
        await store.open()
        while True:
            while not self._done:
                self._ended.clear()
                await self._ended.wait()
            batch, self._done = self._done[:BATCH], self._done[BATCH:]
            replies: defaultdict[str, list[tuple[str, Outcome]]] = defaultdict(list)
            for message, outcome in batch:
                replies[message.reply_to].append((message.id, outcome))
            await store.run(
                SETTLE,
                len(batch),
                *chain.from_iterable((message.id, encode(outcome)) for message, outcome in batch),
                *chain.from_iterable((to, encode(sent)) for to, sent in replies.items()),
            )


if __name__ == "__main__":
    uvloop.run(Worker().run())
