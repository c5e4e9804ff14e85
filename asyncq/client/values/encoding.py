"""Users' values as bytes: arguments and return values, in MessagePack.

Everything msgspec knows travels as it is (dataclasses, structs, datetime, UUID, Decimal, enums,
bytes, unions), what `asyncq.client.values.plain` knows as text, and pydantic's types where pydantic
is installed. What arrives without an annotation arrives as plain data: a dataclass as a dictionary,
a tuple as a list. A moment with a time zone arrives as the same moment in UTC; what has none loses
its ``fold``.
"""

import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast, get_origin

import msgspec

from asyncq.client.values.marks import mark_deque, read_mark
from asyncq.client.values.plain import Unsendable, as_plain, from_plain, is_known

MAX_DEPTH_HINT = "it is nested too deeply"
NOTHING = msgspec.Raw(b"\xc0")  # None

Encode = Callable[[Any], msgspec.Raw]
Decode = Callable[[msgspec.Raw | bytes], Any]


def encode(value: Any) -> msgspec.Raw:
    """``value`` as bytes.

    Raises:
        TypeError: it, or something in it, has no representation; says what.
    """
    if value is None:
        return NOTHING
    return _guarded(write, value)


def encode_sparsely(value: Any) -> msgspec.Raw:
    """As `encode`; fields of pydantic's models that were not set are not set where they arrive.

    For who reads them as what they are: as plain data they would be missing.
    """
    return _guarded(_encode_sparsely, value)


def encode_with(dump: Callable[[Any], Any], value: Any) -> msgspec.Raw:
    """As `encode`, of what ``dump`` makes of the value."""
    return _guarded(lambda given: write(dump(given)), value)


def decoder(annotation: Any) -> Decode:
    """A function from bytes to a value of the annotated type, of which `hooked` has no doubts.

    The function raises `msgspec.ValidationError` (a value of another type, with its path),
    `msgspec.DecodeError` (no MessagePack), or what a class of the user's raises.
    """
    return msgspec.msgpack.Decoder(annotation, dec_hook=_from_plain, ext_hook=read_mark).decode


def is_pydantic(cls: type) -> bool:
    """Whether pydantic made this class, or it says itself what pydantic is to do with it."""
    if hasattr(cls, "__pydantic_validator__"):
        return True
    return hasattr(cls, "__get_pydantic_core_schema__") and "pydantic" in sys.modules


def adapter_of(cls: type) -> Any:
    """What pydantic makes of a class, an `asyncq.client.values.models.Adapter`.

    Raises:
        NameError: the class names something that is not defined (yet).
        ConfigurationError: pydantic lacks what it needs for it.
    """
    from asyncq.client.values import models  # noqa: PLC0415 - only who uses pydantic imports it

    return models.adapter_of(cls)


def can_be_made(cls: type) -> bool:
    """Whether values of this class, which msgspec does not know, can be made from plain data."""
    return is_pydantic(cls) or is_known(cls)


def _guarded(encode_it: Callable[[Any], bytes], value: Any) -> msgspec.Raw:
    try:
        return msgspec.Raw(encode_it(value))
    except (Unsendable, KeyboardInterrupt):
        raise
    # The value is the user's, and so is what its methods raise.
    except BaseException as error:
        name = type(value).__qualname__
        raise Unsendable(f"a value of {name} cannot be sent: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    match error:
        case RecursionError():
            return MAX_DEPTH_HINT
        case OverflowError():
            return f"{error}: send it as text, or as bytes"
        case ValueError() if type(error).__module__ == "builtins":
            return str(error)
        case _:
            return f"{type(error).__qualname__} was raised"


def _to_plain(value: Any, *, sparse: bool = False) -> Any:
    cls = cast("type[Any]", type(value))
    if is_pydantic(cls):
        return adapter_of(cls).dump(value, sparse=sparse)
    if issubclass(cls, deque):
        return mark_deque(value, _encode_sparsely if sparse else write)
    return as_plain(value)


def _from_plain(annotation: Any, plain: Any) -> Any:
    # msgspec turns a ValueError into a ValidationError with the path.
    cls = get_origin(annotation) or annotation
    if is_known(cls):
        return from_plain(annotation, plain, _convert)
    return adapter_of(annotation).load(plain)


def _convert(plain: Any, annotation: Any) -> Any:
    return msgspec.convert(plain, annotation, dec_hook=_from_plain)


write = msgspec.msgpack.Encoder(enc_hook=_to_plain).encode
"""A value's bytes; raises whatever its classes do."""
_encode_sparsely = msgspec.msgpack.Encoder(enc_hook=partial(_to_plain, sparse=True)).encode
read_plain: Decode = decoder(Any)
"""Bytes as plain data."""
