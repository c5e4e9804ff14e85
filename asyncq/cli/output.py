"""What commands print: tables, JSON, one-line errors, and text that cannot steer a terminal.

Ids, names, reasons and values come from messages, and messages from anybody. Nothing of theirs is
printed before it went through `plain`, or as JSON in ASCII.
"""

import json
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from asyncq.errors import AsyncqError, ConfigurationError, first_error

ELLIPSIS = "…"
PIPE_WIDTH = 1000  # columns of a table that no terminal shows: programs want whole lines
UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def plain(value: object) -> str:
    """``value`` as text on one line: what is not printable is escaped, ``\\x1b`` say."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def bounded(text: str, size: int) -> str:
    """``text``, in at most ``size`` bytes; what was cut shows as an ellipsis."""
    encoded = text.encode(errors="backslashreplace")
    if len(encoded) <= size:
        return text
    return encoded[: size - len(ELLIPSIS.encode())].decode(errors="ignore") + ELLIPSIS


def print_json(value: Any) -> None:
    """One JSON document, in ASCII; bytes in it are Base64, moments ISO 8601."""
    print(json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=repr)))


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """A table as wide as it needs to be; where that is too wide for the terminal, cells wrap."""
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_line(head: str, rest: str) -> None:
    """One line, however long; its head stands out on a terminal."""
    line = Text.assemble((plain(head), "bold"), " " if head else "", plain(rest))
    Console(soft_wrap=True).print(line)


def print_facts(facts: Sequence[tuple[str, object]], *, title: str = "", err: bool = False) -> None:
    """Names and values, one pair to a line."""
    console = Console(stderr=err, soft_wrap=True)
    if title:
        console.print(Text(plain(title), style="bold"))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        console.print(Text.assemble((f"{name:<{width}}  ", "dim"), plain(value)))


def ask(question: str) -> None:
    """Go on only if the answer is yes; no answer is none. The question goes to standard error."""
    print(f"{plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    if answer.strip().lower() not in {"y", "yes"}:
        complain("nothing was changed")
        raise typer.Exit(1)


def complain(why: object) -> None:
    """One line to standard error."""
    print(f"asyncq: {plain(why)}", file=sys.stderr)


def explain(error: BaseException) -> tuple[str, int]:
    """What to complain of, and the exit code: 2 where the set-up is wrong, 1 where it failed."""
    reason = first_error(error)
    known = isinstance(reason, AsyncqError | TimeoutError)
    why = str(reason) if known else describe_error(reason)
    return why, 2 if isinstance(reason, ConfigurationError) else 1


def describe_error(error: BaseException) -> str:
    """What was raised, and where, on one line."""
    name, text = type(error).__name__, str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        name, text = type(error).__name__, error.msg
        where = f" ({error.filename}, line {error.lineno})"
    return f"{name}: {text}{where}" if text else f"{name}{where}"


def duration(seconds: float) -> str:
    """``4 s``, ``3 min``, ``2 h``, ``5 d``: one unit is enough to see what is old."""
    for length, unit in UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
