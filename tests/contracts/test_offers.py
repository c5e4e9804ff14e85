"""What drivers say of themselves: which optional parts of the seams they have."""

import msgspec
import pytest

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.table import make_backend, make_broker

LEASED = {"leases", "admin", "finder"}
STORED = {"topics", "ledger", "registry"}


def offered(offers: msgspec.Struct) -> set[str]:
    return {name for name in offers.__struct_fields__ if getattr(offers, name)}


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("memory://offers", LEASED),
        ("sqlite:///offers.db", LEASED),
        ("redis://127.0.0.1:1", LEASED),
        ("amqp://127.0.0.1:1", {"admin", "is_there", "bind"}),
    ],
)
def test_a_broker_says_what_it_offers_before_it_is_connected(url: str, parts: set[str]) -> None:
    broker = make_broker(Url(url), SystemClock())

    assert offered(broker.offers) == parts


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("memory://offers", STORED),
        ("sqlite:///offers.db", STORED),
        ("redis://127.0.0.1:1", STORED),
        ("amqp://127.0.0.1:1", {"keeps_nothing"}),
        ("null://", {"tells_nothing"}),
    ],
)
def test_a_backend_says_what_it_offers_before_it_is_connected(url: str, parts: set[str]) -> None:
    backend = make_backend(Url(url), SystemClock())

    assert offered(backend.offers) == parts
