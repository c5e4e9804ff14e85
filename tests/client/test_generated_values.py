"""Whatever the types and values: what is sent is what arrives."""

import dataclasses
import enum
import uuid
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict, Field, SecretStr

from asyncq.client.values.fidelity import find_loss
from asyncq.client.values.shapes import shape_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(),
    str: st.text(),
    bytes: st.binary(),
    bool: st.booleans(),
    date: st.dates(),
    datetime: st.datetimes(),
    time: st.times(),
    timedelta: st.timedeltas(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    uuid.UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    SecretStr: st.text().map(SecretStr),
}
KEYS = [int, str, date, uuid.UUID, Colour]


@st.composite
def typed_values(draw: st.DrawFn, depth: int = 2) -> tuple[Any, st.SearchStrategy[Any]]:
    """An annotation, and a strategy for its values."""
    kind = draw(st.sampled_from(["scalar"] * 3 + ["list", "dict", "set", "tuple", "optional"]))
    if depth == 0 or kind == "scalar":
        cls = draw(st.sampled_from(list(SCALARS)))
        return cls, SCALARS[cls]
    key: Any = draw(st.sampled_from(KEYS))
    annotation, values = draw(typed_values(depth=depth - 1))
    match kind:
        case "list":
            return list[annotation], st.lists(values, max_size=3)
        case "dict":
            return dict[key, annotation], st.dictionaries(SCALARS[key], values, max_size=3)
        case "set":
            return set[key], st.sets(SCALARS[key], max_size=3)
        case "tuple":
            return tuple[key, annotation], st.tuples(SCALARS[key], values)
        case _:
            return annotation | None, st.none() | values


NAMES = ["alpha", "beta", "gamma", "copy_of"]


def make_model(fields: dict[str, Any], *, strict: bool, aliases: bool) -> Any:
    described: dict[str, Any] = {
        name: (hint, Field(alias=f"{name}_alias" if aliases else None))
        for name, hint in fields.items()
    }
    config = ConfigDict(strict=strict, extra="forbid")
    return pydantic.create_model("Made", __config__=config, **described)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.booleans(), st.booleans())
def test_generated_models_arrive_as_they_are(
    data: st.DataObject, strict: bool, aliases: bool
) -> None:
    fields = {name: data.draw(typed_values()) for name in NAMES}
    cls = make_model(
        {name: hint for name, (hint, _) in fields.items()}, strict=strict, aliases=aliases
    )
    suffix = "_alias" if aliases else ""
    made = cls(**{name + suffix: data.draw(values) for name, (_, values) in fields.items()})

    for annotation, value in ((cls, made), (list[cls], [made]), (cls | None, made)):
        shape = shape_of(annotation)
        shape.check(value)
        arrived = shape.decode(shape.encode(value))
        assert find_loss(value, arrived, strict=True) is None


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_generated_records_arrive_as_they_are(data: st.DataObject) -> None:
    fields = {name: data.draw(typed_values()) for name in NAMES}
    hints = [(name, hint) for name, (hint, _) in fields.items()]
    record: Any = dataclasses.make_dataclass("Record", hints)
    struct: Any = msgspec.defstruct("Struct", hints)
    given_ = {name: data.draw(values) for name, (_, values) in fields.items()}

    for cls in (record, struct):
        shape = shape_of(cls)
        shape.check(cls(**given_))
        arrived = shape.decode(shape.encode(cls(**given_)))
        assert find_loss(cls(**given_), arrived, strict=True) is None
