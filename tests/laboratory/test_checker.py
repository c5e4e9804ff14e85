"""The checker counts what a ledger says."""

import msgspec
import pytest

from asyncq.language.message import Succeeded
from asyncq.language.record import Record
from tests.faults.lab.checker import Findings, check
from tests.faults.lab.ledger import Accepted, Attempted, Died, Ended, Entry, Healed, Started


def sent(*ids: str) -> list[Entry]:
    return [Attempted([*ids], 0.0), Accepted([*ids], 0.1)]


def outcome(id: str, run: str) -> Record:
    return Record(id, Succeeded(msgspec.Raw(msgspec.msgpack.encode(run))))


def found(*entries: Entry, records: dict[str, str] | None = None) -> Findings:
    stored = {id: outcome(id, run) for id, run in (records or {}).items()}
    return check([*sent("a"), *entries], stored, set())


def test_a_task_that_ran_once_is_well() -> None:
    findings = found(Started("a", "1", 1, 7, 1.0), Ended("a", "1", 2.0), records={"a": "1"})

    assert (findings.attempted, findings.acknowledged, findings.ok) == (1, 1, 1)
    assert findings.named == {}


def test_what_was_accepted_and_is_nowhere_is_lost() -> None:
    assert found().named == {"lost": ["a"]}


def test_two_ends_of_one_attempt_are_a_duplicate_and_a_repetition() -> None:
    findings = found(
        Started("a", "1", 1, 7, 1.0),
        Ended("a", "1", 2.0),
        Started("a", "2", 1, 8, 3.0),
        Ended("a", "2", 4.0),
        records={"a": "1"},
    )

    assert findings.named == {"duplicated": ["a"], "repeated": ["a"]}


def test_two_runs_at_one_moment_overlap() -> None:
    findings = found(
        Started("a", "1", 1, 7, 1.0),
        Started("a", "2", 1, 8, 1.5),
        Ended("a", "1", 2.0),
        Ended("a", "2", 2.5),
        records={"a": "1"},
    )

    assert findings.overlapped == 1


def test_an_outcome_that_no_run_explains_is_unexpected() -> None:
    assert found(records={"a": "9"}).named == {"unexpected": ["a"]}


def test_recovery_is_counted_from_the_death_to_the_next_run() -> None:
    entries: list[Entry] = [Died(7, 10.0)]
    for number in range(100):
        entries += [
            Started(f"{number}", f"{number}-1", 1, 7, 9.0),
            Started(f"{number}", f"{number}-2", 1, 8, 11.0 if number else 15.0),
            Ended(f"{number}", f"{number}-2", 16.0),
        ]
    entries += [Attempted([f"{number}" for number in range(100)], 0.0)]

    findings = found(*entries)

    assert findings.recovered == 100
    assert findings.t_recover == pytest.approx(5.0)
    assert findings.t_recover_p99 == pytest.approx(1.0)


def test_resumption_is_counted_from_the_repair_to_the_next_run() -> None:
    findings = found(
        Healed(1.0), Started("a", "1", 1, 7, 1.5), Ended("a", "1", 2.0), records={"a": "1"}
    )

    assert findings.t_resume == pytest.approx(0.5)
