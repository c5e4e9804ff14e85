"""What was pushed before anybody asked, while other threads take theirs."""

import sys
import threading
from collections.abc import Iterator

import msgspec
import pytest

from asyncq.client import arrivals as arrivals_module
from asyncq.client.arrivals import Arrivals, Batch
from asyncq.language.message import Succeeded
from asyncq.language.record import Record

IDS = [str(number) for number in range(3000)]
ROUNDS = 30  # without the copy, one in five fails


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def record_of(id: str) -> Record:
    return Record(id=id, outcome=Succeeded(msgspec.Raw(b"\x01")))


def take_all(batch: Batch, taken: list[Record | None]) -> None:
    taken += map(batch.take, IDS)


@pytest.mark.usefixtures("hasty_threads")
def test_what_is_kept_can_be_counted_while_another_thread_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrivals_module, "MOST_KEPT", len(IDS))
    for _ in range(ROUNDS):
        arrivals = Arrivals(remembers=False)
        arrivals.listen()
        batch = arrivals.sent_together(list(IDS))
        for id in IDS:
            arrivals.keep(batch, record_of(id))
        with monkeypatch.context() as full:
            full.setattr(arrivals_module, "MOST_KEPT", -1)  # so that each is a reason to count
            full.setattr(arrivals_module, "RECOUNT", 1)
            taken: list[Record | None] = []
            thread = threading.Thread(target=take_all, args=(batch, taken))
            thread.start()
            while thread.is_alive():
                arrivals.keep(batch, record_of("late"))
            thread.join()

        assert None not in taken
