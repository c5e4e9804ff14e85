"""The client of one library, in its own environment: it enqueues what it is told to.

    python -m benchmarks.reliable.client taskiq

It reads one JSON request per line and answers each with one line. An enqueueing that raises is
tried again, as a careful caller would: only what the library has acknowledged is answered as kept.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from time import monotonic
from typing import Any, TextIO

from benchmarks.inside import versions
from benchmarks.loops import each
from benchmarks.reliable.interface import Reliable

WIDTH = 20  # enqueued at a time, where the client's calls are coroutines
PATIENCE = 60.0  # seconds in which an enqueueing is tried again
PAUSE = 0.2  # seconds between two tries
HANG = 10.0  # seconds after which a call that does not return counts as failed

Answer = Mapping[str, object]


class Client:
    """Serves requests with one contender."""

    def __init__(self, name: str, contender: Reliable) -> None:
        self._name = name
        self._contender = contender
        self._complaints: dict[str, int] = {}

    async def serve(self, answers: TextIO) -> None:
        """Answer every line of stdin until it is closed."""
        async with self._contender.connect():
            while line := await asyncio.to_thread(sys.stdin.readline):
                answers.write(json.dumps(await self._answer(json.loads(line))) + "\n")
                answers.flush()

    async def _answer(self, request: Mapping[str, Any]) -> Answer:
        match request["call"]:
            case "about":
                return {
                    "settings": dict(self._contender.settings),
                    "versions": versions(self._name),
                    "commands": [list(self._contender.worker_command(n)) for n in range(2)],
                }
            case "enqueue":
                return await self._enqueue(request["task"], request["messages"])
            case "fate":
                return {"fate": await self._fate(request["id"])}
            case unknown:
                raise ValueError(f"no such call: {unknown}")

    async def _enqueue(self, task: str, messages: list[tuple[str, float]]) -> Answer:
        self._complaints = {}
        width = 1 if self._contender.blocking else WIDTH
        kept = await each(lambda message: self._keep(task, *message), messages, width)
        return {"kept": [id for id in kept if id], "complaints": self._complaints}

    async def _keep(self, task: str, id: str, seconds: float) -> str | None:
        deadline = monotonic() + PATIENCE
        while monotonic() < deadline:
            try:
                async with asyncio.timeout(HANG):
                    await self._contender.enqueue(task, id, seconds)
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller tries again
                self._complain(error)
                await asyncio.sleep(PAUSE)
            else:
                return id
        return None

    async def _fate(self, id: str) -> str:
        try:
            async with asyncio.timeout(HANG):
                return await self._contender.fate(id)
        except Exception as error:  # noqa: BLE001 - it is asked again
            self._complain(error)
            return ""

    def _complain(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        self._complaints[said] = self._complaints.get(said, 0) + 1
        print(said, file=sys.stderr, flush=True)


def main() -> None:
    """Serve until stdin is closed; what libraries print does not get among the answers."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    name = sys.argv[1]
    contender: Reliable = import_module(f"benchmarks.reliable.{name}").contender
    asyncio.run(Client(name, contender).serve(answers))


if __name__ == "__main__":
    main()
