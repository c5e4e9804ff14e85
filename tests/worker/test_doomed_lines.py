"""What the log says about messages that were never run, however many there are."""

import logging

import pytest

from asyncq.language.envelope import Envelope
from asyncq.language.message import Failure, FailureType
from asyncq.worker.tasks import COMPLAIN_EVERY, TaskLog


def doom(log: TaskLog, kind: FailureType, now: float) -> None:
    log.doomed(Envelope(id="a", queue="narrow", body=b""), Failure(kind.value, "it is full"), now)


def test_one_a_minute_is_a_warning_that_counts_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asyncq")
    log = TaskLog()

    for _ in range(1000):
        doom(log, FailureType.OVERFLOWED, 1e9)
    doom(log, FailureType.PURGED, 1e9)
    doom(log, FailureType.OVERFLOWED, 1e9 + COMPLAIN_EVERY)

    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert warnings == [
        "message a is not run: it is full",
        "message a is not run: it is full (and 999 others before)",
    ]
    assert len(caplog.records) == log.failed == 1002
