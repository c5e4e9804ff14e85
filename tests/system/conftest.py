"""A directory with an app in it, as a user would have it."""

import os
from pathlib import Path

import pytest

from tests.system.commands import Shell

TASKS = """
import asyncio
from pathlib import Path

import asyncq

app = asyncq.App("sqlite:///queue.db")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task(queue="bad")
async def fail(text: str) -> None:
    raise ValueError(text)


@app.task
async def hold(name: str, *, steps: int = 0) -> str:
    "Says that it runs, then waits for leave to end."
    await asyncq.current_context().progress(1, steps or None)
    Path(f"{name}.begun").touch()
    while not Path(f"{name}.end").exists():
        await asyncio.sleep(0.01)
    return name
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "tasks.py").write_text(TASKS)
    environment = {k: v for k, v in os.environ.items() if k != "ASYNCQ_BROKER"}
    # Bytecode is told from its source by the second: an edit within one would not be seen.
    return Shell(tmp_path, {**environment, "PYTHONDONTWRITEBYTECODE": "1"})
