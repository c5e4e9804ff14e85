"""A task has one name, however the module it is in was started."""

import sys

import pytest

from tests.system.commands import Shell

SHOP = """
import functools
import asyncq

app = asyncq.App("memory://")

def logged(function):
    @functools.wraps(function)
    async def run(*args):
        return await function(*args)
    return run

class Declined(Exception):
    pass

@app.task
async def add(x: int, y: int) -> int:
    return x + y

@app.task
@logged
async def charge(x: int) -> int:
    raise Declined

if __name__ in ("__main__", "__mp_main__"):
    print(*sorted(app.tasks))
"""
SPAWN = """
if __name__ == "__main__":
    import multiprocessing
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=print)
    child.start()
    child.join()
"""
PYTHON = sys.executable


@pytest.fixture
def here(shell: Shell) -> Shell:
    folder = shell.directory
    (folder / "pack").mkdir()
    for place in ("shop.py", "pack/__init__.py", "pack/__main__.py", "my-shop.py", "my shop.py"):
        (folder / place).write_text("" if place.endswith("__init__.py") else SHOP)
    (folder / "spawning.py").write_text(SHOP + SPAWN)
    return shell


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ([PYTHON, "shop.py"], "shop"),
        ([PYTHON, "pack/../shop.py"], "shop"),
        ([PYTHON, "-m", "shop"], "shop"),
        ([PYTHON, "-i", "shop.py"], "shop"),
        ([PYTHON, "-m", "pack"], "pack.__main__"),
        ([PYTHON, "-m", "cProfile", "-o", "profile", "shop.py"], "shop"),
        ([PYTHON, "-c", "import runpy; runpy.run_path('shop.py', run_name='__main__')"], "shop"),
        ([PYTHON, "my-shop.py"], "my-shop"),
        ([PYTHON, "my shop.py"], "__main__"),  # nobody can import that
        ([PYTHON, "pack"], "__main__"),
        ([PYTHON, "-c", SHOP], "__main__"),
        ([PYTHON, "-"], "__main__"),
        ([PYTHON, "-m", "asyncio"], "__main__"),
    ],
)
def test_a_programs_tasks_are_called_as_a_worker_calls_them(
    here: Shell, command: list[str], module: str
) -> None:
    typed = "exec('''" + SHOP + "''')\n" if command[-1] == "asyncio" else SHOP

    ended = here.run(command, stdin="" if "-i" in command else typed)

    assert f"{module}.add {module}.charge" in ended.out, ended.err


def test_what_multiprocessing_spawns_calls_them_so_as_well(here: Shell) -> None:
    ended = here.run([PYTHON, "spawning.py"])

    assert ended.out.split() == ["spawning.add", "spawning.charge"] * 2, ended.err


def test_what_is_typed_in_may_be_typed_again(here: Shell) -> None:
    again = "import asyncq\napp = asyncq.App('memory://')\n" + (
        "@app.task\nasync def add() -> None: ...\n\n" * 2
    )

    ended = here.run([PYTHON, "-i", "-c", ""], stdin=again + "print(*app.tasks)\n")

    assert ended.out.split() == ["__main__.add"], ended.err


def test_a_program_and_a_worker_of_its_file_understand_each_other(here: Shell) -> None:
    program = SHOP.replace("memory://", "sqlite:///queue.db") + (
        "    import asyncio\n"
        "    async def main():\n"
        "        async with app:\n"
        "            print(await (await add.enqueue(1, 2)).get(timeout=30))\n"
        "    asyncio.run(main())\n"
    )
    (here.directory / "shop.py").write_text(program)

    with here.start("worker", "shop:app") as worker:
        worker.wait_for("consumes")
        ended = here.run([PYTHON, "shop.py"])

    assert ended.out.split()[-1] == "3", ended.err


def test_a_program_that_others_import_as_well_still_runs(here: Shell) -> None:
    """The module is there twice then, with two apps: one task each by every name."""
    (here.directory / "mail.py").write_text(
        "from shop import app\n@app.task\nasync def send() -> None: ...\n"
    )
    program = SHOP.replace('"memory://"', '"memory://", include=["mail"]') + (
        "    import shop\n    print(*sorted(shop.app.tasks))\n"
    )
    (here.directory / "shop.py").write_text(program)

    ended = here.run([PYTHON, "shop.py"])

    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "mail.send shop.add shop.charge"
