"""Messages, outcomes and records, as hypothesis makes them."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from asyncq.language.message import (
    Cancelled,
    Expired,
    Failed,
    Failure,
    Header,
    Ignored,
    Limits,
    Message,
    Outcome,
    Succeeded,
)
from asyncq.language.record import Record

moments = st.floats(0, 4e9)
names = st.from_regex(r"[A-Za-z0-9_.:<>-]{1,200}", fullmatch=True)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def raw(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[msgspec.Raw]:
    """Values, encoded."""
    return strategy.map(lambda value: msgspec.Raw(msgspec.msgpack.encode(value)))


headers: st.SearchStrategy[Header] = st.builds(
    Header,
    id=st.from_regex(r"[!-~]{1,128}", fullmatch=True),
    queue=st.from_regex(r"[A-Za-z0-9_.-]{1,128}", fullmatch=True),
    priority=st.integers(0, 9),
    eta=st.none() | moments,
    expires=st.none() | moments,
    reply_to=st.none() | names,
    sent_at=moments,
    headers=st.dictionaries(st.text(), values, max_size=4),
)

limits_of_time = st.none() | st.just(float("inf")) | st.floats(0.001, 1e9)
messages: st.SearchStrategy[Message] = st.builds(
    Message,
    header=headers,
    task=names,
    args=raw(st.lists(values, max_size=4)),
    kwargs=raw(st.dictionaries(st.text(), values, max_size=4)),
    attempt=st.integers(1, 2**31),
    root=st.none() | names,
    parent=st.none() | names,
    keep_result=st.none() | st.floats(0, 1e9),
    limits=st.none() | st.builds(Limits, limits_of_time, limits_of_time),
)

outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Succeeded, raw(values)),
    st.builds(Failed, st.builds(Failure, st.text(), st.text(), st.text())),
    st.builds(Cancelled, st.text()),
    st.builds(Expired, st.text()),
    st.builds(Ignored, st.text()),
)

records: st.SearchStrategy[Record] = st.builds(
    Record,
    id=names,
    outcome=outcomes,
    task=names,
    attempt=st.integers(1, 2**31),
    started_at=moments,
    finished_at=moments,
    worker=st.text(),
    keep=st.floats(0, 1e9),
    reply_to=st.none() | names,
)
