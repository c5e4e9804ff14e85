"""The reliability benchmark counts what its ledger says, and reports it."""

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliable.ledger import Cut, Ledger, note, recoveries, repeated, spread, unended
from benchmarks.reliable.table import table


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def write(ledger: Ledger, *lines: str) -> Ledger:
    with ledger.path.open("a") as file:
        file.writelines(lines)
    ledger.refresh()
    return ledger


def run(experiment: str, figures: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "contender": "celery",
        "date": "2026-11-27T01:00:00+00:00",
        "machine": {"cores": 2, "cpu": "a CPU"},
        "store": {"version": "7.0.15", "appendfsync": "always"},
        "versions": {"python": "3.11.7", "celery": "5.7.0"},
        "lease": 15,
        "figures": figures,
    } | more


def row(*runs: dict[str, Any]) -> list[str]:
    """The cells of the only library."""
    line = table(runs).splitlines()[2]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_without_a_file_nothing_has_run(ledger: Ledger) -> None:
    assert ledger.refresh() == ()
    assert unended(ledger, ["a"]) == ["a"]


def test_a_note_is_a_line_in_the_ledger(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_LEDGER", str(ledger.path))

    note("start", "a")

    [entry] = ledger.refresh()
    assert (entry.kind, entry.id, entry.pid) == ("start", "a", os.getpid())


def test_a_run_without_an_end_goes_on_in_its_process(ledger: Ledger) -> None:
    write(ledger, "start a 7 1.0\n", "start b 7 1.1\n", "start c 8 1.2\n", "end a 7 1.3\n")

    assert [entry.id for entry in ledger.running_in([7])] == ["b"]
    assert unended(ledger, "abc") == ["b", "c"]


def test_half_a_line_is_read_when_it_is_whole(ledger: Ledger) -> None:
    write(ledger, "start a 7 1.0\nend a")
    assert unended(ledger, "a") == ["a"]

    write(ledger, " 7 2.0\n")
    assert unended(ledger, "a") == []


def test_what_was_cut_short_and_ran_again_has_not_run_twice(ledger: Ledger) -> None:
    write(ledger, "start a 7 1.0\n", "start a 8 2.0\n", "end a 8 3.0\n")
    write(ledger, "start b 7 1.0\n", "end b 7 2.0\n", "start b 8 2.0\n", "end b 8 3.0\n")

    assert repeated(ledger, "ab") == ["b"]


def test_a_recovery_lasts_from_the_cut_to_the_next_start(ledger: Ledger) -> None:
    write(ledger, "start a 7 1.0\n", "start b 7 1.0\n", "start a 8 4.0\n", "start a 9 9.0\n")

    waits, never = recoveries(ledger, [Cut("a", 1.5), Cut("a", 5.0), Cut("b", 1.5)])

    assert (waits, never) == ([2.5, 4.0], 1)


def test_percentiles_are_waits_that_were_seen() -> None:
    assert spread([1.0, 2.0, 3.0]) == {"p50": 2.0, "p99": 3.0, "max": 3.0}
    assert spread([]) == {}


def test_the_report_shows_the_newest_run_of_each_experiment() -> None:
    figures: dict[str, Any] = {"lost": 9, "is_over": True, "fates_of_lost": {"": 9}}
    figures |= {"recovery": {"p50": 0.04, "p99": 2.0, "max": 3.04}, "never_again": 0}
    old = run("tree-kill9", figures)
    new = run("tree-kill9", figures | {"lost": 0})

    cells = row(old, new)

    assert cells[0] == "celery 5.7.0"
    assert cells[4:6] == ["0", "0.04 s / 3.0 s"]


def test_the_report_says_what_became_of_the_lost() -> None:
    figures: dict[str, Any] = {"lost": 2, "is_over": True, "fates_of_lost": {"failed: so": 2}}
    figures |= {"recovery": {}, "never_again": 2}

    assert row(run("tree-kill9", figures))[4:6] == ["2 (failed)", "-; 2 never"]

    cells = row(run("tree-kill9", figures | {"is_over": False}))
    assert cells[4:6] == ["2 not yet back", "-; 2 not yet"]


def test_the_report_has_a_figure_for_each_lease_under_which_a_loop_was_blocked() -> None:
    cells = row(
        run("loop-blocked", {"runs": 1}, lease=45), run("loop-blocked", {"runs": 2}, lease=15)
    )

    assert cells[6] == "2 / 1"


def test_the_report_says_that_a_poison_found_no_end() -> None:
    figures: dict[str, Any] = {"runs": 6, "stopped": False, "watched": 90.2, "fate": ""}
    figures |= {"lost": 0, "fates_of_lost": {}}

    assert row(run("poison", figures))[7:10] == ["no end: 6 in 90 s", "-", "0"]


def test_the_report_counts_restarts_by_hand_apart() -> None:
    figures: dict[str, Any] = {"lost": 0, "restarts": 5, "fates_of_lost": {}}
    figures |= {"resumed_after": [0.2, 1.26, None], "by_hand": 1}

    assert row(run("broker-kill9", figures))[10:] == ["0", "5", "1.3 s; 1 by hand"]


def test_a_run_that_failed_is_an_error_in_the_report() -> None:
    failed = run("tree-kill9", {}) | {"error": "WorkerNeverRan: so"}

    assert row(failed)[4:6] == ["error", "error"]
