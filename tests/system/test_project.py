"""A project of several modules, as `examples/project` has it: run in its folder, as users do."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.system.commands import Shell

ROOT = Path(__file__).parents[2]
APP = "shop.app:app"
IMPORTS = ["shop.tasks.mail", "shop.tasks.billing", "shop.web", "shop.app"]
VISIT = """
from fastapi.testclient import TestClient
from shop.web import web
with TestClient(web) as client:
    sent = client.post("/orders/order-2/payment?amount=3")
    print(client.get("/payments/" + sent.json()["id"]).json()["mail"])
"""


@pytest.fixture
def project(tmp_path: Path) -> Shell:
    place = tmp_path / "project"
    shutil.copytree(ROOT / "examples" / "project", place)
    environment = {name: value for name, value in os.environ.items() if name != "ASYNCQ_BROKER"}
    return Shell(place, {**environment, "PYTHONPATH": str(ROOT)})


def test_tasks_of_two_modules_that_import_each_other_send_each_other(project: Shell) -> None:
    def call(*arguments: str) -> str:
        ended = project.asyncq("call", APP, *arguments, "--wait", "--timeout", "30")
        assert ended.code == 0, ended.err
        return ended.data

    def result(id: str) -> str:
        ended = project.asyncq("result", APP, id, "--wait", "--timeout", "30", "--json")
        return ended.data["value"]

    with project.start("worker", APP) as worker:
        worker.wait_for("consumes")
        mail, refund = call("charge", '"order-1"', "12.5"), call("bounced", '"order-1"')
        told = result(mail), result(refund)
        visit = project.run([sys.executable, "-c", VISIT])
        by_web = result(visit.out.strip())
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0

    assert told == ("receipt for order-1: 12.50", "order-1 refunded")
    assert by_web == "receipt for order-2: 3.00", visit.err


@pytest.mark.parametrize("first", IMPORTS)
def test_whichever_module_is_imported_first_the_app_has_all_tasks(
    project: Shell, first: str
) -> None:
    code = f"import {first}; from shop.app import app; print(*sorted(app.tasks))"

    ended = project.run([sys.executable, "-c", code])

    assert ended.out.split() == [
        "shop.tasks.billing.charge",
        "shop.tasks.billing.refund",
        "shop.tasks.mail.bounced",
        "shop.tasks.mail.receipt",
    ], ended.err


def test_a_project_that_is_not_where_the_command_runs_is_found_by_name(project: Shell) -> None:
    folder = project.directory
    inside = Shell(folder / "shop", {**os.environ, "PYTHONPATH": str(ROOT)})
    within = inside.asyncq("worker", APP)
    (folder / "src").mkdir()
    (folder / "shop").rename(folder / "src" / "shop")
    beside = project.asyncq("worker", APP)

    assert "this folder is that package: run the command in the folder above" in within.err
    assert "it is in src: write PYTHONPATH=src before the command" in beside.err
    assert within.code == beside.code == 2


def test_a_task_of_another_module_is_named_where_one_is_not_found(project: Shell) -> None:
    ended = project.asyncq("call", APP, "shop.mail.bounced", '"order-1"')

    assert "did you mean shop.tasks.mail.bounced?" in " ".join(ended.err.split())
    assert ended.code == 2
