"""A type checker sees what is wrong with a call, and the type of what comes back."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SAMPLE = Path(__file__).with_name("sample.py")
ROOT = SAMPLE.parents[2]
MARK = re.compile(r"# (?:(error|type): (.+?))?(?: ?\[mypy: (.+)\])?$")
TIMEOUT = 300.0  # seconds


class Said(NamedTuple):
    """What a checker says of one line."""

    errors: list[str]
    types: list[str]


Report = dict[int, Said]


class Expected(NamedTuple):
    """What a line is marked with."""

    error: str | None
    type: str | None
    mypy: str | None


def run_pyright(folder: Path, mode: str) -> Report:
    settings = {
        "include": [SAMPLE.name],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": mode,
        "pythonVersion": "3.11",
        "reportUnusedCoroutine": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    out = run([*command, "-p", str(folder)], folder)
    try:
        report: dict[str, Any] = json.loads(out)
    except json.JSONDecodeError:
        pytest.skip(f"pyright does not run here: {out[-500:]}")
    assert report["summary"]["filesAnalyzed"] == 1
    said: Report = defaultdict(lambda: Said([], []))
    for entry in report["generalDiagnostics"]:
        of_line = said[entry["range"]["start"]["line"] + 1]
        if entry["severity"] == "error":
            of_line.errors.append(entry["message"])
        elif match := re.search(r' is "(.*)"$', entry["message"]):
            of_line.types.append(match[1])
    return said


def run_mypy(folder: Path, mode: str) -> Report:
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-error-summary"]
    strict = ["--strict"] if mode == "strict" else []
    out = run([*command, "--python-version", "3.11", *strict, SAMPLE.name], folder)
    said: Report = defaultdict(lambda: Said([], []))
    for number, kind, text in re.findall(rf"^{SAMPLE.name}:(\d+): (\w+): (.*)$", out, re.MULTILINE):
        of_line = said[int(number)]
        if kind == "error":
            of_line.errors.append(text)
        elif match := re.search(r'Revealed type is "(.*)"$', text):
            of_line.types.append(re.sub(r"[\w.]+\.(\w+)", r"\1", match[1]))  # in full: asyncq.x.Y
    assert said, out
    return said


def run(command: list[str], folder: Path) -> str:
    """What a checker prints, with our package before its eyes as if it were installed."""
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.stdout or done.stderr


def expectations() -> dict[int, Expected]:
    lines = SAMPLE.read_text().splitlines()
    begin = lines.index('"""', 1) + 1  # behind the docstring, which shows what a mark looks like
    found: dict[int, Expected] = {}
    for number, line in enumerate(lines[begin:], begin + 1):
        if (match := MARK.search(line)) and match[0] != "# ":
            kind, text, mypy = match.groups()
            found[number] = Expected(
                text if kind == "error" else None, text if kind == "type" else None, mypy
            )
    return found


@pytest.mark.parametrize("mode", ["basic", "strict"])
def test_pyright_sees_what_the_sample_says(tmp_path: Path, mode: str) -> None:
    pytest.importorskip("pyright")
    (tmp_path / SAMPLE.name).write_text(SAMPLE.read_text())

    said = run_pyright(tmp_path, mode)

    wrong: dict[int, Any] = {}
    for number, expected in (wanted := expectations()).items():
        errors, types = said[number]
        if expected.error is not None and not any(expected.error in error for error in errors):
            wrong[number] = ("is to be refused", expected.error, errors)
        if expected.type is not None and expected.type not in types:
            wrong[number] = ("has another type", expected.type, types)
    assert not wrong
    assert not unexpected(said, lambda number: number in wanted and wanted[number].error)


@pytest.mark.parametrize("mode", ["basic", "strict"])
def test_mypy_sees_what_the_sample_says(tmp_path: Path, mode: str) -> None:
    pytest.importorskip("mypy")
    (tmp_path / SAMPLE.name).write_text(SAMPLE.read_text())

    said = run_mypy(tmp_path, mode)

    wrong: dict[int, Any] = {}
    for number, expected in (wanted := expectations()).items():
        errors, types = said[number]
        if expected.error is not None and bool(errors) == (expected.mypy == "passes"):
            wrong[number] = ("is to be refused", expected.error, errors)
        if expected.type is not None and (expected.mypy or expected.type) not in types:
            wrong[number] = ("has another type", expected.type, types)
    assert not wrong
    assert not unexpected(
        said,
        lambda number: (
            number in wanted and (wanted[number].error or wanted[number].mypy == "refuses")
        ),
    )


def unexpected(said: Report, may: Callable[[int], Any]) -> Report:
    return {number: each for number, each in said.items() if each.errors and not may(number)}
