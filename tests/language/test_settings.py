"""Every setting, given anything: it is what was meant, or an error that names it."""

import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncq.client.task import TaskOptions
from asyncq.config import DEFAULTS, Config
from asyncq.errors import InvalidValue, UnknownOption, shown
from asyncq.language.policies import Retry
from asyncq.language.quantities import LONGEST, count, from_text, number, optional_seconds, seconds
from asyncq.language.topology import Binding, Exchange, Queue

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.timedeltas(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from([10**400, -(10**5000), math.inf, -math.inf, math.nan, "5", [5], object, -1]),
)


def queue_with(**fields: Any) -> Queue:
    return Queue("mail", **fields)


RECORDS: list[tuple[Callable[..., Any], str]] = [
    *((Config, name) for name in Config.__struct_fields__),
    *((Retry, name) for name in Retry.__struct_fields__),
    *((queue_with, name) for name in ("max_priority", "ttl", "max_length", "single_active")),
    *(
        (TaskOptions, name)
        for name in ("priority", "time_limit", "expires", "keep_result", "dead_letter")
    ),
]


@pytest.mark.parametrize(("record", "field"), RECORDS, ids=[name for _, name in RECORDS])
@given(value=odd)
def test_a_setting_is_made_plain_or_refused_by_its_name(
    record: Callable[..., Any], field: str, value: Any
) -> None:
    try:
        settings = record(**{field: value})
    except InvalidValue as error:
        text = str(error)
        assert field in text
        assert shown(value) in text
        assert len(text) < 500
    else:
        plain = getattr(settings, field)
        if isinstance(plain, int | float):
            assert type(plain) in {bool, int, float}
            assert 0 <= plain < math.inf
            assert not isinstance(value, str)
        assert msgspec.structs.replace(settings) == settings


@given(st.timedeltas(timedelta(0), timedelta(days=10_000)))
@example(timedelta(microseconds=1))
def test_a_timedelta_is_so_many_seconds(duration: timedelta) -> None:
    assert seconds("x", duration) == duration.total_seconds()


@pytest.mark.parametrize("value", [5, 5.0, Decimal(5), timedelta(seconds=5)], ids=repr)
def test_a_duration_is_a_float_whatever_it_was_written_as(value: Any) -> None:
    found = seconds("x", value)

    assert found == 5.0
    assert type(found) is float


@pytest.mark.parametrize("value", [-1, math.nan, "5", True, LONGEST + 1, 10**400, b"5"], ids=str)
def test_what_is_no_duration_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValue, match="x is a number of seconds or a timedelta"):
        seconds("x", value)
    with pytest.raises(InvalidValue, match="None for no limit"):
        optional_seconds("x", value)


def test_an_error_over_a_setting_says_what_is_allowed() -> None:
    with pytest.raises(
        InvalidValue, match=r"^Config's grace is a number of seconds or a timedelta, not negative"
    ):
        Config(grace=-1)
    with pytest.raises(InvalidValue, match=r"^Config's concurrency is from 1 to .*; not 0$"):
        Config(concurrency=0)
    with pytest.raises(InvalidValue, match=r"^queue mail: ttl .*; None is for ever; not inf$"):
        Queue("mail", ttl=math.inf)


def test_a_config_takes_timedeltas_and_gives_seconds() -> None:
    config = Config(grace=timedelta(minutes=1), keep_result=timedelta(days=1))

    assert (config.grace, config.keep_result) == (60.0, 86400.0)
    assert msgspec.structs.replace(config, lease=timedelta(seconds=3)).lease == 3.0


def test_the_defaults_are_allowed() -> None:
    assert Config(**msgspec.structs.asdict(DEFAULTS)) == DEFAULTS


@pytest.mark.parametrize(
    ("record", "field", "instead"),
    [
        (Config, "concurency", "do you mean concurrency"),
        (Config, "result_expires", "write keep_result"),
        (Config, "visibility_timeout", "write lease"),
        (Config, "broker_url", "App"),
        (Config, "zzz", "there are concurrency, grace"),
        (Retry, "max_retries", "write times"),
        (Retry, "max_attempts", "times, without the first"),
        (Retry, "max_delay", "write ceiling"),
        (Retry, "exceptions", "write on"),
        (Retry, "bse", "do you mean base"),
        (queue_with, "maxsize", "write max_length"),
        (queue_with, "durable", "nothing"),
        (queue_with, "exchange", "bindings="),
        (Exchange, "kinds", "do you mean kind"),
        (Binding, "routing_kei", "there are exchange, key"),
    ],
)
def test_an_unknown_field_names_the_right_one(
    record: Callable[..., Any], field: str, instead: str
) -> None:
    with pytest.raises(UnknownOption, match=instead):
        record(**{field: 1})


@pytest.mark.parametrize(("text", "plain"), [("5", 5.0), ("5.5", 5.5), ("0", 0.0)])
def test_a_number_in_a_text_is_read(text: str, plain: float) -> None:
    assert from_text(seconds, "x", text) == plain


@pytest.mark.parametrize("text", ["", "five", "-1", "nan", "inf", "1e400", "1_0_", "5s"])
def test_a_text_that_holds_no_such_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="x is"):
        from_text(seconds, "x", text)
    with pytest.raises(InvalidValue, match="x is"):
        from_text(count, "x", text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_without_a_bound_may_be_any(value: float) -> None:
    assert number("x", value, at_least=None) == value


@pytest.mark.parametrize(
    "bindings", ["news", 5, [5], None, [Exchange("news")], Exchange("news")], ids=repr
)
def test_bindings_that_are_none_are_refused(bindings: Any) -> None:
    with pytest.raises(InvalidValue, match="queue mail: bindings"):
        Queue("mail", bindings=bindings)


def test_one_binding_needs_no_list() -> None:
    binding = Binding(Exchange("news"), "key")

    assert queue_with(bindings=binding).bindings == (binding,)
