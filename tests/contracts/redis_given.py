"""What the tests of a Redis in trouble begin with: pauses that are short."""

import logging

import pytest

from asyncq import outages
from asyncq.language.policies import Retry

SOON = Retry(times=0, base=0.02, ceiling=0.05)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cannot be done is tried again after a moment."""
    for name in ("AWAY", "WRONG"):
        monkeypatch.setattr(outages, name, SOON)


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    """What the log has for an operator."""
    return "\n".join(
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    )
