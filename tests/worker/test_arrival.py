"""A worker that starts before its broker: what it waits for, and what it says."""

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Self

import pytest

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.null import NullBackend
from asyncq.errors import BackendUnavailable, BrokerUnavailable, ConfigurationError
from asyncq.language.record import Record
from asyncq.seams.backend import Backend
from asyncq.worker.arrival import connected
from tests.worker.virtual import on_virtual_time


class Place:
    """An app whose broker answers from one moment on, and whose backend from another."""

    def __init__(self, broker: float, backend: float = 0.0, wrong: float = 1e9) -> None:
        now = asyncio.get_running_loop().time
        self._broker, self._backend, self._wrong = now() + broker, now() + backend, now() + wrong
        self._now = now
        self.entered = 0

    async def __aenter__(self) -> Self:
        if self._now() >= self._wrong:
            raise ConfigurationError("'here' refuses us: wrong password")
        if self._now() < self._broker:
            raise BrokerUnavailable("no answer from 'here': Connection refused.")
        self.entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.entered -= 1

    def backend(self) -> Backend:
        return _Backend(self._now() < self._backend)


class _Backend(NullBackend):
    def __init__(self, away: bool) -> None:
        super().__init__(Url("null://"), SystemClock())
        self._away = away

    async def fetch(self, ids: Sequence[str]) -> Sequence[Record | None]:
        if self._away:
            raise BackendUnavailable("no answer from 'there': timed out")
        return await super().fetch(ids)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


@on_virtual_time
async def test_it_says_what_it_waits_for_now_and_then_and_when_that_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place(broker=70.0)

    async with connected(place, place.backend, required=False):
        assert place.entered == 1

    first, *still, last = said(caplog)
    why = "no answer from 'here': Connection refused"
    assert first == f"waiting for the broker, trying again: {why}"
    assert len(still) == 2
    for line, seconds in zip(still, (r"3\d\.\d", r"6\d\.\d"), strict=True):
        assert re.fullmatch(rf"waiting for the broker since {seconds} s, trying again: {why}", line)
    assert last.startswith("connected to the broker after 7")
    assert place.entered == 0


@on_virtual_time
async def test_a_broker_is_found_soon_after_it_came(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(broker=1000.0)
    began = asyncio.get_running_loop().time()

    async with connected(place, place.backend, required=False):
        waited = asyncio.get_running_loop().time() - began

    assert 1000.0 <= waited <= 1002.0


@on_virtual_time
async def test_a_backend_is_waited_for_as_well(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(broker=3.0, backend=7.0)

    async with connected(place, place.backend, required=False):
        assert place.entered == 1  # what was tried in vain is closed again

    assert [line.split(" after ")[0].split(", trying")[0] for line in said(caplog)] == [
        "waiting for the broker",
        "connected to the broker",
        "waiting for the backend",
        "connected to the backend",
    ]


@on_virtual_time
async def test_what_is_there_at_once_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    place = Place(broker=0.0)

    async with connected(place, place.backend, required=False):
        pass

    assert said(caplog) == []


@on_virtual_time
async def test_what_is_required_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    place, other = Place(broker=1.0), Place(broker=0.0, backend=1.0)

    with pytest.raises(BrokerUnavailable):
        async with connected(place, place.backend, required=True):
            pass
    with pytest.raises(BackendUnavailable):
        async with connected(other, other.backend, required=True):
            pass

    assert said(caplog) == []
    assert other.entered == 0


@on_virtual_time
async def test_a_set_up_that_turns_out_wrong_ends_the_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place(broker=60.0, wrong=5.0)

    with pytest.raises(ConfigurationError, match="wrong password"):
        async with connected(place, place.backend, required=False):
            pass

    assert len(said(caplog)) == 1


@on_virtual_time
async def test_what_the_block_raises_comes_out_and_is_not_tried_again() -> None:
    place = Place(broker=0.0)
    runs: list[int] = []

    async def run() -> None:
        async with connected(place, place.backend, required=False):
            runs.append(place.entered)
            raise BrokerUnavailable("within")

    with pytest.raises(BrokerUnavailable, match="within"):
        await run()

    assert runs == [1]
    assert place.entered == 0
