"""A field is added to the message in three places, and goes through everything then.

The package is copied, and changed in exactly these places; the tests run on the copy.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import asyncq

ASYNCQ = Path(asyncq.__file__).parent

PLACES = {
    # What it is. New fields come last, with a default.
    "language/message.py": {
        "    ends: tuple[End, ...] = ()\n":
            '    tenant: str = ""\n',
    },
    # How it is written and read.
    "seams/packing.py": {
        "    ends: tuple[End, ...] = ()\n": '    tenant: str = ""\n',
        "                    envelope.ends,\n": "                    envelope.tenant,\n",
        "            fields.ends,\n": "            fields.tenant,\n",
        "        header.ends,\n": "        header.tenant,\n",
    },
    # What it is of a call.
    "client/client.py": {"            sent_at=now,\n": '            tenant="acme",\n'},
}  # fmt: skip
VALUE = {  # with which drivers are tested
    "testing/contracts/given.py": {
        '        "headers": {"a": [1, None]},\n': '        "tenant": "other",\n'
    }
}

TESTS = """
import os

import pytest

import asyncq
from asyncq.config import Url
from asyncq.language.message import new_id
from asyncq.seams.broker import QueueSpec
from asyncq.testing.contracts import EnvelopeContract, envelopes, given


@pytest.fixture(params=os.environ["URLS"].split())
def where(request):
    return request.param


class TestEnvelopes(EnvelopeContract):
    @pytest.fixture
    def url(self, where, monkeypatch):
        queue = QueueSpec(new_id())  # the others have left something in theirs
        for module in (envelopes, given):
            monkeypatch.setattr(module, "MAIL", queue)
        return Url(where)


async def test_the_task_sees_it(where):
    app, queue = asyncq.App(where), new_id()

    @app.task(queue=queue, retry=asyncq.Retry(times=1, base=0.0))
    async def whose(ctx: asyncq.Context) -> str:
        if ctx.attempt == 1:
            raise ValueError("once more")
        return ctx.message.header.tenant

    async with app, app.worker(queues=[queue]):
        assert await (await whose.enqueue()).get(timeout=20) == "acme"
"""


def _copy(folder: Path, places: Mapping[str, Mapping[str, str]]) -> None:
    shutil.copytree(ASYNCQ, folder / "asyncq")
    for place, additions in places.items():
        file = folder / "asyncq" / place
        text = file.read_text()
        for line, added in additions.items():
            assert text.count(line) == 1, f"{place} has changed: this test has to follow"
            text = text.replace(line, line + added)
        file.write_text(text)


def _run_tests(folder: Path, urls: list[str]) -> "subprocess.CompletedProcess[str]":
    (folder / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "-c", os.devnull, "--rootdir=.", "-o", "asyncio_mode=auto", "test_it.py"],
        cwd=folder,
        env={**os.environ, "URLS": " ".join(urls), "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_field_added_in_three_places_goes_through_every_driver_and_reaches_the_task(
    tmp_path: Path, redis_url: str, rabbitmq_url: str
) -> None:
    _copy(tmp_path, PLACES | VALUE)

    urls = ["memory://added", f"sqlite:///{tmp_path}/q.db", redis_url, rabbitmq_url]
    done = _run_tests(tmp_path, urls)

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_field_that_drivers_are_not_tested_with_is_named_and_said_where_it_goes(
    tmp_path: Path,
) -> None:
    _copy(tmp_path, PLACES)

    done = _run_tests(tmp_path, ["memory://added"])

    assert done.returncode == 1, done.stdout + done.stderr
    assert "tenant: no test of a driver has a value for it" in done.stdout
    assert "full_envelope in asyncq/testing/contracts/given.py" in done.stdout
