"""What holds for every run of a contract."""

import pytest

from asyncq.testing.contracts import DriverFixtures


@pytest.fixture(autouse=True)
def _it_runs_by_the_scheme_that_it_names(request: pytest.FixtureRequest) -> None:  # pyright: ignore[reportUnusedFunction] - pytest's
    suite: object = request.instance
    if isinstance(suite, DriverFixtures) and "url" in request.fixturenames:
        assert request.getfixturevalue("url").scheme == suite.scheme
