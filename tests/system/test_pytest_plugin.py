"""The fixtures for pytest, under every plugin that runs coroutines and in every loop they use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import pytest
import asyncq

app = asyncq.App("redis://127.0.0.1:1/0")

@app.task
async def add(x: int, y: int) -> int:
    return x + y

@app.task(retry=asyncq.Retry(times=1, base=60.0, jitter=False))
async def fail() -> None:
    raise ValueError

@pytest.fixture
def asyncq_app():
    return app
"""
TESTS = """
import pytest
import asyncq
from conftest import add, app, fail

MARKS

class TestTasks:
    async def test_one(self, asyncq_run):
        assert await (await add.enqueue(1, 2)).get(timeout=20) == 3
        assert asyncq_run.enqueued == [add.s(1, 2)]

    async def test_another_has_a_run_of_its_own(self, asyncq_run):
        assert asyncq_run.enqueued == []
        await fail.enqueue()
        await asyncq_run.advance(61)
        assert len(asyncq_run.failures) == 1

    @pytest.mark.asyncq(worker=False)
    async def test_without_a_worker(self, asyncq_run):
        result = await add.enqueue(1, 2)
        assert await result.status() is asyncq.Status.QUEUED

    async def test_a_failure_comes_out_as_it_is(self, asyncq_run):
        with pytest.raises(ZeroDivisionError):
            1 / 0
        pytest.skip("skipped as ever")

def test_without_a_loop(asyncq_run):
    with app.sync() as client:
        client.enqueue(add.s(1, 2))
    assert asyncq_run.enqueued == [add.s(1, 2)]
"""
BACKEND = """pytestmark = pytest.mark.anyio

@pytest.fixture(scope="SCOPE")
def anyio_backend():
    return "asyncio"
"""
LOOP_SCOPE = "asyncio_default_fixture_loop_scope=function"
PYTEST_ASYNCIO = ["-p", "pytest_asyncio.plugin", "-o", LOOP_SCOPE]
ANYIO = ["-p", "anyio.pytest_plugin"]


def scope(name: str) -> str:
    return f"pytestmark = pytest.mark.asyncio(loop_scope={name!r})"


@pytest.mark.parametrize(
    ("plugins", "marks"),
    [
        ([*PYTEST_ASYNCIO, "-o", "asyncio_mode=auto"], ""),
        ([*PYTEST_ASYNCIO, "-o", "asyncio_mode=strict"], "pytestmark = pytest.mark.asyncio"),
        *(
            ([*PYTEST_ASYNCIO, "-o", f"asyncio_mode={mode}"], scope(name))
            for mode in ("auto", "strict")
            for name in ("function", "module", "session")
        ),
        (ANYIO, BACKEND.replace("SCOPE", "function")),
        (ANYIO, BACKEND.replace("SCOPE", "session")),
    ],
)
def test_the_fixtures_work(tmp_path: Path, plugins: list[str], marks: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS.replace("MARKS", marks))

    done = run_pytest(tmp_path, *plugins)

    assert "4 passed, 1 skipped" in done, done


def test_an_app_that_nobody_has_defined_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(asyncq_run): ...")

    done = run_pytest(tmp_path)

    assert "define a fixture named asyncq_app" in done


def run_pytest(folder: Path, *options: str) -> str:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "asyncq.testing.pytest_plugin"]
    done = subprocess.run(
        [*command, *options, str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr
