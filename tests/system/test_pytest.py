"""What a project's own tests do: an app in fixtures of every scope, in loops of every scope."""

import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE = 60  # seconds
SUITE = """
import pytest
import pytest_asyncio

import asyncq

app = asyncq.App("memory://")
pytestmark = pytest.mark.asyncio(loop_scope="{loop}")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@pytest_asyncio.fixture(scope="{fixture}", loop_scope="{fixture}")
async def shop():
    async with app, app.worker():
        yield app


async def test_one(shop):
    assert await (await add.enqueue(1, 2)).get(timeout=20) == 3


async def test_many(shop):
    results = await app.enqueue_many(add.s(n, n) for n in range(5))
    assert await asyncq.gather(*results, timeout=20) == [0, 2, 4, 6, 8]
"""


def run_suite(folder: Path, *, fixture: str, loop: str) -> "subprocess.CompletedProcess[str]":
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (folder / "test_shop.py").write_text(SUITE.format(fixture=fixture, loop=loop))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


@pytest.mark.parametrize("scope", ["function", "session"])
def test_a_fixture_holds_app_and_worker_for_tests_of_its_own_loop(
    tmp_path: Path, scope: str
) -> None:
    run = run_suite(tmp_path, fixture=scope, loop=scope)

    assert run.returncode == 0, run.stdout
    assert "2 passed" in run.stdout


def test_tests_of_another_loop_than_their_fixtures_are_told_what_to_write(tmp_path: Path) -> None:
    run = run_suite(tmp_path, fixture="session", loop="function")

    assert "2 failed" in run.stdout, run.stdout
    assert "error" not in run.stdout.splitlines()[-1]  # the fixture itself ends well
    assert "ConfigurationError: the app is not connected in this event loop" in run.stdout
    assert "'async with app:'" in run.stdout
