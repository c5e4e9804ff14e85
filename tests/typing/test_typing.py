"""A type checker sees what is wrong with a call, and the type of what comes back."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyright")

SAMPLE = Path(__file__).with_name("sample.py")
ROOT = SAMPLE.parents[2]
DOCSTRING = 5  # lines, which show what a mark looks like
EXPECTED = re.compile(r"# (error|type): (.+)$")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[tuple[str, str]]]:
    """What pyright says, in strict mode: line, then kind and message."""
    project = tmp_path_factory.mktemp("pyright")  # the sample is excluded from the repository's own
    (project / SAMPLE.name).write_text(SAMPLE.read_text())
    settings = {
        "include": [SAMPLE.name],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "reportUnusedCoroutine": False,
    }
    (project / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "-p", str(project)], capture_output=True, text=True, check=False, timeout=300
    )
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        pytest.skip(f"pyright does not run here: {(done.stdout + done.stderr)[-500:]}")
    assert report["summary"]["filesAnalyzed"] == 1
    lines: dict[int, list[tuple[str, str]]] = {}
    for entry in report["generalDiagnostics"]:
        line = entry["range"]["start"]["line"] + 1
        lines.setdefault(line, []).append((entry["severity"], entry["message"]))
    return lines


def marked(kind: str) -> list[Any]:
    """The lines of the sample that expect something of this kind."""
    found: list[Any] = []
    for number, line in enumerate(SAMPLE.read_text().splitlines(), 1):
        match = EXPECTED.search(line) if number > DOCSTRING else None
        if match and match[1] == kind:
            found.append(pytest.param(number, match[2], id=line.strip()[:60]))
    return found


@pytest.mark.parametrize(("line", "text"), marked("error"))
def test_what_is_wrong_is_refused(
    said: dict[int, list[tuple[str, str]]], line: int, text: str
) -> None:
    messages = [message for kind, message in said.get(line, ()) if kind == "error"]

    assert any(text in message for message in messages), messages or "it passes"


@pytest.mark.parametrize(("line", "text"), marked("type"))
def test_what_comes_back_has_its_type(
    said: dict[int, list[tuple[str, str]]], line: int, text: str
) -> None:
    types = [message for kind, message in said.get(line, ()) if kind == "information"]

    assert any(message.endswith(f' is "{text}"') for message in types), said.get(line)


def test_what_is_right_passes(said: dict[int, list[tuple[str, str]]]) -> None:
    expected = {param.values[0] for param in marked("error")}
    refused = {line for line, found in said.items() if any(kind == "error" for kind, _ in found)}

    assert not refused - expected, {line: said[line] for line in refused - expected}
