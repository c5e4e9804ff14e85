"""Users' values as bytes: arguments and return values, in MessagePack.

Everything msgspec knows travels as it is (dataclasses, structs, datetime, UUID, Decimal, enums,
bytes, unions), and pydantic models where pydantic is installed. What arrives without an annotation
arrives as plain data: a dataclass as a dictionary, a tuple as a list.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from asyncq.errors import ConfigurationError

MAX_DEPTH_HINT = "it is nested too deeply"
NOTHING = msgspec.Raw(b"\xc0")  # None


def encode(value: Any) -> msgspec.Raw:
    """``value`` as bytes.

    Raises:
        TypeError: it, or something in it, has no representation; says what.
    """
    if value is None:
        return NOTHING
    try:
        return msgspec.Raw(_encode(value))
    except (OverflowError, ValueError, RecursionError) as error:
        why = MAX_DEPTH_HINT if isinstance(error, RecursionError) else str(error)
        raise TypeError(f"a value of {type(value).__name__} cannot be sent: {why}") from error


def decoder(annotation: Any) -> Callable[[msgspec.Raw | bytes], Any]:
    """A function from bytes to a value of the annotated type.

    The function raises `msgspec.ValidationError` (a value of another type, with its path) or
    `msgspec.DecodeError` (no MessagePack).

    Raises:
        ConfigurationError: no value of this type can be told from its bytes; says why.
    """
    try:
        unknown = _first_unknown(msgspec.inspect.type_info(annotation))
        if unknown is None:
            return msgspec.msgpack.Decoder(annotation, dec_hook=_from_plain).decode
    except TypeError as error:
        raise ConfigurationError(str(error)) from error
    raise ConfigurationError(
        f"values of {unknown.__qualname__} cannot be made from bytes: use a dataclass, a "
        "msgspec.Struct, a pydantic model, or plain data"
    )


def _is_pydantic(cls: Any) -> bool:
    return hasattr(cls, "__pydantic_validator__")


def _to_plain(value: Any) -> Any:
    if _is_pydantic(type(value)):
        return value.model_dump(mode="json")
    raise TypeError(
        f"a value of {type(value).__qualname__} cannot be sent: use a dataclass, a msgspec.Struct, "
        "a pydantic model, or plain data"
    )


def _from_plain(cls: type, plain: Any) -> Any:
    # msgspec turns the ValueError that pydantic raises into a ValidationError with the path.
    return cls.model_validate(plain)  # type: ignore[attr-defined] # only pydantic models come here


def _first_unknown(info: Any) -> type | None:
    """The first class in a type's description that neither msgspec nor pydantic knows."""
    seen: set[int] = set()
    todo = [info]
    while todo:
        node = todo.pop()
        if isinstance(node, tuple | list):
            todo.extend(node)  # pyright: ignore[reportUnknownArgumentType] - of any nodes
        elif isinstance(node, msgspec.inspect.CustomType):
            if not _is_pydantic(node.cls):
                return node.cls
        elif isinstance(node, msgspec.Struct) and id(node) not in seen:
            seen.add(id(node))
            todo.extend(getattr(node, name) for name in node.__struct_fields__)
    return None


_encode = msgspec.msgpack.Encoder(enc_hook=_to_plain).encode
