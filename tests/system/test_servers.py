"""Programs as users have them, in the servers that they have: answers, ends, and clean logs."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from asyncq.app import App
from asyncq.language.message import Status, new_id
from tests.system.commands import TIMEOUT, Shell, wait_until_there

PROGRAMS = Path(__file__).parent / "programs"
EXAMPLES = Path(__file__).parents[2] / "examples"
AT_ONCE = 15.0  # seconds, on a busy machine; the grace is 30, and what runs here never ends
WAITS = "another Ctrl-C (SIGINT) requeues them at once"


on_both = pytest.mark.parametrize("project", ["sqlite", "redis"], indirect=True)


class Project(Shell):
    """A directory with the programs in it, and the URL of their broker."""

    url = "sqlite:///queue.db"


@pytest.fixture
def project(shell: Shell, request: pytest.FixtureRequest) -> Project:
    """The programs on SQLite, or on what the test is parametrized by."""
    for program in PROGRAMS.glob("[a-z]*.py"):
        shutil.copy(program, shell.directory)
    project = Project(shell.directory, shell.environment)
    if getattr(request, "param", "sqlite") == "redis":
        url = f"{request.getfixturevalue('redis_url')}?prefix={new_id()}"
        shop = shell.directory / "shop.py"
        shop.write_text(shop.read_text().replace(project.url, url))
        project.url = url
    return project


class Server:
    """A server and its processes, which hear signals together, as in a terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self._process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> Any:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=TIMEOUT) as answer:
            return json.load(answer)

    def post(self, path: str) -> Any:
        request = Request(f"http://127.0.0.1:{self.port}{path}", method="POST")
        with urlopen(request, timeout=TIMEOUT) as answer:
            return json.load(answer)

    def wait_for(self, path: str, value: Any) -> None:
        """Return once it answers so."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                if self.get(path) == value:
                    return
            except (URLError, OSError):
                pass  # it is not up yet, or between two lives
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def wait_for_line(self, text: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while text not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def interrupt(self) -> None:
        os.killpg(self._process.pid, signal.SIGINT)

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float = TIMEOUT) -> int:
        return self._process.wait(timeout)


@contextmanager
def serving(shell: Shell, *command: str) -> Generator[Server]:
    """``command`` on a port of its own, which stands in it as PORT; killed with the block."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    log = shell.directory / f"server-{port}.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ASYNCQ_")}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, *(word.replace("PORT", str(port)) for word in command)],
            cwd=shell.directory,
            env={**environment, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Server(process, port, log)
        finally:
            with suppress(ProcessLookupError):  # all of it has ended, as it should
                os.killpg(process.pid, signal.SIGKILL)


def uvicorn(program: str, *options: str) -> Sequence[str]:
    return ("-m", "uvicorn", program, "--host", "127.0.0.1", "--port", "PORT", *options)


def status_of(project: Project, id: str) -> Status:
    url = project.url.replace("sqlite:///", f"sqlite:///{project.directory}/")

    async def ask() -> Status:
        async with App(url) as app:
            return await app.result(id).status()

    return asyncio.run(ask())


def assert_no_harm(server: Server) -> None:
    for word in ("Traceback", "Error", "never awaited", "was destroyed", "leaked"):
        assert word not in server.log, server.log


EMBEDDED = {
    "fastapi": uvicorn("web_fastapi:web"),
    "aiohttp": ("web_aiohttp.py", "PORT"),
}


@on_both
@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_server_with_a_worker_inside_answers_and_ends(project: Project, kind: str) -> None:
    with serving(project, *EMBEDDED[kind]) as server:
        server.wait_for("/add/1", 2)
        with ThreadPoolExecutor(8) as threads:
            paths = [f"/add/{n}" for n in range(20)]
            assert list(threads.map(server.get, paths)) == list(range(1, 21))
        server.interrupt()

        assert server.wait() == 0
        assert_no_harm(server)


GUNICORN = ("-m", "gunicorn", "--preload", "--no-control-socket", "-w", "2", "-b", "127.0.0.1:PORT")
DJANGO = {
    "wsgi": (*GUNICORN, "examples.django_app:wsgi"),
    "asgi": uvicorn("examples.django_app:asgi"),
}


@pytest.mark.parametrize("kind", DJANGO)
def test_the_example_of_django_sends_and_reads(shell: Shell, kind: str) -> None:
    shutil.copytree(EXAMPLES, shell.directory / "examples")

    with serving(shell, *DJANGO[kind]) as server:
        server.wait_for("/results/of-nothing", {"status": "unknown"})
        ids = [server.post(f"/orders/{n}/receipt")["id"] for n in range(6)]
        assert [server.get(f"/results/{id}") for id in ids] == [{"status": "queued"}] * 6
        assert shell.asyncq("worker", "examples.shop:app", "--burst").code == 0
        assert [server.get(f"/results/{id}") for id in ids] == [{"status": "succeeded"}] * 6
        server.terminate()

        server.wait()
        assert_no_harm(server)


def test_plain_endpoints_send_by_a_client_of_their_own(project: Project) -> None:
    with serving(project, *uvicorn("web_fastapi:web")) as server:
        server.wait_for("/plain/1", 2)
        with ThreadPoolExecutor(8) as threads:
            paths = [f"/plain/{n}" for n in range(20)]
            assert list(threads.map(server.get, paths)) == list(range(1, 21))
        server.interrupt()

        assert server.wait() == 0
        assert_no_harm(server)


@on_both
@pytest.mark.parametrize("kind", EMBEDDED)
def test_the_first_interrupt_lets_tasks_end_and_says_what_for(project: Project, kind: str) -> None:
    with serving(project, *EMBEDDED[kind]) as server:
        server.wait_for("/add/1", 2)
        id = server.get("/hold/a")
        wait_until_there(project.directory / "a.begun")
        server.interrupt()
        server.wait_for_line(WAITS)
        (project.directory / "a.end").touch()

        assert server.wait() == 0
        assert id in server.log
        assert status_of(project, id) is Status.SUCCEEDED
        assert_no_harm(server)


@on_both
@pytest.mark.parametrize("kind", EMBEDDED)
def test_the_second_interrupt_ends_at_once_and_gives_back(project: Project, kind: str) -> None:
    with serving(project, *EMBEDDED[kind]) as server:
        server.wait_for("/add/1", 2)
        id = server.get("/hold/a")
        wait_until_there(project.directory / "a.begun")
        server.interrupt()
        server.wait_for_line(WAITS)
        server.interrupt()

        assert server.wait(AT_ONCE) in {0, 1}  # aiohttp's own code for that is 1
        assert status_of(project, id) is Status.QUEUED, server.log
        assert_no_harm(server)


@on_both
def test_the_second_interrupt_ends_requests_that_wait_for_a_task(project: Project) -> None:
    """uvicorn waits for its requests first; the second time it leaves out the lifespan's end."""
    with (
        serving(project, *uvicorn("web_fastapi:web")) as server,
        ThreadPoolExecutor(1) as threads,
    ):
        server.wait_for("/add/1", 2)
        waits = threads.submit(server.get, "/wait/a")
        wait_until_there(project.directory / "a.begun")
        server.interrupt()
        server.wait_for_line("CTRL+C to force quit")
        server.interrupt()

        server.wait(AT_ONCE)
        assert waits.exception(AT_ONCE) is not None
    with serving(project, *uvicorn("web_fastapi:web")) as server:
        (project.directory / "a.end").touch()  # it was given back, and runs here
        server.wait_for("/add/1", 2)
        server.interrupt()
        assert server.wait() == 0


@on_both
def test_several_processes_of_a_server_each_have_a_worker(project: Project) -> None:
    with serving(project, *uvicorn("web_fastapi:web", "--workers", "2")) as server:
        server.wait_for("/add/1", 2)
        server.wait_for("/plain/1", 2)
        id = server.get("/hold/a")
        wait_until_there(project.directory / "a.begun")
        server.interrupt()
        server.wait_for_line(WAITS)
        (project.directory / "a.end").touch()

        assert server.wait() == 0
        assert status_of(project, id) is Status.SUCCEEDED
        assert_no_harm(server)


def test_a_server_that_reloads_begins_anew(project: Project) -> None:
    with serving(project, *uvicorn("web_fastapi:web", "--reload")) as server:
        server.wait_for("/add/1", 2)
        program = project.directory / "web_fastapi.py"
        program.write_text(program.read_text().replace("VERSION = 1", "VERSION = 2"))
        server.wait_for("/version", 2)
        assert server.get("/add/1") == server.get("/plain/1") == 2
        server.interrupt()

        assert server.wait() == 0
        assert_no_harm(server)


@on_both
def test_a_server_that_only_sends_has_its_results_of_a_worker_beside_it(project: Project) -> None:
    with (
        project.start("worker", "shop:app") as worker,
        serving(project, *uvicorn("web_sends:web", "--workers", "2")) as server,
    ):
        worker.wait_for("consumes")
        server.wait_for("/add/1", 2)
        assert server.get("/plain/1") == 2
        server.interrupt()

        assert server.wait() == 0
        assert_no_harm(server)


@on_both
def test_django_under_wsgi_has_plain_and_async_views(project: Project) -> None:
    """gunicorn forks when the module is loaded, and its client open; its threads share that one."""
    options = ("--preload", "--workers", "2", "--threads", "4", "--bind", "127.0.0.1:PORT")
    command = ("-m", "gunicorn", *options, "--no-control-socket", "web_django:wsgi")
    with project.start("worker", "shop:app") as worker, serving(project, *command) as server:
        worker.wait_for("consumes")
        server.wait_for("/plain/1", 2)
        with ThreadPoolExecutor(8) as threads:
            paths = [f"/{kind}/{n}" for n in range(10) for kind in ("plain", "async")]
            expected = [n + 1 for n in range(10) for _ in range(2)]
            assert list(threads.map(server.get, paths)) == expected
        server.terminate()

        assert server.wait() == 0
        assert_no_harm(server)


def test_django_under_asgi_connects_in_a_lifespan_around_it(project: Project) -> None:
    with (
        project.start("worker", "shop:app") as worker,
        serving(project, *uvicorn("web_django:asgi", "--lifespan", "on")) as server,
    ):
        worker.wait_for("consumes")
        server.wait_for("/connected/1", 2)
        with ThreadPoolExecutor(6) as threads:
            paths = [f"/{kind}/1" for kind in ("plain", "async", "connected") * 4]
            assert set(threads.map(server.get, paths)) == {2}
        server.interrupt()

        assert server.wait() == 0
        assert_no_harm(server)


SCRIPT = """
import asyncio

from shop import add, app


async def main():
    async with app, app.worker():
        print(await (await add.enqueue(1, 2)).get(timeout=30))


asyncio.run(main())
with app.sync() as client:
    print(client.result(client.enqueue(add.s(1, 2)).id).status())
"""


@on_both
def test_a_script_has_its_results_and_ends(project: Project) -> None:
    (project.directory / "script.py").write_text(SCRIPT)

    ended = project.run([sys.executable, "script.py"])

    assert ended == (0, "3\nqueued\n", "")


A_BLOCK = """
async with app, app.worker():
    print("the sum is", await (await add.enqueue(1, 2)))

"""
LEFT_OPEN = """
_ = await app.__aenter__()
worker = app.worker()
_ = await worker.__aenter__()
result = await add.enqueue(1, 2)
print("the sum is", await result)
"""
A_SYNCHRONOUS_CLIENT = """
import asyncio
client = app.sync().__enter__()
async with app.worker():
    result = await asyncio.to_thread(client.enqueue, add.s(1, 2))
    print("the sum is", await asyncio.to_thread(result.get, 30))

"""


@on_both
@pytest.mark.parametrize("typed", [A_BLOCK, LEFT_OPEN, A_SYNCHRONOUS_CLIENT])
def test_what_is_typed_at_the_asyncio_prompt_works(project: Project, typed: str) -> None:
    ended = project.run(
        [sys.executable, "-m", "asyncio"], stdin=f"from shop import add, app\n{typed}"
    )

    assert ended.code == 0, ended.err
    assert "the sum is 3\n" in ended.out, ended.err
    assert "Traceback" not in ended.err
    assert "Error" not in ended.err
    assert "was destroyed" not in ended.err
