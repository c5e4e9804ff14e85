"""Scopes as users have them: in the examples, and in a request whose client goes."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.request import urlopen

import pytest

from tests.system.commands import Shell
from tests.system.test_cancelling import example
from tests.system.test_servers import EXAMPLES, assert_no_harm, serving, uvicorn

WITHIN = 2.0  # seconds, from when the client has gone

AROUND = """
from examples.fastapi_scope import web

@web.middleware("http")
async def nothing(request, call_next):
    return await call_next(request)
"""
INSIDE = """
from asyncq.integrations.asgi import CancelOnDisconnect
from examples.fastapi_scope import web as inner

inner.user_middleware.clear()

@inner.middleware("http")
async def nothing(request, call_next):
    return await call_next(request)

web = CancelOnDisconnect(inner)
"""
PROGRAMS = {"alone": None, "in another middleware": AROUND, "around another": INSIDE}


def test_the_example_of_scopes(shell: Shell) -> None:
    said = example(shell, "scopes.py")
    assert said[0] == "left <scope of 4 tasks, left>"
    assert "failed: task" in said[1]
    assert said[1].endswith("LookupError: there is no page 13")
    assert said[2].startswith("collected: page 12 task ")
    assert said[3] == "found by hare"
    assert set(said[4:]) == {
        "tortoise was told to stop: another was quicker",
        "snail was told to stop: the time of its scope was over",
        "too late: the scope was not left in 0.3 s: what it had begun is cancelled",
        "apart: page 7",
    }


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_request_whose_client_goes_ends_its_tree(shell: Shell, program: str | None) -> None:
    shutil.copytree(EXAMPLES, shell.directory / "examples")
    if program is not None:
        (shell.directory / "program.py").write_text(program)
    served = "examples.fastapi_scope:web" if program is None else "program:web"
    with serving(shell, *uvicorn(served)) as server:
        server.wait_for("/log", [])
        with suppress(TimeoutError):
            urlopen(f"http://127.0.0.1:{server.port}/reports/2026", timeout=1.0)
        gone = time.monotonic()
        wait_until(lambda: len(server.get("/log")) >= 12, gone + WITHIN)
        told = server.get("/log")
        assert {line.partition(": ")[0] for line in told if line.startswith("month")} == {
            f"month {month}" for month in range(1, 13)
        }
        assert server.post("/reports/2027") is None
        expected = {"2026 was asked for", "2027 was ordered"}
        wait_until(lambda: expected <= set(server.get("/log")), gone + 20)
        server.interrupt()
        assert server.wait() == 0
        assert_no_harm(server)


def wait_until(condition: Callable[[], bool], deadline: float) -> None:
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
