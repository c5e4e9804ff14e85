"""Retry policies: which errors, how often, and after what pause."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncq.errors import InvalidValue
from asyncq.language.policies import Retry, as_retry
from asyncq.language.quantities import LONGEST

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


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ({"times": -1}, "times is from 0"),
        ({"times": 1.5}, "times is from 0"),
        ({"times": "3"}, "times is from 0"),
        ({"times": True}, "times is from 0"),
        ({"times": math.inf}, "times is from 0"),
        ({"base": -1.0}, "base is a number of seconds"),
        ({"base": "1"}, "base is a number of seconds"),
        ({"factor": 0.5}, "factor is a number of at least 1"),
        ({"factor": math.nan}, "factor is a number of at least 1"),
        ({"ceiling": -1}, "ceiling is a number of seconds"),
        ({"jitter": 0.5}, "jitter is True or False"),
        ({"on": "ValueError"}, "on is a class of exceptions"),
        ({"on": ["ValueError"]}, "on is a class of exceptions"),
        ({"on": [ValueError()]}, "on is a class of exceptions"),
        ({"on": []}, "leave the policy out"),
        ({"on": int}, "on is a class of exceptions"),
        ({"on": (ValueError, KeyboardInterrupt)}, "KeyboardInterrupt ends the worker"),
        ({"on": None}, "on is a class of exceptions"),
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(field: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidValue, match=why):
        Retry(**field)


@pytest.mark.parametrize(
    "on", [ValueError, [ValueError], {ValueError}, (ValueError,), iter([ValueError])], ids=type
)
def test_the_errors_of_a_policy_are_one_class_or_several(on: Any) -> None:
    retry = Retry(on=on)

    assert retry.on == (ValueError,)
    assert retry.allows(UnicodeError(), 1)
    assert not retry.allows(KeyError(), 1)


def test_the_times_of_a_policy_may_stand_alone() -> None:
    assert Retry(5) == Retry(times=5)


def test_the_pauses_of_a_policy_may_be_timedeltas() -> None:
    retry = Retry(base=timedelta(seconds=2), ceiling=timedelta(minutes=1))

    assert (retry.base, retry.ceiling) == (2.0, 60.0)


def test_a_policy_without_a_ceiling_has_the_longest_pause_there_is() -> None:
    assert Retry(ceiling=math.inf).pause(5000, lambda: 1.0) == LONGEST


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        (3, Retry(times=3)),
        (0, Retry(times=0)),
        (True, Retry()),
        (False, None),
        (None, None),
        (Retry(7), Retry(times=7)),
    ],
)
def test_a_tasks_retry_may_be_a_number_or_yes_or_no(given: Any, policy: Retry | None) -> None:
    assert as_retry(given) == policy


@pytest.mark.parametrize("given", [-1, 1.5, "3", Retry, [ValueError], ValueError], ids=repr)
def test_what_is_no_policy_is_refused(given: Any) -> None:
    with pytest.raises(InvalidValue, match=r"retry is Retry\(...\), how many times"):
        as_retry(given)


async def never(_: BaseException) -> bool:
    return False


def test_no_arithmetic_of_pauses_goes_astray() -> None:
    for factor in (1, 1.5, 2, 10, 1e300):
        for base in (0, 1e-9, 1, 1e9):
            policy = Retry(times=1_000_000, base=base, factor=factor, ceiling=3600)
            for attempt in (1, 2, 10, 100, 1_100, 65_536, 1_000_000):
                assert 0 <= policy.pause(attempt, lambda: 0.999_999) <= 3600
                assert policy.pause(attempt, lambda: 0.0) == 0
    drawn = [Retry(base=60, factor=1).pause(1) for _ in range(20_000)]
    assert 29 < sum(drawn) / len(drawn) < 31  # full jitter: half of it on the average


def test_times_are_three_unless_time_decides() -> None:
    assert Retry().most == 4
    assert Retry(for_seconds=60).most > 1_000_000
    assert Retry(2, for_seconds=60).most == 3
    assert Retry(for_seconds=timedelta(minutes=1)).for_seconds == 60
    assert Retry(for_seconds=None).most == 4


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"not_on": "text"}, "Retry's not_on is a class of exceptions"),
        ({"not_on": [5]}, "Retry's not_on is a class of exceptions"),
        ({"when": 5}, "Retry's when is a plain function that takes the exception"),
        ({"when": never}, "Retry's when is a plain function that takes the exception"),
        ({"for_seconds": -1}, "Retry's for_seconds is a number of seconds"),
        ({"times": -1}, "Retry's times"),
    ],
)
def test_a_policy_that_makes_no_sense_says_so(policy: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidValue, match=told):
        Retry(**policy)
