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
