"""What the tests of SQLite begin with: a file, and a broker and a backend on it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from asyncq.clock import SystemClock
from asyncq.config import Url
from asyncq.drivers.sqlite.backend import SqliteBackend
from asyncq.drivers.sqlite.broker import SqliteBroker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "asyncq.db"


@pytest.fixture
def url(path: Path) -> Url:
    return Url(f"sqlite:///{path}")


@pytest.fixture
async def broker(url: Url) -> AsyncGenerator[SqliteBroker]:
    async with SqliteBroker(url, SystemClock()) as broker:
        yield broker


@pytest.fixture
async def backend(url: Url) -> AsyncGenerator[SqliteBackend]:
    async with SqliteBackend(url, SystemClock()) as backend:
        yield backend
