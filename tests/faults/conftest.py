"""What the fault tests find on their bench.

ASYNCQ_FAULTS=all   the experiments in full; ``python -m tests.faults.run --all`` sets it
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from tests.faults.lab.beds import BEDS, SERVER_BEDS, Bed, Fixture, ServerBed
from tests.faults.lab.bench import Bench
from tests.faults.lab.checker import Findings
from tests.faults.lab.proxy import Proxy, start_proxy
from tests.faults.lab.sqlite_bed import small_disk
from tests.servers import ServerMissing
from tests.servers.required import give_up

B = TypeVar("B", bound=Bed)

Report = Callable[..., None]

SMALL_DISK = 16 * 1024 * 1024  # bytes


@pytest.fixture(params=list(BEDS))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench[Bed]]:
    """A bench with each of the stores."""
    with _set_up(request, BEDS[request.param], tmp_path) as ready:
        yield ready


@pytest.fixture(params=list(SERVER_BEDS))
def server_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench[ServerBed]]:
    """A bench with each of the stores that are servers."""
    with _set_up(request, SERVER_BEDS[request.param], tmp_path) as ready:
        yield ready


@pytest.fixture(params=list(BEDS))
def small_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench[Bed]]:
    """A bench with each of the stores, where it is safe to `fill` them."""
    name, folder = request.param, tmp_path / "small"
    folder.mkdir()
    with ExitStack() as stack:
        if name == "sqlite":
            try:
                stack.enter_context(small_disk(folder, SMALL_DISK))
            except (PermissionError, FileNotFoundError) as error:
                pytest.skip(f"no small disk: {error}")
        yield stack.enter_context(_set_up(request, BEDS[name], tmp_path, store=folder))


@pytest.fixture
def proxy(server_bench: Bench[ServerBed]) -> Iterator[Proxy]:
    """A proxy before that server."""
    with start_proxy(server_bench.bed.port) as running:
        yield running


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    """Takes the figures of an experiment: its findings, and what else it measured."""

    def take(findings: Findings | None = None, **more: Any) -> None:
        figures: dict[str, Any] = more
        if findings is not None:
            figures = {**msgspec.to_builtins(findings), **more}
        record_property("figures", figures)

    return take


@contextmanager
def _set_up(
    request: pytest.FixtureRequest,
    open_bed: Callable[[Path, Fixture], AbstractContextManager[B]],
    directory: Path,
    store: Path | None = None,
) -> Generator[Bench[B]]:
    try:
        with open_bed(store or directory, request.getfixturevalue) as ready:
            bench = Bench(directory, ready)
            try:
                yield bench
            finally:
                bench.close()
    except ServerMissing as missing:
        give_up(request.param, missing)
