"""The tasks of a shop, in one file."""

import asyncio
from pathlib import Path

import asyncq

app = asyncq.App("sqlite:///queue.db")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
async def hold(name: str) -> str:
    """Say that it runs, then wait for leave to end."""
    Path(f"{name}.begun").touch()
    while not Path(f"{name}.end").exists():
        await asyncio.sleep(0.01)
    return name
