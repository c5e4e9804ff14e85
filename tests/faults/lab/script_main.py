"""A process of the laboratory that is no worker and has a scope.

LAB_PARTS    what it sends within; else as in `tests.faults.lab.place`
"""

import os

import anyio
import msgspec

import asyncq
from tests.faults.lab.place import app
from tests.faults.lab.runs import ledger
from tests.faults.lab.scoped import PARTS, begin


async def main() -> None:
    parts = msgspec.json.decode(os.environ[PARTS])
    async with app, asyncq.scope():
        await begin(app, ledger(), str(os.getpid()), *parts)


if __name__ == "__main__":
    anyio.run(main)
