"""An outage is told of when it begins, when its kind changes, now and then, and when it ends."""

import logging
import threading

import anyio
import pytest

from asyncq import outages
from asyncq.errors import BrokerUnavailable, ConfigurationError
from asyncq.outages import AWAY, WRONG, Outage
from tests.worker.virtual import on_virtual_time

CUT = BrokerUnavailable("no answer from 'here': timed out.")
REFUSED = ConfigurationError("'here' refuses us: wrong password")


def mail(remind: float = 1e9) -> Outage:
    return Outage("mail is not sent", "mail is sent again", remind=remind)


def said(caplog: pytest.LogCaptureFixture, above: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > above]


@on_virtual_time
async def test_it_is_told_of_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = mail()

    for _ in range(30):
        outage.fail(CUT)
        await anyio.sleep(0.1)
    outage.end()
    outage.end()

    assert said(caplog) == [
        "mail is not sent, trying again: no answer from 'here': timed out",
        "mail is sent again after 3.0 s",
    ]


@on_virtual_time
async def test_another_kind_of_reason_is_told_of_with_the_time_that_has_passed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = mail()

    outage.fail(CUT)
    await anyio.sleep(2.5)
    outage.fail(REFUSED)
    outage.fail(REFUSED)

    assert said(caplog) == [
        "mail is not sent, trying again: no answer from 'here': timed out",
        "mail is not sent since 2.5 s, trying again: 'here' refuses us: wrong password",
    ]
    assert outage.error is REFUSED


async def test_what_only_a_change_would_help_is_an_error_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mail().fail(CUT)
    mail().fail(REFUSED)

    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]


@on_virtual_time
async def test_whoever_asks_is_reminded_of_it(caplog: pytest.LogCaptureFixture) -> None:
    outage = mail(remind=10.0)

    for _ in range(25):
        outage.fail(CUT)
        await anyio.sleep(1.0)

    assert len(said(caplog)) == 3
    assert said(caplog)[-1].startswith("mail is not sent since 20.0 s, trying again: ")


async def test_pauses_grow_while_it_fails_and_are_short_again_once_it_worked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWAY", "WRONG"):
        policy = AWAY if name == "AWAY" else WRONG
        steady = type(policy)(base=policy.base, ceiling=policy.ceiling, jitter=False)
        monkeypatch.setattr(outages, name, steady)
    outage = mail()

    pauses = [outage.fail(CUT) for _ in range(8)]
    outage.end()

    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert outage.fail(CUT) == 0.05
    assert mail().fail(REFUSED) == 0.5


def test_a_thread_without_a_loop_may_have_one(caplog: pytest.LogCaptureFixture) -> None:
    outage = mail()

    def work() -> None:
        outage.fail(CUT)
        outage.end()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert said(caplog)[-1] == "mail is sent again after 0.0 s"


async def test_an_error_of_any_length_is_one_line_of_bounded_length(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mail().fail(BrokerUnavailable("x\n" * 100_000))

    [line] = said(caplog)
    assert len(line) < 1200
    assert line.isprintable()
