"""One word for each thing: those that gave way to another do not come back."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncq

RETIRED = {
    "intakes?": "fetcher",
    "branch(es)?": "session",
    "conclusions?|conclude[sd]?": "completion",
    "lanes?": "quarantine",
    "bells?": "wakeup",
    "mailbox(es)?": "subscription",
    "ticks?": "heartbeat",
    "eras?": "epoch",
    "desk": "outcomes",
    "rungs?|ladders?": "delay level",
    "keepers?": "renewer",
    "farewells?": "stragglers",
    "lookouts?": "hosts",
    "obedience": "stop level",
    "seats?": "access",
    "shel(?:f|ves)": "expiring",
}


def texts() -> Iterator[Path]:
    yield Path(__file__).parent.with_name("README.md")
    for path in Path(asyncq.__file__).parent.rglob("*"):
        if path.suffix in {".py", ".lua", ".sql"}:
            yield path


@pytest.mark.parametrize(("word", "now"), RETIRED.items(), ids=RETIRED.values())
def test_a_retired_word_is_in_no_code_log_or_document(word: str, now: str) -> None:
    # In one word with others, too: `_conclude`, `BellSignal`, `wait_for_lane`.
    retired = re.compile(rf"(?:\b|_)(?:{word})(?:\b|_)", re.IGNORECASE)

    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if retired.search(line)
    ]

    assert not found, f"say {now}"
