"""Retry policies: which errors, how often, and after what pause."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncq.policies import Retry

seconds = st.floats(0, 1e9)
factors = st.floats(1, 1e300)
attempts = st.integers(1, 10**9)
draws = st.floats(0, 1, exclude_max=True)


policies = st.builds(
    Retry,
    base=seconds,
    factor=factors,
    ceiling=seconds,
    jitter=st.booleans(),
    on=st.just((OSError,)),
)


@given(policies, attempts, draws)
@example(Retry(factor=2.0, jitter=False), 2000, 0.5)
@example(Retry(factor=10.0, jitter=False), 400, 0.5)
def test_no_pause_exceeds_its_ceiling(retry: Retry, attempt: int, draw: float) -> None:
    assert 0 <= retry.pause(attempt, lambda: draw) <= retry.ceiling


@given(seconds, st.floats(1, 4), seconds, st.integers(1, 100))
def test_pauses_grow_until_they_reach_the_ceiling(
    base: float, factor: float, ceiling: float, attempt: int
) -> None:
    retry = Retry(base=base, factor=factor, ceiling=ceiling, jitter=False)

    assert retry.pause(attempt) <= retry.pause(attempt + 1)
    assert retry.pause(1) == min(base, ceiling)


def test_pauses_follow_the_formula() -> None:
    retry = Retry(base=0.5, factor=3.0, ceiling=10.0, jitter=False)

    assert [retry.pause(attempt) for attempt in range(1, 6)] == [0.5, 1.5, 4.5, 10.0, 10.0]


@given(attempts, draws)
def test_jitter_takes_an_even_part_of_the_pause(attempt: int, draw: float) -> None:
    steady, spread = Retry(jitter=False), Retry(jitter=True)

    assert spread.pause(attempt, lambda: draw) == steady.pause(attempt) * draw


@given(st.integers(0, 100), st.integers(1, 200))
def test_a_task_is_tried_as_often_as_it_is_allowed(times: int, attempt: int) -> None:
    assert Retry(times=times).allows(ValueError(), attempt) == (attempt <= times)


def test_only_the_named_errors_are_tried_again() -> None:
    retry = Retry(on=(LookupError, OSError))

    assert retry.allows(KeyError("x"), 1)
    assert retry.allows(ConnectionError(), 1)
    assert not retry.allows(ValueError(), 1)


@pytest.mark.parametrize("field", [{"times": -1}, {"base": -1.0}, {"factor": 0.5}, {"ceiling": -1}])
def test_a_policy_that_makes_no_sense_is_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Retry takes"):
        Retry(**field)  # pyright: ignore[reportArgumentType] - wrong on purpose
