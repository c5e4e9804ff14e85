"""A client that enqueues a large chord in stages: what it has written runs once all is there.

A latch for each page of parts holds these. One more latch, the stage, holds a task that opens them
all and begins the chord; it arrives with the last write. Whatever was written before lapses.

    python -m tests.faults.lab.staging ROOT PARTS PAGE SECONDS

It reads a line before each page, and writes one when that is held.
"""

import os
import sys
import time

import anyio
import msgspec

from asyncq.config import Config
from asyncq.language.effects import Arrive, Hold, Send
from asyncq.language.message import End, derived_id
from tests.chords import apply, send_released
from tests.faults.lab.tasks import STAGE_KEPT, STAGED, make_app


def stage_of(root: str) -> str:
    return f"{root}/stage"


def pages_of(root: str, parts: int, page: int) -> list[str]:
    return [f"{root}/{start}" for start in range(0, parts, page)]


async def enqueue(root: str, parts: int, page: int, seconds: float) -> None:
    app = make_app(
        os.environ["LAB_URL"],
        Config(**msgspec.json.decode(os.environ["LAB_CONFIG"])),
        os.environ.get("LAB_BACKEND"),
    )
    until = time.time() + seconds  # noqa: TID251 - what a client says to a store
    pages = pages_of(root, parts, page)
    async with app:
        work, follow_up = app.tasks["work"].s(), app.client.follow_up

        async def hold(latch: str, sends: list[Send]) -> None:
            held = Hold(latch, (STAGED,), tuple(sends), until=until, keep=STAGE_KEPT)
            await apply(app, [held])

        opener = app.tasks["open_stage"].s(root, parts, pages)
        await hold(stage_of(root), follow_up(opener, derived_id(root, "opener")))
        for latch, start in zip(pages, range(0, parts, page), strict=True):
            await anyio.to_thread.run_sync(sys.stdin.readline)
            sends: list[Send] = []
            for number in range(start, min(start + page, parts)):
                name = str(number)
                sends += follow_up(work, derived_id(root, name), (End(root, name),))
            await hold(latch, sends)
            sys.stdout.write(f"{latch}\n")
            sys.stdout.flush()
        await apply(app, [Arrive(stage_of(root), STAGED, True)])
        await send_released(app, stage_of(root))


if __name__ == "__main__":
    anyio.run(enqueue, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
